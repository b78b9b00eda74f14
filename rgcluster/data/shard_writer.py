"""Writes Parquet shards with one Ray task for each file. Files are complete or absent; the manifest is last.

An interrupted run leaves complete files without a manifest, which the next run keeps. Unreadable images go to the
quarantine list with the reason. If their share is too large, the job fails after listing all of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from rgcluster.base.placement import CPUS_PER_WRITER
from rgcluster.base.storage import Location, digest_bytes, digest_json, readable_size
from rgcluster.data.fit import image_sizes, require_fitting_crop
from rgcluster.data.images import UNREADABLE, check_image, encode_jpeg, load_image, prepare_image, reason
from rgcluster.data.index import ROWS_PER_GROUP
from rgcluster.data.parallel import as_completed
from rgcluster.data.shards import (
    MANIFEST,
    QUARANTINE,
    SCHEMA_VERSION,
    Prepared,
    ShardSet,
    open_shards,
)
from rgcluster.data.sources import UNKNOWN, UNLABELLED, ImageTable, Tree
from rgcluster.data.splits import SplitRule, assign_splits, row_id
from rgcluster.errors import ConfigError, DataError
from rgcluster.faces import load_face_set

__all__ = ["ShardOptions", "shard_options", "write_shards"]

UNREADABLE_SHARE = 0.001
SAMPLED = 24
"""Images that are looked at before anything is written."""

Progress = Callable[[int, int], None]
Fault = dict[str, str]


@dataclass(frozen=True)
class ShardOptions:
    """Options of sharding."""

    dataset: str | None = None
    """The data set's name in row ids; by default that of the source."""
    rows_per_shard: int = 2048
    split: SplitRule = "auto"
    split_seed: int = 0
    prepared: Prepared | None = None
    max_unreadable: float = UNREADABLE_SHARE
    """Largest share of unreadable images before the job fails."""


def shard_options(
    rows: int,
    split: str,
    split_seed: int,
    size: int,
    crop: int,
    format_: Literal["jpeg", "raw"],
    max_unreadable: float,
    dataset: str | None,
) -> ShardOptions:
    """Return the options for the values of a command line; ConfigError names an invalid one."""
    if split not in get_args(SplitRule):
        raise ConfigError(f"--split {split}: expected {', '.join(get_args(SplitRule))}")
    prepared = Prepared(crop, size, format_) if size else None
    return ShardOptions(dataset, rows, split, split_seed, prepared, max_unreadable)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Part:
    """The rows of a file to write."""

    name: str
    tree: Tree
    file_names: list[str]
    row_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    splits: list[str]
    attributes: tuple[str, ...]
    prepared: Prepared | None


def write_shards(
    table: ImageTable,
    target: Location,
    options: ShardOptions | None = None,
    unlabelled: ImageTable | None = None,
    progress: Progress | None = None,
) -> ShardSet:
    """Write the rows of `table`, and images for retrieval alone, as shards; existing files are kept."""
    options = options or ShardOptions()
    name = options.dataset or table.name
    parts = _plan(table, options, name)
    if unlabelled is not None:
        parts += _plan(unlabelled, options, f"{name}/{UNLABELLED}", table.attributes)
    _require_distinct(parts)
    plan = digest_json([SCHEMA_VERSION, name, [_part_digest(part) for part in parts]])
    parts = [
        replace(part, name=f"part-{number:05d}-of-{len(parts):05d}-{plan}.parquet")
        for number, part in enumerate(parts)
    ]
    if (target / MANIFEST).exists():
        existing = open_shards(target)
        if existing.plan_digest != plan:
            raise DataError(
                f"{target}: holds shards of other data; write to another directory or remove this one"
            )
        return existing
    tables = [table] if unlabelled is None else [table, unlabelled]
    samples = [_sample(each) for each in tables]
    if options.prepared is not None:
        require_fitting_crop(image_sizes(samples[0]), options.prepared.crop, str(table.origin), "--crop 0")
    _clear_leftovers(target, {part.name for part in parts})
    expected = map(partial(_expected_bytes, options.prepared), samples, map(len, tables))
    _require_space(target, sum(expected))
    target.make_directory()
    total = sum(map(len, tables))
    entries, faults = _write_parts(parts, target, total, progress)
    _judge(faults, total, options.max_unreadable, target)
    manifest = {
        "schema": SCHEMA_VERSION,
        "dataset": name,
        "plan": plan,
        "source": str(table.tree if table.faces else Location(table.origin)),
        "faces": asdict(faces) if (faces := table.faces or load_face_set(table.origin)) else None,
        "attributes": list(table.attributes),
        "one_hot": table.one_hot,
        "prepared": asdict(options.prepared) if options.prepared else None,
        "rows": sum(int(entry["rows"]) for entry in entries),
        "quarantined": len(faults),
        "files": entries,
    }
    described = ("schema", "dataset", "attributes", "one_hot", "prepared", "files")
    manifest["digest"] = digest_json({key: manifest[key] for key in described})
    (target / MANIFEST).write_json(manifest)
    return open_shards(target)


def _sample(table: ImageTable) -> list[bytes]:
    """Return the encoded images of evenly spaced rows."""
    contents = []
    for row in np.unique(np.linspace(0, len(table) - 1, SAMPLED).astype(int)):
        with suppress(OSError):  # among the faults later
            contents.append(table.tree.read(table.file_names[row]))
    return contents


def _expected_bytes(prepared: Prepared | None, sample: Sequence[bytes], rows: int) -> int:
    """Return the size of `rows` stored images, as the sample tells."""
    sizes = []
    for encoded in sample:
        with suppress(*UNREADABLE):  # among the faults later
            sizes.append(len(_content(encoded, prepared)))
    return round(rows * sum(sizes) / max(1, len(sizes)))


def _require_space(target: Location, needed: int) -> None:
    """Raise ConfigError where the target's disk has no room for what is still to be written."""
    free = target.free_bytes()
    missing = needed - sum(target.sizes().values())
    if free is not None and free < missing:
        raise ConfigError(
            f"{target}: {readable_size(free)} are free, but the shards need about {readable_size(missing)} more; free "
            "some space, write to another directory, or make the images smaller with --size"
        )


def _plan(
    table: ImageTable, options: ShardOptions, dataset: str, attributes: tuple[str, ...] | None = None
) -> list[_Part]:
    """Return the files to write; unlabelled rows get UNKNOWN for each of `attributes`."""
    names = table.attributes if attributes is None else attributes
    labels = table.labels if attributes is None else np.full((len(table), len(names)), UNKNOWN, np.int8)
    own = table.splits if attributes is None else [UNLABELLED] * len(table)
    ids = np.fromiter((row_id(dataset, name) for name in table.file_names), np.int64, len(table))
    splits = assign_splits(ids, own, options.split, options.split_seed, str(table.origin))
    chunks = (slice(at, at + options.rows_per_shard) for at in range(0, len(table), options.rows_per_shard))
    return [
        _Part(
            "", table.tree, table.file_names[rows], ids[rows], labels[rows], splits[rows], names,
            options.prepared,
        )
        for rows in chunks
    ]  # fmt: skip


def _require_distinct(parts: Sequence[_Part]) -> None:
    """Raise DataError where two files have the same row id: `unlabelled/a` and an unlabelled `a` do in any data set."""
    ids = np.concatenate([part.row_ids for part in parts])
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(repeated):
        files = [f"{part.tree}/{name}" for part in parts for name in part.file_names]
        one, other = order[repeated[0] : repeated[0] + 2]
        raise DataError(
            f"{files[one]} and {files[other]} have the same row id; rename one of them, or a folder in its name"
        )


def _part_digest(part: _Part) -> str:
    described = json.dumps([part.file_names, part.splits, part.attributes, str(part.prepared)])
    return digest_bytes(part.row_ids.tobytes(), part.labels.tobytes(), described.encode())


def _clear_leftovers(target: Location, expected: set[str]) -> None:
    """Remove incomplete files of a killed writer; DataError where the directory holds other shards."""
    for name in target.names():
        if name.endswith(".tmp"):
            (target / name).remove()
        elif name.endswith(".parquet") and name not in expected:
            raise DataError(
                f"{target / name}: belongs to other shards; write to another directory or remove this one"
            )


def _write_parts(
    parts: Sequence[_Part], target: Location, total: int, progress: Progress | None
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Return the manifest's entry of each file, and all faults, in the order of the parts."""
    entries: dict[int, dict[str, Any]] = {}
    faults: dict[int, list[Fault]] = {}
    done = 0
    for number, (entry, bad) in as_completed(lambda part: _write_part.remote(part, str(target)), parts):
        entries[number], faults[number] = entry, bad
        done += len(parts[number].file_names)
        if progress:
            progress(done, total)
    order = range(len(parts))
    return [entries[number] for number in order], [fault for number in order for fault in faults[number]]


def _judge(faults: list[Fault], total: int, limit: float, target: Location) -> None:
    """Write the quarantine list; DataError where it is longer than allowed."""
    if not faults:
        (target / QUARANTINE).remove()
        return
    (target / QUARANTINE).write_json(faults)
    if len(faults) > limit * total:
        first = faults[0]
        raise DataError(
            f"{len(faults)} of {total} images cannot be read, more than the share of {limit:g} allowed; all are "
            f"listed in {target / QUARANTINE}, the first is {first['file']} ({first['reason']}); repair or "
            "remove them, or raise --max-unreadable, and run the same command again"
        )


@ray.remote(num_cpus=CPUS_PER_WRITER)
def _write_part(part: _Part, target: str) -> tuple[dict[str, Any], list[Fault]]:
    """Write a file unless it exists; return its entry in the manifest and the images that were left out."""
    location = Location(target) / part.name
    written = _written(location)
    if written is not None:
        return written, []
    with location.local_draft() as draft:  # not in memory: photos may be large
        splits, faults = _write_rows(part, draft)
        return _entry(part.name, splits, Location(draft)), faults


def _write_rows(part: _Part, file: Path) -> tuple[Counter[str], list[Fault]]:
    """Write the rows whose images can be read; return their number in each split, and the others."""
    splits: Counter[str] = Counter()
    faults: list[Fault] = []
    schema = _schema(part)
    # JPEG does not compress further; dictionaries of images only cost memory.
    with (
        file.open("wb") as sink,
        pq.ParquetWriter(sink, schema, compression="none", use_dictionary=["split"]) as writer,
    ):
        images: list[bytes] = []
        rows: list[int] = []
        for row, name in enumerate(part.file_names):
            try:
                images.append(_content(part.tree.read(name), part.prepared))
            except UNREADABLE as error:
                faults.append({"file": f"{part.tree}/{name}", "reason": reason(error)})
                continue
            rows.append(row)
            splits[part.splits[row]] += 1
            if len(rows) == ROWS_PER_GROUP:  # groups are full, so a row's number determines its group
                writer.write_table(_table(part, rows, images, schema))
                images, rows = [], []
        writer.write_table(_table(part, rows, images, schema))
    return splits, faults


def _written(location: Location) -> dict[str, Any] | None:
    """Return the entry of a file that an earlier run finished without faults; None where it must be written."""
    try:
        table = location.read_with(lambda file: pq.read_table(file, columns=["split"]))
    except (OSError, pa.ArrowException):
        return None
    if (table.schema.metadata or {}).get(b"rgcluster.rows") != str(len(table)).encode():
        return None
    return _entry(location.name, Counter(table["split"].to_pylist()), location)


def _entry(name: str, splits: Counter[str], file: Location) -> dict[str, Any]:
    """Return the manifest's entry of a file."""
    return {
        "name": name, "rows": splits.total(), "splits": dict(sorted(splits.items())), "bytes": file.size(),
        "sha256": file.digest(),
    }  # fmt: skip


def _content(encoded: bytes, prepared: Prepared | None) -> bytes:
    """Return the stored form of an image; raises one of UNREADABLE where it cannot be decoded."""
    if prepared is None:
        check_image(encoded)
        return encoded
    pixels = prepare_image(load_image(encoded), prepared.crop, prepared.size)
    return pixels.tobytes() if prepared.format == "raw" else encode_jpeg(pixels)


def _schema(part: _Part) -> pa.Schema:
    fields = [
        ("row_id", pa.int64()), ("file_name", pa.string()), ("image", pa.binary()),
        ("labels", pa.list_(pa.int8())), ("split", pa.string()),
    ]  # fmt: skip
    about = {
        "rgcluster.schema": str(SCHEMA_VERSION),
        "rgcluster.attributes": ",".join(part.attributes),
        # A file with fewer rows lacks unreadable images. It is written again, because they
        # may have been repaired.
        "rgcluster.rows": str(len(part.file_names)),
    }
    return pa.schema(fields, metadata=about)


def _table(part: _Part, rows: list[int], images: list[bytes], schema: pa.Schema) -> pa.Table:
    labels = part.labels[rows]
    offsets = pa.array(np.arange(len(rows) + 1) * labels.shape[1], pa.int32())
    return pa.table(
        [
            pa.array(part.row_ids[rows], pa.int64()),
            pa.array([part.file_names[row] for row in rows]),
            pa.array(images, pa.binary()),
            pa.ListArray.from_arrays(offsets, pa.array(labels.ravel(), pa.int8())),
            pa.array([part.splits[row] for row in rows]),
        ],
        schema=schema,
    )
