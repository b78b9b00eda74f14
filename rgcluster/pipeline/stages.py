"""The stages of a run as data: requirements, dependencies and work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rgcluster.base.logs.events import add_event
from rgcluster.base.progress import console, task
from rgcluster.base.rundir import SNAPSHOT, stage_directory
from rgcluster.base.storage import Location
from rgcluster.base.versions import package_versions
from rgcluster.base.weights import Weights, find
from rgcluster.config import Config
from rgcluster.errors import DataError, RGClusterError
from rgcluster.evaluate.measure.evaluation import evaluate_run
from rgcluster.evaluate.measure.queries import load_precision, measure_precision
from rgcluster.evaluate.measure.reference import make_reference
from rgcluster.pipeline.context import RunContext
from rgcluster.pipeline.fit import fit
from rgcluster.store.store import RayStore
from rgcluster.train.embed import build_store
from rgcluster.train.stage import Run

__all__ = ["STAGES", "PipelineStage"]

Work = Callable[[RunContext, Location], None]

MEASURING = ("fid-inception", "lpips-alex", "lpips-vgg", "resnet50", "efficientnet-lite0")
"""Pretrained weights that measurements may use."""


@dataclass(frozen=True)
class PipelineStage:
    """A stage of a run.

    needs: the stages that are finished before it, in order. sections: those of the configuration that it depends
    on. digests: the stages whose networks, or store, it was made with. A `measured` stage depends on the protocol
    of the evaluation.
    """

    name: str
    work: Work
    needs: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    measured: bool = False
    weights: tuple[str, ...] = ()
    """Pretrained weights that its workers look for."""

    def depends(self, context: RunContext, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the dependencies of the stage; `settings` are those of its sections, and `needs` must be finished."""
        depends = dict(settings) if self.sections else {}
        if self.measured:
            depends |= context.measured_by()
        depends |= {stage: context.digest(stage) for stage in self.digests}
        if self.name == "precision":
            depends["negatives"] = list(context.config.retrieval.negatives)
        return depends

    def weights_in_use(self, config: Config) -> list[Weights]:
        """Return the pretrained weights that the stage uses, as this machine finds them."""
        settings: Any = getattr(config, self.name, None)
        names = [name for name in self.weights if name != "vgg16" or settings.loss.perceptual]
        return [found for found in map(find, names) if found is not None]


def _translation(context: RunContext, directory: Location) -> None:
    _train(context, directory, "translation", _perceptual(context, "translation"))


def _retrieval(context: RunContext, directory: Location) -> None:
    _train(context, directory, "retrieval", {"translation": context.model("translation")})


def _store(context: RunContext, directory: Location) -> None:
    """Embed the retrieval set."""
    placed, images = context.placement(), context.retrieval_set()
    with task(context.title("store")) as update:
        build_store(
            context.config, images, context.model("translation"), context.model("retrieval"),
            directory / SNAPSHOT, placed.embedders, placed.gpu, update,
        )  # fmt: skip


def _guidance(context: RunContext, directory: Location) -> None:
    settings = context.config.guidance
    count = context.manifest().count - int(settings.exclude_self)
    if settings.retrieval_count > count:
        raise DataError(
            f"guidance.retrieval_count = {settings.retrieval_count}, but the store holds only "
            f"{count} images besides the query's own; lower it or add images"
        )
    name = context.name_of_store("guidance")
    with context.start_store(name) as store:
        upstream = {stage: context.model(stage) for stage in ("translation", "retrieval")}
        upstream |= {"store": name, **_perceptual(context, "guidance")}
        _train(context, directory, "guidance", upstream)
        _log_restarts(context, store)


def _precision(context: RunContext, directory: Location) -> None:
    """Measure P@10 of the retrieval networks."""
    train, test = context.measured("train"), context.measured("test")
    with task(context.title("precision")) as update:
        gpu = context.placement().gpu
        measure_precision(context.config, context.run, directory, train, test, gpu, update)


def _reference(context: RunContext, directory: Location) -> None:
    """Train the judge and measure the real images: all labelled ones, whatever `data.fraction`."""
    placed, train, test = context.placement(), context.measured("train"), context.measured("test")
    with task(context.title("reference")) as update:
        make_reference(
            context.config, directory, train, test, gpu=placed.gpu, workers=placed.measurers, progress=update
        )


def _evaluation(context: RunContext, directory: Location) -> None:
    """Measure every model; write `evaluation/results.json`."""
    rows, queries = load_precision(stage_directory(context.run, "precision"))
    name, measuring = context.name_of_store("evaluation"), context.measuring()
    with task(context.title("evaluation")) as update:
        evaluate_run(measuring, name, context.start_store, rows, queries, package_versions(), update)


def _train(context: RunContext, directory: Location, name: str, upstream: dict[str, str]) -> None:
    share = context.placement().workers[name]
    stage = Run(
        context.config, str(directory.parent), name, context.source("train"), upstream,
        share.gpus_per_generator,
    )  # fmt: skip
    fit(stage, share, context.run, context.title(name))


def _perceptual(context: RunContext, stage: str) -> dict[str, str]:
    """Return VGG16's weights if the stage has a perceptual loss, which is off without them."""
    if not getattr(context.config, stage).loss.perceptual:
        return {}
    weights = find("vgg16")
    if weights is None:
        console.print(
            f"{stage}: no VGG16 weights found (`rgcluster weights` says where they may lie), "
            "so the perceptual loss is off"
        )
        return {}
    return {"vgg16": str(weights.path)}


def _log_restarts(context: RunContext, store: RayStore) -> None:
    """Add an event for each shard that Ray restarted."""
    with suppress(RGClusterError):
        for row in store.everyone():
            if row["restarts"]:
                times = f"shard {row['shard']}, {row['restarts']} times"
                add_event(context.run, "guidance", "shard restarted", times)


STAGES = {
    stage.name: stage
    for stage in (
        PipelineStage(
            "translation", _translation, sections=("data", "model", "translation"), weights=("vgg16",)
        ),
        PipelineStage(
            "retrieval", _retrieval, ("translation",), ("data", "model", "retrieval"), ("translation",)
        ),
        PipelineStage("store", _store, ("retrieval",), ("store",), ("retrieval",)),
        PipelineStage(
            "guidance", _guidance, ("store",), ("data", "model", "guidance"), ("translation", "store"),
            weights=("vgg16",),
        ),
        PipelineStage("precision", _precision, ("retrieval",), digests=("retrieval",), measured=True),
        PipelineStage("reference", _reference, measured=True, weights=MEASURING),
        PipelineStage(
            "evaluation", _evaluation, ("guidance", "precision", "reference"), ("data", "model", "evaluation"),
            ("guidance",), measured=True, weights=MEASURING,
        ),
    )
}  # fmt: skip
"""The stages by name, in order."""
