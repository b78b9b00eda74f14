"""Parquet shards of images, opened and read; `shard_writer.py` writes them.

Columns: `row_id` (64-bit hash of data set and file name), `file_name`, `image` (encoded bytes, or the raw
uint8 of a prepared image), `labels` (list of int8), `split`. A directory without a manifest is unfinished;
a file that the manifest does not name, or with another size there, is an error. Only `data check` reads all files and
compares their checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from rgcluster.base.locks.private import private_directory
from rgcluster.base.remote import explain, persistently
from rgcluster.base.storage import Location, digest_json
from rgcluster.config import DataConfig
from rgcluster.data.index import MAPPED_ROWS, ROWS_PER_GROUP, FileNames, RowIndex, joined, mapped
from rgcluster.data.sources import SHARD_NAME
from rgcluster.data.splits import hash_share
from rgcluster.errors import DataError, StorageError
from rgcluster.faces import FaceSet, load_face_set

__all__ = [
    "MANIFEST",
    "QUARANTINE",
    "SCHEMA_VERSION",
    "UNREADABLE_IMAGES",
    "Prepared",
    "ShardSet",
    "open_shards",
    "require_prepared",
]

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.json"
UNREADABLE_IMAGES = "unreadable images"
"""File with the reasons why images were left out."""
FOOTER_BYTES = 24 << 10
"""Bytes at the end of a file that are read first: the metadata of 2,048 rows in row groups take 16 kB."""
PARQUET = b"PAR1"
READ_AT_ONCE = 8
"""Files whose rows are read at the same time."""


@dataclass(frozen=True)
class Prepared:
    """Crop, size and format of images that were prepared when the shards were written."""

    crop: int
    size: int
    format: Literal["jpeg", "raw"]


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
        rows = self.rows if split is None else self.splits.get(split, 0)
        if rows < MAPPED_ROWS:
            return joined(list(self._parts(split, fraction)))
        directory = private_directory("index") / digest_json([self.digest, split, fraction])
        return mapped(
            directory,
            len(self.attributes),
            lambda: self._parts(split, fraction),
            partial(self.index, split, fraction),
        )

    def _parts(self, split: str | None, fraction: float) -> Iterator[RowIndex]:
        """Yield the chosen rows of each file."""
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            for start in range(0, len(self.files), READ_AT_ONCE):
                numbers = range(start, min(start + READ_AT_ONCE, len(self.files)))
                yield from pool.map(lambda number: self._rows(number, split, fraction), numbers)

    def _rows(self, number: int, split: str | None, fraction: float) -> RowIndex:
        table = self.read(number, ["row_id", "file_name", "labels", "split"])
        rows = np.arange(len(table))
        if split is not None:
            rows = np.flatnonzero(compute.equal(table["split"], split).to_numpy())
        ids = table["row_id"].to_numpy()
        if fraction < 1:
            rows = rows[hash_share(ids[rows], salt=1) < fraction]
        labels = (
            table["labels"].combine_chunks().flatten().to_numpy().reshape(len(table), len(self.attributes))
        )
        names = table["file_name"].combine_chunks().take(pa.array(rows))
        places = np.stack([np.full(len(rows), number), rows], axis=1).astype(np.int32)
        return RowIndex(ids[rows], labels[rows], FileNames.of(names), places)

    def read_images(self, places: npt.NDArray[np.integer[Any]]) -> list[memoryview]:
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
    file = Location(path).open_file()
    # With pre-buffering, an open file keeps everything that was read from it.
    return pq.ParquetFile(file, metadata=_footer(file), pre_buffer=False)


def _footer(file: pa.NativeFile) -> pq.FileMetaData | None:
    """Return the metadata of a file; None where it is damaged, which pyarrow explains.

    By itself pyarrow reads 64 KiB for it, a sixth of a row group of prepared images.
    """
    size = file.size()
    tail = file.read_at(min(size, FOOTER_BYTES), size - min(size, FOOTER_BYTES))
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if not tail.endswith(PARQUET) or needed > size:
        return None
    if needed > len(tail):
        tail = file.read_at(needed, size - needed)
    return pq.read_metadata(pa.BufferReader(PARQUET + tail[-needed:]))


def open_shards(location: Location) -> ShardSet:
    """Open a shard directory; DataError where it is missing, unfinished, mixed, or has a damaged manifest."""
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
    try:
        return _shard_set(location, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{location / MANIFEST}: damaged ({type(error).__name__}: {error}); remove it and run "
            "`rgcluster data shard` again, which keeps the files"
        ) from None


def require_prepared(where: str, prepared: Prepared | None, config: DataConfig) -> None:
    """Raise DataError where the images of the shards at `where` were prepared for another configuration."""
    if prepared is None or (prepared.crop, prepared.size) == (config.crop, config.image_size):
        return
    raise DataError(
        f"{where}: images prepared with crop {prepared.crop} and size {prepared.size}, but data.crop = "
        f"{config.crop} and data.image_size = {config.image_size}; set these, or write the shards again"
    )


def _shard_set(location: Location, manifest: dict[str, Any]) -> ShardSet:
    """Return what the manifest describes; DataError where other files lie there, or files of other sizes."""
    expected = {entry["name"] for entry in manifest["files"]}
    sizes = location.sizes()
    found = {name for name in sizes if name.endswith(".parquet")}
    if expected != found:
        odd = sorted(expected ^ found)[0]
        what = "is missing" if odd in expected else "belongs to no shard set"
        raise DataError(f"{location / odd}: {what}; write the shards again into an empty directory")
    for entry in manifest["files"]:
        size = sizes[entry["name"]]
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
