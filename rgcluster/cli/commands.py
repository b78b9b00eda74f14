"""What the command line and `jobs/` do with Ray, as functions; `sharding.py` and `finished.py` hold the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rgcluster.base.cluster.job import refuse_relative
from rgcluster.base.locks.lease import Lease
from rgcluster.base.rundir import SNAPSHOT, open_run, shards_of, snapshot_of
from rgcluster.base.session import placement, ray_session
from rgcluster.base.storage import Location
from rgcluster.cli import sharding
from rgcluster.config import Config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.shard_writer import ShardOptions
from rgcluster.data.shards import ShardSet, open_shards
from rgcluster.data.sources import drawn_table, read_celeba
from rgcluster.data.stream import ImageSource, open_source
from rgcluster.errors import ConfigError
from rgcluster.evaluate.measure.following import Following, follow
from rgcluster.evaluate.measure.inputs import sample_of
from rgcluster.evaluate.measure.probe import probe as probe_retrieval
from rgcluster.evaluate.report.report import write_report
from rgcluster.faces import FaceSet
from rgcluster.pipeline import ladder
from rgcluster.pipeline.checks import check_run, faces_of, require
from rgcluster.pipeline.run import Pipeline
from rgcluster.store import copy_snapshot
from rgcluster.store.local import LocalStore
from rgcluster.translate.device import pick_device
from rgcluster.translate.guided import load_models

__all__ = ["demo", "evaluate", "follow_store", "probe", "report", "train"]


def demo(
    config: Config, run: str, minutes: float | None = None, say: Callable[[str], None] = lambda line: None
) -> Location:
    """Draw faces, into the run directory if it is local, and do everything; return the report.

    With `minutes`, as many of the preset's steps are trained as end within them on this machine (0: all of them);
    `say` is told what was chosen and why.
    """
    start = time.monotonic()
    drawn = faces_of(FaceSet(config.faces.seed, config.faces.count), CELEBA_ATTRIBUTES, config)
    with _driving(run) as location:
        require(check_run(config, drawn, location))  # before anything is timed or drawn
        if minutes is not None:
            config, chosen = ladder.fit_to_time(config, location, minutes)
            if chosen:
                say(chosen)
        with ray_session():
            pipeline = _drawn(config, location)
            if minutes is not None:
                _keep_to_time(pipeline, start, minutes, say)
            return pipeline.report()


def _keep_to_time(pipeline: Pipeline, start: float, minutes: float, say: Callable[[str], None]) -> None:
    """Finish stage 1, then cut stage 3 to what ends within `minutes` of `start`."""
    pipeline.finish("translation")
    seconds, elapsed = pipeline.seconds()["translation"], time.monotonic() - start
    config, shortened = ladder.shorten(pipeline.config, seconds, elapsed, minutes)
    if shortened:
        say(shortened)
        pipeline.config = config
        pipeline.prepare()


def _drawn(config: Config, location: Location) -> Pipeline:
    """Return the pipeline of faces that are drawn and sharded first."""
    faces = config.faces
    placement(config)
    if location.is_local:
        sharding.draw_faces(location.local() / "faces", faces.count, faces.seed)
        table = read_celeba(location.local() / "faces")
    else:  # each task of the cluster draws what it writes
        table = drawn_table(FaceSet(faces.seed, faces.count))
    options = ShardOptions(rows_per_shard=config.data.rows_per_shard)
    shards = sharding.write(table, location / "shards", options)
    pipeline = Pipeline(location, config, shards)
    pipeline.prepare()
    return pipeline


@contextmanager
def _driving(run: str) -> Iterator[Location]:
    """Hold the lease of a run directory, so that one process at a time works there; LeaseHeld names the other."""
    refuse_relative("--run", run)
    location = Location(run)
    with Lease(location):
        yield location


def train(config: Config, shards: ShardSet, run: str, stage: str) -> None:
    """Run `stage` and whatever before it is not finished."""
    with _driving(run) as location:
        pipeline = Pipeline(location, config, shards)
        pipeline.require()
        with ray_session():
            pipeline.prepare()
            pipeline.finish(stage)


def evaluate(run: str) -> Location:
    """Evaluate a run and write its report."""
    refuse_relative("--run", run)
    config, location = open_run(run)
    shards = open_shards(shards_of(location))
    with _driving(run), ray_session():
        return Pipeline(location, config, shards).report()


def probe(run: str, count: int) -> dict[str, Any]:
    """Return whether a run uses its retrieval (`evaluate.measure.probe`), without Ray."""
    config, location = open_run(run)
    shards = open_shards(shards_of(location))
    train, test = map(sample_of, _labelled(shards, config))
    device = pick_device(config.cluster, gpu=torch.cuda.is_available() and config.cluster.gpu != "never")
    return probe_retrieval(config, location, train, test, shards.faces, device, count)


def _labelled(shards: ShardSet, config: Config) -> tuple[ImageSource, ImageSource]:
    """Return the training and the test images, read as they are needed."""
    uncached = config.data.model_copy(update={"cache_mib": 0})
    return open_source(shards, uncached, "train"), open_source(shards, uncached, "test")


def follow_store(run: str, attribute: str, dye: tuple[int, int, int]) -> Following:
    """Return whether translations follow a store in which an attribute gets a new colour; the run is left alone."""
    config, location = open_run(run)
    shards = open_shards(shards_of(location))
    if shards.faces is None:
        raise ConfigError(f"{run}: not trained on drawn faces, so none with another colour can be drawn")
    train, test = _labelled(shards, config)
    device = pick_device(config.cluster, gpu=False)
    with TemporaryDirectory(prefix="rgcluster-follow-") as folder:
        copy_snapshot(snapshot_of(location), Location(folder) / SNAPSHOT)
        store = LocalStore(Location(folder) / SNAPSHOT)
        model = load_models(location, config, store, device, ("rg-unit",))["rg-unit"]
        return follow(model, config, train, test, shards.faces, attribute, dye)


def report(run: str) -> Location:
    """Write the report again."""
    refuse_relative("--run", run)
    config, location = open_run(run)
    with _driving(run):
        return write_report(config, location)
