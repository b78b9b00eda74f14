"""The stages as a small graph: each is keyed by what it depends on, and a finished one is not repeated.

A stage's directory holds `stage.json`: the configuration and the upstream digests it depends on, and
whether it is finished. The same command goes on where it stopped; another configuration is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import LoggingConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig

from rgcluster.config import Config
from rgcluster.data.attributes import domain_columns
from rgcluster.data.faces import load_face_set
from rgcluster.data.shards import ShardSet
from rgcluster.data.sources import UNLABELLED
from rgcluster.data.stream import ImageSource, open_source
from rgcluster.errors import ConfigError, DataError, RunConflict, root_cause
from rgcluster.evaluate.figures import draw_figures
from rgcluster.evaluate.report import write_report
from rgcluster.evaluate.run import evaluate_run
from rgcluster.model.handover import networks_digest
from rgcluster.progress import Update, console, follow, task
from rgcluster.session import interruptible, resources
from rgcluster.storage import Location
from rgcluster.store.snapshot import read_manifest
from rgcluster.store.store import RayStore
from rgcluster.train.embed import build_store
from rgcluster.train.loop import MODEL, raise_failure, train_worker
from rgcluster.train.metrics import read_metrics
from rgcluster.train.stage import Run
from rgcluster.versions import package_versions
from rgcluster.weights import find

__all__ = ["SECTIONS", "SNAPSHOT", "STAGE", "Pipeline"]

STAGE = "stage.json"
SNAPSHOT = "snapshot"
RUN_MANIFEST = "manifest.json"
KEPT_CHECKPOINTS = 2
SECTIONS = {
    "translation": ("data", "model", "translation"),
    "retrieval": ("data", "model", "retrieval"),
    "store": ("store",),
    "guidance": ("data", "model", "guidance"),
    "evaluation": ("data", "model", "evaluation"),
}
"""The stages in order, and the sections of the configuration that each depends on."""


class Pipeline:
    """One run directory and the stages in it."""

    def __init__(self, run: Location, config: Config, shards: ShardSet) -> None:
        self.run, self.config, self.shards = run, config, shards
        self._sources: dict[str, ImageSource] = {}

    def prepare(self) -> None:
        """Write the run's configuration and manifest; refuse a run begun with other data or another configuration."""
        self._check_domains()
        begun = {"seed": self.config.seed, "shards": self.shards.digest}
        self._enter("run", begun, self.run / RUN_MANIFEST)
        for name, sections in SECTIONS.items():
            file = self.run / name / STAGE
            if file.exists():  # digests of upstream networks are compared when the stage's turn comes
                before = {
                    key: value for key, value in file.read_json()["depends"].items() if key not in SECTIONS
                }
                self._compare(name, before, self._depends(*sections))
        (self.run / "config.yaml").write_text(self.config.to_yaml())
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
        directory = self.run / "store"

        def build() -> None:
            with task("store") as update:
                gpu = resources(self.config.cluster).gpu
                build_store(
                    self.config, self.retrieval_set(), self._model("translation"), self._model("retrieval"),
                    directory / SNAPSHOT, 0.1 if gpu else 0.0, lambda done, total: update(done, total, ""),
                )  # fmt: skip

        self._once("store", depends, build)

    def guidance(self) -> None:
        """Stage 3."""
        self.store()
        snapshot = self.run / "store" / SNAPSHOT
        depends = self._depends(*SECTIONS["guidance"]) | {
            "translation": self._digest("translation"),
            "store": read_manifest(snapshot).digest,
        }
        if self._finished("guidance", depends):
            return
        count = read_manifest(snapshot).count - int(self.config.guidance.exclude_self)
        if self.config.guidance.retrieval_count > count:
            raise DataError(
                f"guidance.retrieval_count = {self.config.guidance.retrieval_count}, but the store holds only "
                f"{count} images besides the query's own; lower it or add images"
            )
        name = f"{self.run.name}-{self.shards.digest}"
        with self._store(name):
            upstream = {stage: self._model(stage) for stage in ("translation", "retrieval")}
            self._train("guidance", depends, {**upstream, "store": name, **self._perceptual("guidance")})

    def evaluation(self) -> None:
        """Measure every model; write `evaluation/results.json` and the figures."""
        self.guidance()
        depends = self._depends(*SECTIONS["evaluation"]) | {"guidance": self._digest("guidance")}
        if self._finished("evaluation", depends):
            return
        share = resources(self.config.cluster)
        actors = share.workers if share.gpu else max(1, int(ray.cluster_resources().get("CPU", 1)))
        train, test = self.source("train"), self.source("test")

        def measure() -> None:
            name = f"{self.run.name}-{self.shards.digest}-evaluation"
            with task("evaluation") as update, self._store(name) as store:
                evaluate_run(
                    self.config,
                    self.run,
                    name,
                    train,
                    test,
                    package_versions(),
                    gpu=share.gpu,
                    workers=actors,
                    progress=update,
                )
                faces = load_face_set(Path(self.shards.source))
                draw_figures(self.config, self.run, store, test, train, faces, gpu=share.gpu)

        self._once("evaluation", depends, measure)

    def report(self) -> Location:
        """Evaluate, then write `report/index.html`."""
        self.evaluation()
        return write_report(self.config, self.run)

    def source(self, split: str) -> ImageSource:
        """Return the images of a split, opened once; training takes the configured fraction."""
        if split not in self._sources:
            fraction = self.config.data.fraction if split == "train" else 1.0
            self._sources[split] = open_source(self.shards, self.config.data, split, fraction)
        return self._sources[split]

    def retrieval_set(self) -> list[ImageSource]:
        """Return the images that the store holds: those that train, or everything but the test and val sets."""
        if self.config.store.images == "train":
            return [self.source("train")]
        # What only the store needs is read once, so it is not kept decoded.
        uncached = self.config.data.model_copy(update={"cache_mib": 0})
        whole = self.config.data.fraction >= 1
        train = self.source("train") if whole else open_source(self.shards, uncached, "train")
        rest = [UNLABELLED] if self.shards.splits.get(UNLABELLED) else []
        return [train, *(open_source(self.shards, uncached, split) for split in rest)]

    def seconds(self) -> dict[str, float]:
        """Return how long each finished stage took, over all its starts."""
        files = {name: self.run / name / STAGE for name in SECTIONS}
        return {name: file.read_json()["seconds"] for name, file in files.items() if file.exists()}

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
        """Start the store's actors; they end with the `with` block."""
        return RayStore.start(self.run / "store" / SNAPSHOT, name, timeout=self.config.store.timeout_s)

    def _depends(self, *sections: str) -> dict[str, Any]:
        dump = self.config.model_dump(mode="json")
        values = _flatten({name: dump[name] for name in sections})
        # How the work is watched is no part of what it yields.
        return {
            "seed": self.config.seed,
            "shards": self.shards.digest,
            **{key: value for key, value in values.items() if key.rsplit(".", 1)[-1] not in _WATCHING},
        }

    def _model(self, stage: str) -> str:
        return str(self.run / stage / MODEL)

    def _digest(self, stage: str) -> str:
        return networks_digest(self.run / stage / MODEL)

    def _enter(self, name: str, depends: dict[str, Any], file: Location) -> dict[str, Any]:
        """Return the stage's record; RunConflict where it was begun with something else."""
        if not file.exists():
            record = {"depends": depends, "finished": False, "seconds": 0.0, "versions": package_versions()}
            file.write_json(record)
            return record
        record = file.read_json()
        self._compare(name, record["depends"], depends)
        return dict(record)

    def _compare(self, name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
        for key in sorted(set(before) | set(now)):
            old, new = before.get(key), now.get(key)
            if old != new:
                where = self.run if name == "run" else self.run / name
                raise RunConflict(
                    f"{where} was made with {key} = {old}, now {new}; "
                    f"use another --run, or remove {where} to make it anew"
                )

    def _finished(self, name: str, depends: dict[str, Any]) -> bool:
        return bool(self._enter(name, depends, self.run / name / STAGE)["finished"])

    def _once(self, name: str, depends: dict[str, Any], work: Callable[[], None]) -> None:
        if self._finished(name, depends):
            return
        file, start = self.run / name / STAGE, time.monotonic()
        finished = False
        try:
            work()
            finished = True
        finally:
            record = file.read_json()
            record["seconds"] += time.monotonic() - start
            record["finished"] = finished
            file.write_json(record)

    def _train(self, name: str, depends: dict[str, Any], upstream: dict[str, str]) -> None:
        self._once(name, depends, lambda: self._fit(name, upstream))

    def _fit(self, name: str, upstream: dict[str, str]) -> None:
        run = Run(self.config, str(self.run), name, self.source("train"), upstream)
        share = resources(self.config.cluster)
        # On CPUs stage 2 shares the cores with its triplet generators.
        busy = self.config.retrieval.generators if name == "retrieval" and not share.gpu else 0
        settings = getattr(self.config, name)
        if settings.batch_size > len(run.source.index):
            raise DataError(
                f"{name}.batch_size = {settings.batch_size} is larger than the "
                f"{len(run.source.index)} training images; "
                "lower it or add images"
            )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"run": run, "gpu": share.gpu, "threads": max(1, share.threads - busy)},
            torch_config=TorchConfig(backend="nccl" if share.gpu else "gloo", timeout_s=600),
            scaling_config=ScalingConfig(
                num_workers=share.workers,
                use_gpu=share.gpu,
                resources_per_worker={"CPU": share.cpus_per_worker},
            ),
            run_config=RunConfig(  # type: ignore[arg-type]
                name="checkpoints",
                storage_path=str(run.directory),
                failure_config=FailureConfig(
                    max_failures=self.config.cluster.max_failures, controller_failure_limit=3
                ),
                checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        (run.directory / "failure.json").remove()
        with task(name) as update, follow(lambda: _show(run.directory, update)):
            try:
                with interruptible():
                    trainer.fit()
            except Exception as error:
                raise_failure(run.directory)
                raise root_cause(error) from None
            raise_failure(run.directory)


_WATCHING = {"report_every", "checkpoint_every", "sample_every", "timeout_s", "cache_mib", "generators"}


def _show(directory: Location, update: Update) -> None:
    lines = read_metrics(directory)
    if lines:
        last = lines[-1]
        update(last["step"], last["steps"], f"{last['images_per_second']:.0f} images/s")


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
