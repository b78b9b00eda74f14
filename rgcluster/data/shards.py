"""Parquet shards of images, opened and read; `shard_writer.py` writes them.

Columns: `row_id` (64-bit hash of data set and file name), `file_name`, `image` (encoded bytes, or the raw
uint8 of a prepared image), `labels` (list of int8), `split`. A directory without a manifest is unfinished;
a file whose rows or bytes differ from the manifest is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rgcluster.base.remote import explain, persistently
from rgcluster.base.storage import Location
from rgcluster.config import DataConfig
from rgcluster.data.sources import SHARD_NAME
from rgcluster.data.splits import hash_share
from rgcluster.errors import DataError, StorageError
from rgcluster.faces import FaceSet, load_face_set

__all__ = [
    "MANIFEST",
    "QUARANTINE",
    "ROWS_PER_GROUP",
    "SCHEMA_VERSION",
    "UNREADABLE_IMAGES",
    "Prepared",
    "RowIndex",
    "ShardSet",
    "open_shards",
    "require_prepared",
]

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.json"
UNREADABLE_IMAGES = "unreadable images"
"""File with the reasons why images were left out."""
ROWS_PER_GROUP = 64
"""Rows in a row group: few, so that reading a single image is cheap."""


@dataclass(frozen=True)
class Prepared:
    """Crop, size and format of images that were prepared when the shards were written."""

    crop: int
    size: int
    format: Literal["jpeg", "raw"]


@dataclass(frozen=True)
class RowIndex:
    """Rows in the order of the shards: ids [N], labels int8 [N, A], file names [N] and places [N, 2] (file, row)."""

    row_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    file_names: list[str]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_ids)

    @cached_property
    def group_edges(self) -> npt.NDArray[np.int64]:
        """Return the first row of each row group that holds any, and the number of rows: [groups + 1]."""
        groups = self.places // (1, ROWS_PER_GROUP)
        changes = (groups[1:] != groups[:-1]).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(self)]])

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> RowIndex:
        places = np.arange(len(self))[rows]
        return RowIndex(
            self.row_ids[places],
            self.labels[places],
            [self.file_names[place] for place in places],
            self.places[places],
        )


@dataclass(frozen=True)
class ShardSet:
    """A committed directory of shards."""

    location: str
    dataset: str
    source: str
    attributes: tuple[str, ...]
    one_hot: bool
    prepared: Prepared | None
    splits: dict[str, int]
    rows: int
    quarantined: int
    files: tuple[str, ...]
    checksums: tuple[str, ...]
    digest: str
    plan_digest: str
    faces: FaceSet | None = None
    """The face set that the images were drawn from, which provides ground truth for translations."""

    def path(self, file: int) -> Location:
        return Location(self.location) / self.files[file]

    def index(self, split: str | None = None, fraction: float = 1.0) -> RowIndex:
        """Return the rows of `split` (all if None), or a `fraction` of them by hashed row id."""
        parts = []
        for number in range(len(self.files)):
            table = self.read(number, ["row_id", "file_name", "labels", "split"])
            flat = table["labels"].combine_chunks().flatten().to_numpy()
            labels = flat.reshape(len(table), len(self.attributes))
            rows = np.arange(len(table))
            if split is not None:
                rows = rows[np.array(table["split"].to_pylist()) == split]
            names = table["file_name"].to_pylist()
            places = np.stack([np.full(len(rows), number), rows], axis=1)
            parts.append(
                RowIndex(table["row_id"].to_numpy()[rows], labels[rows], [names[row] for row in rows], places)
            )
        index = RowIndex(
            np.concatenate([part.row_ids for part in parts]),
            np.concatenate([part.labels for part in parts]),
            [name for part in parts for name in part.file_names],
            np.concatenate([part.places for part in parts]),
        )
        return index if fraction >= 1 else index.take(hash_share(index.row_ids, salt=1) < fraction)

    def read_images(self, places: npt.NDArray[np.int64]) -> list[memoryview]:
        """Return the stored images at `places` [N, 2], in that order; only their row groups are read."""
        images: list[memoryview] = [memoryview(b"")] * len(places)
        for number in np.unique(places[:, 0]).tolist():
            mine = np.flatnonzero(places[:, 0] == number)
            groups, inverse = np.unique(places[mine, 1] // ROWS_PER_GROUP, return_inverse=True)
            column = self.read(number, ["image"], groups.tolist())["image"].combine_chunks()
            content, ends = memoryview(column.buffers()[2]), np.frombuffer(column.buffers()[1], np.int32)
            positions = inverse * ROWS_PER_GROUP + places[mine, 1] % ROWS_PER_GROUP + column.offset
            for target, position in zip(mine.tolist(), positions.tolist(), strict=True):
                images[target] = content[ends[position] : ends[position + 1]]
        return images

    def read(self, number: int, columns: list[str], groups: list[int] | None = None) -> pa.Table:
        """Return columns of a file, of all row groups or some; DataError where it cannot be read."""
        path = self.path(number)

        def read() -> pa.Table:
            parquet = _open_parquet(str(path), self.digest)
            return parquet.read_row_groups(
                range(parquet.num_row_groups) if groups is None else groups, columns, use_threads=False
            )

        try:
            return persistently(read)
        except (OSError, pa.ArrowException) as error:
            if "AWS Error" in str(error) and isinstance(error, OSError):
                raise StorageError(explain(str(path), error)) from None
            raise DataError(
                f"{path}: cannot be read ({str(error).splitlines()[0]}); write the shards again"
            ) from None


@lru_cache(maxsize=32)
def _open_parquet(path: str, digest: str) -> pq.ParquetFile:
    """Open a file once in a process: its footer is parsed once, whatever the number of reads."""
    # With pre-buffering, an open file keeps everything that was read from it.
    return pq.ParquetFile(Location(path).open_file(), pre_buffer=False)


def open_shards(location: Location) -> ShardSet:
    """Open a shard directory; DataError where it is missing, unfinished or mixed."""
    if not location.exists():
        raise DataError(
            f"{location}: no such directory; write shards with `rgcluster data shard SOURCE {location}`"
        )
    if location.is_file():
        raise DataError(
            f"{location}: a file, not a directory of shards; write some with `rgcluster data shard {location} SHARDS`"
        )
    if not (location / MANIFEST).exists():
        if not any(SHARD_NAME.fullmatch(name) for name in location.names()):
            raise DataError(
                f"{location}: holds no shards; write some with `rgcluster data shard {location} SHARDS` and give those"
            )
        raise DataError(
            f"{location}: no {MANIFEST}, so the shards are unfinished; run `rgcluster data shard` again"
        )
    manifest = (location / MANIFEST).read_json()
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA_VERSION:
        raise DataError(f"{location}: shards of schema {schema}, expected {SCHEMA_VERSION}; write them again")
    expected = {entry["name"] for entry in manifest["files"]}
    found = {name for name in location.names() if name.endswith(".parquet")}
    if expected != found:
        odd = sorted(expected ^ found)[0]
        what = "is missing" if odd in expected else "belongs to no shard set"
        raise DataError(f"{location / odd}: {what}; write the shards again into an empty directory")
    for entry in manifest["files"]:
        size = (location / entry["name"]).size()
        if size != entry["bytes"]:
            raise DataError(
                f"{location / entry['name']}: {size} bytes instead of {entry['bytes']}; write the shards again"
            )
    return ShardSet(
        str(location),
        manifest["dataset"],
        manifest["source"],
        tuple(manifest["attributes"]),
        manifest["one_hot"],
        Prepared(**manifest["prepared"]) if manifest["prepared"] else None,
        _count_splits(manifest["files"]),
        manifest["rows"],
        manifest["quarantined"],
        tuple(entry["name"] for entry in manifest["files"]),
        tuple(entry["sha256"] for entry in manifest["files"]),
        manifest["digest"],
        manifest["plan"],
        _faces(manifest),
    )


def require_prepared(where: str, prepared: Prepared | None, config: DataConfig) -> None:
    """Raise DataError where the images of the shards at `where` were prepared for another configuration."""
    if prepared is None or (prepared.crop, prepared.size) == (config.crop, config.image_size):
        return
    raise DataError(
        f"{where}: images prepared with crop {prepared.crop} and size {prepared.size}, but data.crop = "
        f"{config.crop} and data.image_size = {config.image_size}; set these, or write the shards again"
    )


def _faces(manifest: dict[str, Any]) -> FaceSet | None:
    """Return the face set of the shards; for older shards it is looked up at their source."""
    if "faces" not in manifest:
        return load_face_set(Path(manifest["source"]))
    return FaceSet(**manifest["faces"]) if manifest["faces"] else None


def _count_splits(files: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in files:
        for split, count in entry["splits"].items():
            found[split] = found.get(split, 0) + count
    return found
