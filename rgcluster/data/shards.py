"""Parquet shards of encoded images: written by Ray tasks, committed by a manifest that comes last.

Columns: `row_id` (64-bit hash of data set and file name), `file_name`, `image` (encoded bytes),
`labels` (list of int8), `split`. A directory without a manifest is unfinished; a file whose rows or
bytes differ from the manifest is an error.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

from rgcluster.data.folder import CelebaFolder, read_celeba
from rgcluster.data.images import UNREADABLE
from rgcluster.errors import DataError
from rgcluster.storage import Location, digest_bytes, digest_json

__all__ = ["RowIndex", "ShardSet", "hash_share", "open_shards", "row_id", "write_shards"]

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ROWS_PER_GROUP = 256
TEST_SHARE = 0.1
TEST_LIMIT = 2000  # the paper's test set

Progress = Callable[[int, int], None]


def row_id(dataset: str, file_name: str) -> int:
    """Return a non-negative 63-bit id that depends on the names alone."""
    digest = hashlib.blake2b(f"{dataset}/{file_name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def hash_share(row_ids: npt.NDArray[np.int64], salt: int) -> npt.NDArray[np.float64]:
    """Return a uniform number in [0, 1) per row id: the rows below f are a nested fraction f."""
    digests = (hashlib.blake2b(f"{salt}:{row}".encode(), digest_size=7).digest() for row in row_ids.tolist())
    return np.array([int.from_bytes(digest, "big") / 2**56 for digest in digests])


def write_shards(
    source: Path,
    target: Location,
    rows_per_shard: int = 2048,
    dataset: str | None = None,
    progress: Progress | None = None,
) -> ShardSet:
    """Write the CelebA folder at `source` as shards; an interrupted run continues, a finished one is left alone."""
    folder = read_celeba(source)
    name = dataset or source.name
    ids = np.array([row_id(name, file_name) for file_name in folder.file_names], np.int64)
    splits = folder.splits or _random_splits(ids)
    plan = {
        "schema": SCHEMA_VERSION,
        "dataset": name,
        "rows_per_shard": rows_per_shard,
        "labels": digest_bytes(folder.labels.tobytes(), "\n".join([*folder.file_names, *splits]).encode()),
    }
    if (target / MANIFEST).exists():
        existing = open_shards(target)
        if existing.plan_digest != digest_json(plan):
            raise DataError(
                f"{target}: holds shards of other data; write to another directory or remove this one"
            )
        return existing
    target.make_directory()
    starts = range(0, len(ids), rows_per_shard)
    pending = {
        _write_shard.remote(
            folder,
            slice(start, start + rows_per_shard),
            ids,
            splits,
            str(target),
            f"part-{number:05d}-{digest_json(plan)}.parquet",
        ): number
        for number, start in enumerate(starts)
    }
    files: dict[int, dict[str, object]] = {}
    faults: list[str] = []
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        entry, bad = ray.get(done[0])
        files[pending.pop(done[0])] = entry
        faults += bad
        if progress:
            progress(sum(int(item["rows"]) for item in files.values()), len(ids))  # type: ignore[call-overload]
    if faults:
        for number in files:
            (target / str(files[number]["name"])).remove()
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DataError(
            f"unreadable images: {'; '.join(faults[:3])}{more}; repair or remove them, and their rows"
        )
    manifest = {
        "schema": SCHEMA_VERSION,
        "dataset": name,
        "plan": digest_json(plan),
        "source": str(source),
        "attributes": list(folder.attributes),
        "rows": len(ids),
        "files": [files[number] for number in sorted(files)],
    }
    manifest["digest"] = digest_json(
        {key: manifest[key] for key in ("schema", "dataset", "attributes", "files")}
    )
    (target / MANIFEST).write_json(manifest)
    return open_shards(target)


def _random_splits(ids: npt.NDArray[np.int64]) -> list[str]:
    share = hash_share(ids, salt=0)
    count = min(TEST_LIMIT, max(1, round(TEST_SHARE * len(ids))))
    splits = np.full(len(ids), "train", dtype=object)
    splits[np.argsort(share, kind="stable")[:count]] = "test"
    return splits.tolist()


@ray.remote(num_cpus=0.5)
def _write_shard(
    folder: CelebaFolder,
    rows: slice,
    ids: npt.NDArray[np.int64],
    splits: Sequence[str],
    target: str,
    name: str,
) -> tuple[dict[str, object], list[str]]:
    location = Location(target) / name
    images, faults = [], []
    for index in range(*rows.indices(len(ids))):
        path = folder.image_path(index)
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
            images.append(content)
        except UNREADABLE as error:
            faults.append(f"{path} ({str(error).splitlines()[0]})")
            images.append(b"")
    if faults:
        return {"name": name, "rows": len(images), "bytes": 0, "sha256": ""}, faults
    labels = folder.labels[rows]
    flat = pa.array(labels.ravel(), pa.int8())
    offsets = pa.array(np.arange(len(labels) + 1) * labels.shape[1], pa.int32())
    table = pa.table(
        {
            "row_id": pa.array(ids[rows], pa.int64()),
            "file_name": pa.array(folder.file_names[rows]),
            "image": pa.array(images, pa.binary()),
            "labels": pa.ListArray.from_arrays(offsets, flat),
            "split": pa.array(list(splits[rows])),
        }
    ).replace_schema_metadata(
        {"rgcluster.schema": str(SCHEMA_VERSION), "rgcluster.attributes": ",".join(folder.attributes)}
    )
    sink = io.BytesIO()
    # JPEG does not compress further; dictionaries of images only cost memory.
    pq.write_table(table, sink, row_group_size=ROWS_PER_GROUP, compression="none", use_dictionary=["split"])
    content = sink.getvalue()
    location.write_bytes(content)
    return {"name": name, "rows": len(images), "bytes": len(content), "sha256": digest_bytes(content)}, []


@dataclass(frozen=True)
class RowIndex:
    """Rows in the shards' order: ids [N], labels int8 [N, A], file names [N] and places [N, 2] (file, row in it)."""

    row_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    file_names: list[str]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_ids)

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
    rows: int
    files: tuple[str, ...]
    digest: str
    plan_digest: str

    def path(self, file: int) -> Location:
        return Location(self.location) / self.files[file]

    def index(self, split: str | None = None, fraction: float = 1.0) -> RowIndex:
        """Return the rows of `split` (all where None), of which `fraction` by hashed row id."""
        parts = []
        for number in range(len(self.files)):
            table = self._read(number, ["row_id", "file_name", "labels", "split"])
            labels = (
                table["labels"]
                .combine_chunks()
                .flatten()
                .to_numpy()
                .reshape(len(table), len(self.attributes))
            )
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

    def read_images(self, places: npt.NDArray[np.int64]) -> list[bytes]:
        """Return the encoded images at `places` [N, 2], in that order; only their row groups are read."""
        images: list[bytes] = [b""] * len(places)
        for number in np.unique(places[:, 0]):
            mine = np.flatnonzero(places[:, 0] == number)
            groups, inverse = np.unique(places[mine, 1] // ROWS_PER_GROUP, return_inverse=True)
            column = self._read(int(number), ["image"], groups.tolist())["image"]
            for target, position in zip(
                mine, inverse * ROWS_PER_GROUP + places[mine, 1] % ROWS_PER_GROUP, strict=True
            ):
                images[target] = column[int(position)].as_py()
        return images

    def _read(self, number: int, columns: list[str], groups: list[int] | None = None) -> pa.Table:
        path = self.path(number)
        try:
            with path.open_file() as file:
                parquet = pq.ParquetFile(file)
                return parquet.read_row_groups(
                    range(parquet.num_row_groups) if groups is None else groups, columns
                )
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: cannot be read ({str(error).splitlines()[0]}); write the shards again"
            ) from None


def open_shards(location: Location) -> ShardSet:
    """Open a shard directory; DataError where it is missing, unfinished or mixed."""
    if not location.exists():
        raise DataError(
            f"{location}: no such directory; write shards with `rgcluster data shard SOURCE {location}`"
        )
    if not (location / MANIFEST).exists():
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
        manifest["rows"],
        tuple(entry["name"] for entry in manifest["files"]),
        manifest["digest"],
        manifest["plan"],
    )
