"""Copies of snapshots: local caches of remote ones, and copies with another number of shards."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rgcluster.base.storage import Location
from rgcluster.store.changes.journal import Change, change_names, read_change
from rgcluster.store.disk.snapshot import (
    FILES,
    Manifest,
    Place,
    ShardEntry,
    file_digest,
    read_manifest,
    verify_shard,
)
from rgcluster.store.disk.writer import SnapshotWriter

__all__ = ["compacted_beside", "copy_snapshot", "local_copy"]

_COPY_ROWS = 256


def local_copy(location: Location, manifest: Manifest, entries: Sequence[ShardEntry]) -> Path:
    """Return a local directory with the files of these shards: the snapshot itself if it is local.

    A remote snapshot is downloaded once per machine. An existing copy is reused if its checksums match, so an
    interrupted download is harmless.
    """
    if location.is_local:
        return location.local()
    cache = Path(tempfile.gettempdir()) / "rgcluster-store" / manifest.digest
    for entry in entries:
        directory = cache / entry.directory
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in FILES:
                file = directory / name
                if not file.exists() or file_digest(file) != entry.files[name].sha256:
                    (location / entry.directory / name).download(file)
            verify_shard(cache, entry)
    return cache


def copy_snapshot(source: Place, target: Place, num_shards: int | None = None) -> Manifest:
    """Copy a store with all its changes, to another number of shards if given.

    Either place may be remote. Every checksum of the source is verified. Memory holds a few hundred images
    and, at most, the ids of the changes.
    """
    manifest = read_manifest(source)
    with _writer_like(manifest, target, num_shards, replace=False) as writer:
        changed = _fill(writer, Location(source), manifest)
        return writer.commit(origin=manifest.built_digest if changed else manifest.origin)


def compacted_beside(location: Place, num_shards: int | None = None) -> tuple[str, set[str]] | None:
    """Write the current state of a store, including its changes, as a new snapshot beside it.

    Returns the name of the new manifest, for `publish`, and the names of the included changes; None if there
    are no changes.
    """
    manifest = read_manifest(location)
    if not change_names(Location(location) / manifest.journal):
        return None
    with _writer_like(manifest, location, num_shards, replace=True) as writer:
        included = _fill(writer, Location(location), manifest)
        return writer.commit_beside(origin=manifest.built_digest), included


def _writer_like(manifest: Manifest, target: Place, num_shards: int | None, replace: bool) -> SnapshotWriter:
    return SnapshotWriter(
        target, num_shards or manifest.num_shards, manifest.dimension, manifest.image_shape, manifest.digests,
        name=manifest.name if replace else None, replace=replace,
    )  # fmt: skip


def _fill(writer: SnapshotWriter, source: Location, manifest: Manifest) -> set[str]:
    """Append the current rows of the store; return the names of the included changes."""
    journal = source / manifest.journal
    names = change_names(journal)
    last: dict[int, str] = {}
    for name in names:
        last |= dict.fromkeys(read_change(journal, name).ids.tolist(), name)
    changed = np.array(sorted(last), np.int64)
    for rows in _pieces(source, manifest):
        keep = ~np.isin(rows.ids, changed)
        _append(writer, rows.select(keep))
    for name in names:
        change = read_change(journal, name)
        if change.adds:
            _append(
                writer,
                change.select(np.array([last[number] == name for number in change.ids.tolist()], bool)),
            )
    return set(names)


def _append(writer: SnapshotWriter, rows: Change) -> None:
    if len(rows.ids) and rows.vectors is not None and rows.images is not None:
        writer.append(rows.ids, rows.vectors, rows.images, rows.tags)


def _pieces(source: Location, manifest: Manifest) -> Iterator[Change]:
    """Yield the rows of the snapshot's files, a few hundred at a time."""
    for entry in manifest.shards:
        place = local_copy(source, manifest, [entry])
        verify_shard(place, entry)
        ids, vectors, images, tags = (
            np.load(place / entry.directory / name, mmap_mode="r", allow_pickle=False) for name in FILES
        )
        for start in range(0, entry.count, _COPY_ROWS):
            rows = slice(start, start + _COPY_ROWS)
            yield Change(
                np.array(ids[rows]), np.array(vectors[rows]), np.array(images[rows]), np.array(tags[rows])
            )
