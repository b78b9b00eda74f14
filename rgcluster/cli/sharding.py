"""What `rgcluster data` does, as functions: faces, shards and surveys, which need no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rgcluster.base.cluster.job import refuse_relative
from rgcluster.base.locks.lease import Lease
from rgcluster.base.placement import CPUS_PER_WRITER, Claim
from rgcluster.base.progress import Update, task
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location
from rgcluster.data.images import UInt8Array, encode_png, grid, picture_format
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.shards import MANIFEST, ShardSet, open_shards
from rgcluster.data.sources import NO_IMAGES, SHARD_NAME, Columns, ImageTable, read_images, read_source
from rgcluster.data.summary import describe_shards, untrained
from rgcluster.data.survey import Survey, survey_shards, survey_table
from rgcluster.errors import ConfigError, DataError
from rgcluster.faces import FaceSet, contact_sheet, counterfactual_sheet, write_faces
from rgcluster.train.preflight import check_storage

__all__ = ["check", "contact_sheets", "draw_faces", "shard", "write"]

_WRITER = Claim("task", 1, CPUS_PER_WRITER)
"""What reading and writing shards needs at least."""


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
        shards = write(table, Location(target), options, more)
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


def write(
    table: ImageTable, target: Location, options: ShardOptions, unlabelled: ImageTable | None = None
) -> ShardSet:
    """Write the rows of a table, after a look whether every machine can; an interrupted run continues."""
    if not (target / MANIFEST).exists():
        check_storage(target)
    with task("shards") as update:
        return write_shards(table, target, options, unlabelled, update)


def _sheet(pictures: Sequence[UInt8Array], columns: int = 8) -> UInt8Array:
    blank = np.full_like(pictures[0], 255)
    rows = -(-len(pictures) // columns)
    padded = [*pictures, *[blank] * (rows * columns - len(pictures))]
    return grid(np.stack(padded).reshape(rows, columns, *blank.shape))
