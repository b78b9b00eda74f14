"""What the command line and `jobs/` do with Ray, as functions; `finished.py` holds the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from rgcluster.base.cluster.job import refuse_relative
from rgcluster.base.locks.lease import Lease
from rgcluster.base.placement import CPUS_PER_WRITER, Claim
from rgcluster.base.progress import Update, task
from rgcluster.base.rundir import SNAPSHOT, open_run, shards_of, snapshot_of
from rgcluster.base.session import placement, ray_session
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.images import UInt8Array, encode_png, grid, picture_format
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.shards import MANIFEST, ShardSet, open_shards
from rgcluster.data.sources import (
    NO_IMAGES,
    SHARD_NAME,
    Columns,
    ImageTable,
    drawn_table,
    read_celeba,
    read_images,
    read_source,
)
from rgcluster.data.stream import ImageSource, open_source
from rgcluster.data.summary import describe_shards, untrained
from rgcluster.data.survey import Survey, survey_shards, survey_table
from rgcluster.errors import ConfigError, DataError
from rgcluster.evaluate.measure.following import Following, follow
from rgcluster.evaluate.measure.inputs import sample_of
from rgcluster.evaluate.measure.probe import probe as probe_retrieval
from rgcluster.evaluate.report.report import write_report
from rgcluster.faces import FaceSet, contact_sheet, counterfactual_sheet, write_faces
from rgcluster.pipeline import ladder
from rgcluster.pipeline.checks import check_run, faces_of, require
from rgcluster.pipeline.run import Pipeline
from rgcluster.store import copy_snapshot
from rgcluster.store.local import LocalStore
from rgcluster.train.preflight import check_storage
from rgcluster.translate.device import pick_device
from rgcluster.translate.guided import load_models

__all__ = [
    "check",
    "contact_sheets",
    "demo",
    "draw_faces",
    "evaluate",
    "follow_store",
    "probe",
    "report",
    "shard",
    "train",
]

_WRITER = Claim("task", 1, CPUS_PER_WRITER)
"""What reading and writing shards needs at least."""


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
        draw_faces(location.local() / "faces", faces.count, faces.seed)
        table = read_celeba(location.local() / "faces")
    else:  # each task of the cluster draws what it writes
        table = drawn_table(FaceSet(faces.seed, faces.count))
    options = ShardOptions(rows_per_shard=config.data.rows_per_shard)
    shards = _write_shards(table, location / "shards", options)
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


def draw_faces(target: Path, count: int, seed: int) -> None:
    """Draw `count` faces into the folder; what is already there is kept."""
    refuse_relative("the folder", target)
    with task("faces") as update:
        write_faces(target, count, seed, progress=update)


def contact_sheets(count: int, seed: int, target: Path) -> None:
    """Write a sheet of faces, and beside it one of counterfactuals."""
    faces = FaceSet(seed, count)
    target.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(faces, 6, 10).save(target)
    counterfactual_sheet(faces, 6).save(target.with_stem(f"{target.stem}-counterfactuals"))


def shard(
    source: str | Path,
    target: str,
    options: ShardOptions,
    *,
    layout: str = "auto",
    images: str | None = None,
    columns: Columns | None = None,
    unlabelled: str | None = None,
) -> list[str]:
    """Write a source as shards, and a folder of images without labels with it; return what to say of them.

    DataError where the source has no labels and the layout was not named.
    """
    for path in (source, target, images, unlabelled):
        if path is not None:
            refuse_relative("the path", path)
    if str(Location(source)) == str(Location(target)):
        raise ConfigError(f"{target}: the images lie there; write the shards to a directory of their own")
    table = _read_labelled(source, layout, images, columns)
    more = read_images(unlabelled) if unlabelled else None
    with Lease(Location(target)), ray_session(needs=_WRITER):
        shards = _write_shards(table, Location(target), options, more)
    lines = [describe_shards(shards, table, options.split, more)]
    if missing := untrained(shards):
        lines.insert(0, f"no training image has {', '.join(missing)}")
    return lines


def _read_labelled(
    source: str | Path, layout: str, images: str | None, columns: Columns | None
) -> ImageTable:
    """Read a source; DataError where it has no labels and the layout was not named."""
    table = read_source(source, layout, images, columns)
    if table.layout == "images" and layout == "auto":
        texts = [
            name for name in table.left_out.get(NO_IMAGES, ()) if name.lower().endswith((".txt", ".json"))
        ]
        hint = f" ({texts[0]} would have to be .csv, .tsv or .jsonl)" if texts else ""
        raise DataError(
            f"{source}: no labels there: no class folders, and no table beside the images{hint}; give a table, or "
            "--layout images for images that are retrieved alone, never trained on"
        )
    return table


def check(path: str, layout: str, images: str | None, columns: Columns | None, sheet: Path | None) -> Survey:
    """Read everything in a source or a directory of shards; write a contact sheet to `sheet` if given."""
    encode = picture_format(str(sheet)) if sheet else encode_png
    location = Location(path)
    survey: Callable[[Update], Survey]
    if layout == "auto" and _holds_shards(location):
        survey = partial(survey_shards, open_shards(location))
    else:
        survey = partial(survey_table, _read_labelled(path, layout, images, columns))
    with ray_session(needs=_WRITER), task("check") as update:
        found = survey(update)
    if sheet and found.thumbnails:
        Location(sheet).write_bytes(encode(_sheet(found.thumbnails)))
    return found


def _holds_shards(location: Location) -> bool:
    """Return whether a directory holds shards, finished or not; other programs write a manifest, too."""
    if not location.exists() or location.is_file():
        return False
    names = location.names()
    if any(SHARD_NAME.fullmatch(name) for name in names):
        return True
    return MANIFEST in names and '"schema"' in (location / MANIFEST).read_text()


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


def _write_shards(
    table: ImageTable, target: Location, options: ShardOptions, unlabelled: ImageTable | None = None
) -> ShardSet:
    if not (target / MANIFEST).exists():
        check_storage(target)
    with task("shards") as update:
        return write_shards(table, target, options, unlabelled, update)


def _sheet(pictures: Sequence[UInt8Array], columns: int = 8) -> UInt8Array:
    blank = np.full_like(pictures[0], 255)
    rows = -(-len(pictures) // columns)
    padded = [*pictures, *[blank] * (rows * columns - len(pictures))]
    return grid(np.stack(padded).reshape(rows, columns, *blank.shape))
