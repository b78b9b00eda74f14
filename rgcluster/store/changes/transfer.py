"""Copies of snapshots: local caches of remote ones, and copies with another number of shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.base.locks.files import locked
from rgcluster.base.locks.private import private_directory
from rgcluster.base.storage import Location, digest_bytes
from rgcluster.store.changes.journal import Change, ChangeFile, change_files
from rgcluster.store.disk.indexes import INDEXES, verify_indexes
from rgcluster.store.disk.orphans import RETIRED_SECONDS
from rgcluster.store.disk.snapshot import (
    FILES,
    Manifest,
    Place,
    ShardEntry,
    damaged,
    read_manifest,
    shard_of,
    verify_shard,
)
from rgcluster.store.disk.writer import SnapshotWriter

__all__ = ["copy_snapshot", "local_copy", "verify", "write_compacted"]

_COPY_ROWS = 256


def local_copy(location: Location, manifest: Manifest, entries: Sequence[ShardEntry]) -> Path:
    """Return a local directory with the files of these shards: the snapshot itself if it is local.

    A remote snapshot is downloaded once per machine, each file under its name only once its checksum matched.
    """
    if location.is_local:
        return location.local()
    cache = private_directory(f"cache/{digest_bytes(str(location).encode())}")
    for entry in entries:
        directory = cache / entry.directory
        with locked(directory / "lock"):
            for name in FILES:
                file, expected = directory / name, entry.files[name]
                if not file.exists() or file.stat().st_size != expected.bytes:
                    partial = directory / f"{name}.partial"
                    if (location / entry.directory / name).download(partial) != expected.sha256:
                        raise damaged(location / entry.directory / name)
                    partial.replace(file)
    _remove_other_generations(cache, location, manifest)
    return cache


def _remove_other_generations(cache: Path, location: Location, manifest: Manifest) -> None:
    """Remove cached shards and indexes that belong neither to this manifest nor to the current one, after an hour."""
    live = manifest, read_manifest(location)
    kept = tuple({each.digest for each in live}.union(*(each.directories for each in live)))
    for path in (*cache.glob("shard-*"), *cache.glob(f"{INDEXES}/*")):
        if not path.name.startswith(kept) and time.time() - path.stat().st_mtime > RETIRED_SECONDS:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def copy_snapshot(source: Place, target: Place, num_shards: int | None = None) -> Manifest:
    """Copy a store with all its changes, to another number of shards if given.

    Either place may be remote. Every checksum of the source is verified. Memory holds a few hundred images
    and, at most, the ids of the rows and of the changes.
    """
    manifest = read_manifest(source)
    files = change_files(Location(source), manifest)
    with _copied(Location(source), manifest, files, target, num_shards or manifest.num_shards) as writer:
        return writer.commit(origin=manifest.built_digest if files else manifest.origin)


def verify(location: Place) -> Manifest:
    """Read every file of a store, local or remote; return its manifest if all match their checksums.

    CheckpointError names the first that does not.
    """
    place, manifest = Location(location), read_manifest(location)
    for entry in manifest.shards:
        verify_shard(place, entry)
    for file in change_files(place, manifest):
        file.read()
    verify_indexes(place)
    return manifest


def write_compacted(location: Location, manifest: Manifest, epoch: int) -> str:
    """Write the rows of a snapshot, with the changes before an epoch, as the next generation beside it.

    Returns the name of its manifest, for `publish`.
    """
    files = change_files(location, manifest, last=epoch - 1)
    with _copied(location, manifest, files, location, manifest.num_shards, name=manifest.name) as writer:
        return writer.commit_beside(
            origin=manifest.built_digest, generation=manifest.generation + 1, changes_from=epoch
        )


@contextmanager
def _copied(
    source: Location,
    manifest: Manifest,
    files: Sequence[ChangeFile],
    target: Place,
    num_shards: int,
    name: str | None = None,
) -> Iterator[SnapshotWriter]:
    """Yield a writer of the rows of a snapshot as these changes leave them; with a name, one beside the snapshot."""
    last: dict[int, tuple[int, int, bool]] = {}
    for number, file in enumerate(files):
        for turn, change in enumerate(file.read()):
            last |= dict.fromkeys(change.ids.tolist(), (number, turn, change.adds))
    changed = np.array(sorted(last), np.int64)
    shards = [_verified(source, manifest, entry) for entry in manifest.shards]
    stay = [~np.isin(columns[0], changed) for columns in shards]
    ids = [columns[0][rows] for columns, rows in zip(shards, stay, strict=True)]
    ids.append(np.array([row for row, (_, _, adds) in last.items() if adds], np.int64))
    expected = np.bincount(shard_of(np.concatenate(ids), num_shards), minlength=num_shards)
    with SnapshotWriter(
        target, num_shards, manifest.dimension, manifest.image_shape, manifest.digests,
        name=name, replace=name is not None, expected=expected.tolist(),
    ) as writer:  # fmt: skip
        for columns, rows in zip(shards, stay, strict=True):
            for start in range(0, len(rows), _COPY_ROWS):
                piece = slice(start, start + _COPY_ROWS)
                _append(writer, Change(*(np.array(each[piece]) for each in columns)).select(rows[piece]))
        for number, file in enumerate(files):
            for turn, change in enumerate(file.read()):
                newest = [last[row][:2] == (number, turn) for row in change.ids.tolist()]
                _append(writer, change.select(np.array(newest, bool)))
        yield writer


def _append(writer: SnapshotWriter, rows: Change) -> None:
    if len(rows.ids) and rows.vectors is not None and rows.images is not None:
        writer.append(rows.ids, rows.vectors, rows.images, rows.tags)


def _verified(source: Location, manifest: Manifest, entry: ShardEntry) -> list[NDArray[Any]]:
    """Return the columns of a shard, mapped from its files, whose checksums match."""
    place = local_copy(source, manifest, [entry]) / entry.directory
    if source.is_local:
        verify_shard(source, entry)
    return [np.load(place / name, mmap_mode="r", allow_pickle=False) for name in FILES]
