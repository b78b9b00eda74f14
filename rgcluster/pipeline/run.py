"""The stages as a small graph: each is keyed by what it depends on, and a finished one is not repeated.

The same command goes on where it stopped; another configuration is refused (`rundir.py`). Runs that share a
directory of stages find there what another has finished, and leave there what others may use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from ray.train import LoggingConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig, RunConfig

from rgcluster.base.attributes import domain_columns
from rgcluster.base.events import add_event, read_events
from rgcluster.base.notices import read_notices
from rgcluster.base.placement import Placement
from rgcluster.base.progress import Update, console, follow, task
from rgcluster.base.rundir import (
    CONFIG,
    STAGE,
    binding,
    enter,
    is_finished,
    link_stage,
    refuse_other,
    stage_directory,
    work_once,
)
from rgcluster.base.session import interruptible, placement
from rgcluster.base.storage import Location, digest_json
from rgcluster.base.versions import package_versions
from rgcluster.base.weights import find
from rgcluster.config import Config, keys_outside_digest
from rgcluster.data.shards import ShardSet
from rgcluster.data.sources import UNLABELLED
from rgcluster.data.stream import ImageSource, open_source
from rgcluster.errors import ConfigError, DataError, OutOfMemory, RGClusterError, StorageError, root_cause
from rgcluster.evaluate.figures.failures import worst_inputs
from rgcluster.evaluate.figures.figures import FIGURES, draw_figures
from rgcluster.evaluate.measure.evaluation import Evaluation, evaluate_run
from rgcluster.evaluate.measure.protocol import make_protocol
from rgcluster.evaluate.measure.queries import load_precision, measure_precision
from rgcluster.evaluate.measure.reference import make_reference
from rgcluster.evaluate.report.report import write_report
from rgcluster.model.handover import networks_digest
from rgcluster.store.disk.snapshot import read_manifest
from rgcluster.store.shard.shard import IndexSettings
from rgcluster.store.store import RayStore, list_stores
from rgcluster.train.embed import build_store
from rgcluster.train.guards import is_out_of_memory, memory_advice
from rgcluster.train.loop import MODEL, raise_failure, train_worker
from rgcluster.train.preflight import check_storage
from rgcluster.train.records.metrics import read_metrics
from rgcluster.train.stage import Run
from rgcluster.train.watch import WorkerWatch
from rgcluster.translate.finished import store_name

__all__ = ["SECTIONS", "SNAPSHOT", "STAGE", "Pipeline", "Shared", "flatten"]

SNAPSHOT = "snapshot"
RUN_MANIFEST = "manifest.json"
_TOLD_FROM = 20_000
"""Images whose opening takes long enough to say how far it is."""
SECTIONS = {
    "translation": ("data", "model", "translation"),
    "retrieval": ("data", "model", "retrieval"),
    "store": ("store",),
    "guidance": ("data", "model", "guidance"),
    "precision": (),
    "reference": (),
    "evaluation": ("data", "model", "evaluation"),
}
"""The stages in order, and the sections of the configuration that each depends on.

`precision` and `reference` depend on the protocol of the evaluation instead.
"""


@dataclass
class Shared:
    """What several runs of the same shards share: a directory of stages, and images at hand.

    A stage lies at `<stages>/<digest of what it depends on>/<stage>`, unless `base`, an ordinary run, has it
    already. `trials` runs share the cluster.
    """

    stages: Location
    base: Location
    sources: dict[tuple[str, float], ImageSource] = field(default_factory=dict)
    trials: int = 1

    def place(self, stage: str, depends: Mapping[str, Any]) -> Location:
        """Return where the stage with these dependencies lies, or will lie."""
        own = self.base / stage / STAGE
        if own.exists():
            record = own.read_json()
            if record["finished"] and record["depends"] == depends:
                return self.base / stage
        return self.stages / digest_json({"stage": stage, **depends}) / stage


class Pipeline:
    """One run directory and the stages in it."""

    def __init__(self, run: Location, config: Config, shards: ShardSet, shared: Shared | None = None) -> None:
        self.run, self.config, self.shards, self.shared = run, config, shards, shared
        self._sources = shared.sources if shared else {}
        self._protocol: dict[str, Any] = {}

    def prepare(self) -> None:
        """Write the run's configuration and manifest; refuse a run begun with other data or another configuration."""
        self._check_domains()
        self._placement()
        enter(self.run, {"seed": self.config.seed, "shards": self.shards.digest}, RUN_MANIFEST)
        for name, sections in SECTIONS.items():
            file = self.run / name / STAGE
            if file.exists() and sections:  # digests of upstream networks are compared at the stage's turn
                record = file.read_json()
                before = {key: value for key, value in record["depends"].items() if key not in SECTIONS}
                refuse_other(self.run / name, before, binding(record, self._depends(*sections)))
        (self.run / CONFIG).write_text(self.config.to_yaml())
        (self.run / "data.json").write_json({"shards": self.shards.location, "dataset": self.shards.dataset})

    def translation(self) -> None:
        """Stage 1."""
        self._train("translation", self._depends(*SECTIONS["translation"]), self._perceptual("translation"))

    def retrieval(self) -> None:
        """Stage 2."""
        self.translation()
        depends = self._depends(*SECTIONS["retrieval"]) | {"translation": self._digest("translation")}
        self._train("retrieval", depends, {"translation": self._model("translation")})

    def store(self) -> None:
        """Embed the retrieval set."""
        self.retrieval()
        depends = self._depends(*SECTIONS["store"]) | {"retrieval": self._digest("retrieval")}
        directory = self._enter("store", depends)

        def build() -> None:
            placed, images = self._placement(), self.retrieval_set()
            with task(self._title("store")) as update:
                build_store(
                    self.config, images, self._model("translation"), self._model("retrieval"),
                    directory / SNAPSHOT, placed.embedders, placed.gpu, update,
                )  # fmt: skip

        self._once("store", directory, depends, build)

    def guidance(self) -> None:
        """Stage 3."""
        self.store()
        depends = self.guidance_depends()
        if is_finished(self._enter("guidance", depends), depends):
            return
        count = read_manifest(self._snapshot()).count - int(self.config.guidance.exclude_self)
        if self.config.guidance.retrieval_count > count:
            raise DataError(
                f"guidance.retrieval_count = {self.config.guidance.retrieval_count}, but the store holds only "
                f"{count} images besides the query's own; lower it or add images"
            )
        name = self._store_name("guidance")
        with self._store(name) as store:
            upstream = {stage: self._model(stage) for stage in ("translation", "retrieval")}
            self._train("guidance", depends, {**upstream, "store": name, **self._perceptual("guidance")})
            self._tell_restarts(store)

    def guidance_depends(self) -> dict[str, Any]:
        """Return what stage 3 depends on; the store must be there."""
        return self._depends(*SECTIONS["guidance"]) | {
            "translation": self._digest("translation"),
            "store": read_manifest(self._snapshot()).built_digest,
        }

    def precision(self) -> None:
        """Measure P@10 of the retrieval networks."""
        self.retrieval()
        depends = self._measuring() | {
            "retrieval": self._digest("retrieval"),
            "negatives": list(self.config.retrieval.negatives),
        }
        directory = self._enter("precision", depends)

        def measure() -> None:
            train, test = self._open("train"), self._open("test")
            with task(self._title("precision")):
                measure_precision(self.config, self.run, directory, train, test, self._placement().gpu)

        self._once("precision", directory, depends, measure)

    def reference(self) -> None:
        """Train the judge and measure the real images: all labelled ones, whatever share of them trains."""
        depends = self._measuring()
        directory = self._enter("reference", depends)

        def make() -> None:
            placed, train, test = self._placement(), self._open("train"), self._open("test")
            with task(self._title("reference")) as update:
                make_reference(
                    self.config, directory, train, test,
                    gpu=placed.gpu, workers=placed.measurers, progress=update,
                )  # fmt: skip

        self._once("reference", directory, depends, make)

    def evaluation(self) -> None:
        """Measure every model; write `evaluation/results.json`."""
        self.guidance()
        self.precision()
        self.reference()
        depends = self._depends(*SECTIONS["evaluation"]) | {"guidance": self._digest("guidance")}
        if self.shared:  # values of several runs meet in tables: measured by one protocol
            depends |= self._measuring()
        directory = self._enter("evaluation", depends)

        def measure() -> None:
            rows, _ = load_precision(stage_directory(self.run, "precision"))
            name, measuring = self._store_name("evaluation"), self.measuring()
            with task(self._title("evaluation")) as update:
                evaluate_run(measuring, name, self._store, rows, package_versions(), update)

        self._once("evaluation", directory, depends, measure)

    def measuring(self) -> Evaluation:
        """Return what the evaluation works with; its stages must be finished."""
        placed = self._placement()
        kept = self.shared.base if self.shared else self.run
        return Evaluation(
            config=self.config, run=self.run, train=self._open("train"), test=self._open("test"),
            faces=self.shards.faces, protocol=self.protocol(),
            reference=stage_directory(self.run, "reference"), measured=kept / "measured",
            store_digest=read_manifest(self._snapshot()).digest, gpu=placed.gpu, workers=placed.measurers,
        )  # fmt: skip

    def figures(self) -> None:
        """Draw the figures, once."""
        self.evaluation()
        done = stage_directory(self.run, "evaluation") / FIGURES / "drawn.json"
        if done.exists():
            return
        faces, test, train = self.shards.faces, self._open("test"), self._open("train")
        with task(self._title("figures")), self._store(self._store_name("figures")) as store:
            worst, gpu = worst_inputs(self.measuring()), self._placement().gpu
            drawn = draw_figures(self.config, self.run, store, test, train, faces, gpu=gpu, worst=worst)
            done.write_json(drawn)

    def report(self) -> Location:
        """Evaluate, then write `report/index.html`."""
        self.figures()
        return write_report(self.config, self.run)

    def source(self, split: str) -> ImageSource:
        """Return the images of a split, opened once; training takes the configured fraction."""
        return self._open(split, self.config.data.fraction if split == "train" else 1.0)

    def protocol(self) -> dict[str, Any]:
        """Return the protocol by which this run is measured."""
        if not self._protocol:
            drawn = self.shards.faces is not None
            self._protocol = make_protocol(self.config, self.shards, drawn=drawn)
        return self._protocol

    def retrieval_set(self) -> dict[str, ImageSource]:
        """Return by split the images that the store holds: those that train, or all but the test and val sets."""
        if self.config.store.images == "train":
            return {"train": self.source("train")}
        # What only the store needs is read once, so it is not kept decoded.
        uncached = self.config.data.model_copy(update={"cache_mib": 0})
        opened = self._sources.get(("train", 1.0))
        train = opened or (
            self.source("train")
            if self.config.data.fraction >= 1
            else open_source(self.shards, uncached, "train")
        )
        rest = [UNLABELLED] if self.shards.splits.get(UNLABELLED) else []
        return {"train": train} | {split: open_source(self.shards, uncached, split) for split in rest}

    def seconds(self) -> dict[str, float]:
        """Return how long each finished stage took, over all its starts."""
        files = {name: stage_directory(self.run, name) / STAGE for name in SECTIONS}
        return {name: file.read_json()["seconds"] for name, file in files.items() if file.exists()}

    def _open(self, split: str, fraction: float = 1.0) -> ImageSource:
        key = (split, fraction)
        if key not in self._sources:
            told = self.shards.splits.get(split, 0) * fraction >= _TOLD_FROM
            with task(self._title(f"{split} images")) if told else nullcontext() as update:
                self._sources[key] = open_source(self.shards, self.config.data, split, fraction, update)
        return self._sources[key]

    def _check_domains(self) -> None:
        """Raise where the shards' attributes are not those of the configuration; say what would fit."""
        data, shards = self.config.data, self.shards
        if shards.one_hot and data.domains != "one-hot":
            names = ",".join(shards.attributes)
            raise ConfigError(
                f"{shards.location}: an image has exactly one of {names}; add --set data.domains=one-hot "
                f"--set data.attributes=[{names}] --set data.exclusive=[]"
            )
        domain_columns(shards.attributes, data.attributes, shards.location)

    def _perceptual(self, stage: str) -> dict[str, str]:
        """Return where VGG16's weights are, if the stage's perceptual loss wants them; without them it is off."""
        if not getattr(self.config, stage).loss.perceptual:
            return {}
        weights = find("vgg16")
        if weights is None:
            console.print(
                f"{stage}: no VGG16 weights found (`rgcluster weights` says where they may lie), "
                "so the perceptual loss is off"
            )
            return {}
        return {"vgg16": str(weights.path)}

    def _store(self, name: str) -> RayStore:
        """Connect to the store of that name, or start its actors, which end with the `with` block."""
        settings = self.config.store
        return RayStore.share(
            self._snapshot(), name, replicas=settings.replicas, index=IndexSettings.of(settings),
            timeout=settings.timeout_s,
        )  # fmt: skip

    def _store_name(self, use: str) -> str:
        """Return the name of the run's store if it is being served, else of one for this use alone."""
        served = store_name(self.run)
        return served if served in list_stores() else f"{served}-{use}"

    def _snapshot(self) -> Location:
        return stage_directory(self.run, "store") / SNAPSHOT

    def _depends(self, *sections: str) -> dict[str, Any]:
        dump = self.config.model_dump(mode="json")
        values = flatten({name: dump[name] for name in sections})
        outside = keys_outside_digest()
        return {
            "seed": self.config.seed,
            "shards": self.shards.digest,
            **{key: value for key, value in values.items() if key not in outside},
        }

    def _measuring(self) -> dict[str, Any]:
        return {"shards": self.shards.digest, "protocol": self.protocol()["digest"]}

    def _model(self, stage: str) -> str:
        return str(stage_directory(self.run, stage) / MODEL)

    def _digest(self, stage: str) -> str:
        return networks_digest(stage_directory(self.run, stage) / MODEL)

    def _enter(self, stage: str, depends: Mapping[str, Any]) -> Location:
        """Return the stage's directory, shared or the run's own."""
        if self.shared is None:
            return self.run / stage
        place = self.shared.place(stage, depends)
        link_stage(self.run, stage, place)
        return place

    def _title(self, stage: str) -> str:
        return f"{self.run.name} {stage}" if self.shared else stage

    def _placement(self) -> Placement:
        return placement(self.config, self.shared.trials if self.shared else 1)

    def _train(self, name: str, depends: dict[str, Any], upstream: dict[str, str]) -> None:
        directory = self._enter(name, depends)
        self._once(name, directory, depends, lambda: self._fit(name, directory, upstream))

    def _once(
        self, name: str, directory: Location, depends: Mapping[str, Any], work: Callable[[], None]
    ) -> None:
        """Do a stage's work unless it was finished before; the run's log tells how it went."""
        if is_finished(directory, depends):
            return
        start = time.monotonic()
        begun = any(event.stage == name for event in read_events(self.run))
        add_event(self.run, name, "resumed" if begun else "begun")
        try:
            work_once(directory, depends, work)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            add_event(
                self.run, name, "interrupted" if interrupted else "failed", str(root_cause(error))[:1000]
            )
            raise
        add_event(self.run, name, "finished", f"in {time.monotonic() - start:.0f} s")

    def _tell_restarts(self, store: RayStore) -> None:
        """Tell the run's log of shards that Ray had to start again."""
        with suppress(RGClusterError):
            for row in store.everyone():
                if row["restarts"]:
                    add_event(
                        self.run,
                        "guidance",
                        "shard restarted",
                        f"shard {row['shard']}, {row['restarts']} times",
                    )

    def _fit(self, name: str, directory: Location, upstream: dict[str, str]) -> None:
        share = self._placement().workers[name]
        run = Run(
            self.config, str(directory.parent), name, self.source("train"), upstream, share.gpus_per_generator
        )
        settings = getattr(self.config, name)
        if settings.batch_size > len(run.source.index):
            raise DataError(
                f"{name}.batch_size = {settings.batch_size} is larger than the "
                f"{len(run.source.index)} training images; "
                "lower it or add images"
            )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"run": run, "gpu": share.gpu, "threads": share.threads},
            torch_config=TorchConfig(
                backend="nccl" if share.gpu else "gloo", timeout_s=self.config.cluster.collective_timeout_s
            ),
            scaling_config=ScalingConfig(
                num_workers=share.range,  # type: ignore[arg-type]
                use_gpu=share.gpu,
                resources_per_worker=share.per_worker,
            ),
            run_config=RunConfig(  # type: ignore[arg-type]
                name="ray",
                **run.directory.for_ray,
                failure_config=FailureConfig(
                    max_failures=self.config.cluster.max_failures, controller_failure_limit=3
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
                callbacks=[WorkerWatch(str(self.run), name)],
            ),
        )
        check_storage(run.directory)
        (run.directory / "failure.json").remove()
        told = len(read_notices(run.directory))
        with (
            task(self._title(name)) as update,
            follow(lambda: _show(run.directory, update), 0.7 if run.directory.is_local else 5.0),
        ):
            try:
                with interruptible():
                    trainer.fit()
            except Exception as error:
                raise_failure(run.directory)
                if is_out_of_memory(error):
                    raise OutOfMemory(memory_advice(name, settings)) from None
                raise root_cause(error) from None
            finally:
                for notice in read_notices(run.directory)[told:]:
                    console.print(f"{name}: {notice}", soft_wrap=True)
                    add_event(self.run, name, "notice", notice)
            raise_failure(run.directory)


def _show(directory: Location, update: Update) -> None:
    try:
        lines = read_metrics(directory)
    except StorageError:  # the workers, who need it, say so
        return
    if lines:
        last = lines[-1]
        update(last["step"], last["steps"], f"{last['images_per_second']:.0f} images/s")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
