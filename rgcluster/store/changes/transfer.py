"""Copies of snapshots: local caches of remote ones, and copies with another number of shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rgcluster.base.storage import Location, digest_bytes
from rgcluster.store.changes.journal import Change, ChangeFile, change_files
from rgcluster.store.disk.indexes import INDEXES, verify_indexes
from rgcluster.store.disk.locks import locked
from rgcluster.store.disk.orphans import RETIRED_SECONDS
from rgcluster.store.disk.private import private_directory
from rgcluster.store.disk.snapshot import (
    FILES,
    Manifest,
    Place,
    ShardEntry,
    damaged,
    read_manifest,
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
    and, at most, the ids of the changes.
    """
    manifest = read_manifest(source)
    with _writer_like(manifest, target, num_shards, replace=False) as writer:
        files = change_files(Location(source), manifest)
        _fill(writer, Location(source), manifest, files)
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
    with _writer_like(manifest, location, None, replace=True) as writer:
        _fill(writer, location, manifest, change_files(location, manifest, last=epoch - 1))
        return writer.commit_beside(
            origin=manifest.built_digest, generation=manifest.generation + 1, changes_from=epoch
        )


def _writer_like(manifest: Manifest, target: Place, num_shards: int | None, replace: bool) -> SnapshotWriter:
    return SnapshotWriter(
        target, num_shards or manifest.num_shards, manifest.dimension, manifest.image_shape, manifest.digests,
        name=manifest.name if replace else None, replace=replace,
    )  # fmt: skip


def _fill(writer: SnapshotWriter, source: Location, manifest: Manifest, files: Sequence[ChangeFile]) -> None:
    """Append the rows of a snapshot as these changes leave them."""
    last: dict[int, tuple[int, int]] = {}
    for number, file in enumerate(files):
        for turn, change in enumerate(file.read()):
            last |= dict.fromkeys(change.ids.tolist(), (number, turn))
    changed = np.array(sorted(last), np.int64)
    for rows in _pieces(source, manifest):
        _append(writer, rows.select(~np.isin(rows.ids, changed)))
    for number, file in enumerate(files):
        for turn, change in enumerate(file.read()):
            newest = [last[row] == (number, turn) for row in change.ids.tolist()]
            _append(writer, change.select(np.array(newest, bool)))


def _append(writer: SnapshotWriter, rows: Change) -> None:
    if len(rows.ids) and rows.vectors is not None and rows.images is not None:
        writer.append(rows.ids, rows.vectors, rows.images, rows.tags)


def _pieces(source: Location, manifest: Manifest) -> Iterator[Change]:
    """Yield the rows of the snapshot's files, a few hundred at a time."""
    for entry in manifest.shards:
        place = local_copy(source, manifest, [entry])
        if source.is_local:
            verify_shard(source, entry)
        ids, vectors, images, tags = (
            np.load(place / entry.directory / name, mmap_mode="r", allow_pickle=False) for name in FILES
        )
        for start in range(0, entry.count, _COPY_ROWS):
            rows = slice(start, start + _COPY_ROWS)
            yield Change(
                np.array(ids[rows]), np.array(vectors[rows]), np.array(images[rows]), np.array(tags[rows])
            )
