"""Streaming, atomic writer of snapshots, with bounded memory.

A writer fills a `partial-...` directory. Its last step is a manifest that names the finished files, or, where there
is a snapshot already, a version that names the manifest. Readers ignore what an interrupted writer leaves. The next
writer continues it if both have the same `resume` key, or removes it.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.base.locks.files import take_lock
from rgcluster.base.storage import Location
from rgcluster.errors import DataError, StorageError
from rgcluster.store.disk.orphans import remove_orphans
from rgcluster.store.disk.shard_writer import ShardPlan, ShardWriter, building_directory, is_saved
from rgcluster.store.disk.snapshot import (
    Manifest,
    Place,
    ShardEntry,
    read_manifest,
    shard_of,
)
from rgcluster.store.disk.versions import MANIFEST, Versions
from rgcluster.store.index.exact import NO_ID, as_ids, as_vectors
from rgcluster.store.index.rows import SPLITS

__all__ = ["SnapshotWriter", "as_rows", "discard", "publish"]

_PARTIAL, _LOCK = "partial-", "lock"
_PUBLISH_SECONDS = 6 * 3600.0
"""A snapshot that was written longer ago is not published, since its files might count as orphans."""


class SnapshotWriter:
    """Streams rows into a new snapshot. Exiting the context without `commit` removes them.

    With a `resume` key, the digest of everything the rows depend on, what the writers of the shards saved remains
    instead, and the next writer with that key continues it. DataError if the location already holds a snapshot,
    unless `replace` is set; then `commit` replaces it. `expected` is the number of rows of each shard, if known.
    """

    def __init__(
        self,
        location: Place,
        num_shards: int,
        dimension: int,
        image_shape: tuple[int, int, int],
        digests: Mapping[str, str],
        *,
        name: str | None = None,
        replace: bool = False,
        resume: str | None = None,
        expected: Sequence[int] | None = None,
    ) -> None:
        if num_shards < 1:
            raise DataError(f"{num_shards} shards: a store needs 1 or more")
        self._target, self._replace, self._resume = Location(location), replace, resume
        self._name, self._dimension, self._digests = name or self._target.name, dimension, dict(digests)
        self._image_shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
        self._refuse_to_overwrite()
        token = uuid.uuid4().hex[:8]
        self._home = building_directory(self._target)
        self._partial = self._home / f"{_PARTIAL}{resume or token}"
        self._made_home = not self._target.is_local or not self._home.exists()
        self._partial.mkdir(parents=True, exist_ok=True)
        lock = take_lock(self._partial / _LOCK)
        if lock is None:
            raise DataError(f"{self._target}: another process is writing this snapshot; wait for it")
        self._lock, self._open = lock, True
        self._remove_stale()
        self.plans = [
            ShardPlan(
                str(self._target), self._partial.name, number, f"shard-{number:05d}-{token}", dimension,
                self._image_shape, 0 if expected is None else int(expected[number]),
            )
            for number in range(num_shards)
        ]  # fmt: skip
        """What is needed to write a shard in another process."""
        self._writers: list[ShardWriter] = []

    def append(
        self, ids: ArrayLike, vectors: ArrayLike, images: ArrayLike, tags: ArrayLike | None = None
    ) -> None:
        """Append ids [N], vectors float32 [N, d], images uint8 [N, H, W, C], tags [N] (`rows.SPLITS`; train
        if not given); DataError if the shapes or types do not match."""
        self._require_open()
        rows = as_rows(ids, vectors, images, tags, self._dimension, self._image_shape)
        owners = shard_of(rows[0], len(self.plans))
        for owner in np.unique(owners):
            self._here()[owner].append([column[owners == owner] for column in rows])

    def commit(self, *, origin: str = "", each: Callable[[str], list[Any]] | None = None) -> Manifest:
        """Publish the snapshot; DataError for no rows or a duplicate id.

        Changes made before this call do not apply to it. `each` calls a method of the writers of all shards, if
        they are in other processes.
        """
        self._require_open()
        try:
            manifest = self._finish(origin, each)
            if (self._target / MANIFEST).exists():
                manifest = self._replace_current(manifest)
            elif not (self._target / MANIFEST).create(manifest.to_bytes()):
                raise DataError(f"{self._target}: another process wrote a store here; choose another place")
        except BaseException:
            self.abort()
            raise
        self._close(remove=True)
        return manifest

    def commit_beside(self, *, origin: str, generation: int, changes_from: int) -> str:
        """Write the snapshot beside the current one; return the name of its manifest, for `publish`."""
        self._require_open()
        try:
            manifest = replace(self._finish(origin), generation=generation, changes_from=changes_from)
            name = self._write_beside(manifest)
        except BaseException:
            self.abort()
            raise
        self._close(remove=True)
        return name

    def abort(self) -> None:
        """Remove all rows written, or those that no later writer may continue with. Does nothing after `commit`."""
        if self._open:
            self._close(remove=not (self._resume and is_saved(self._partial)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _here(self) -> list[ShardWriter]:
        """Return writers of the shards in this process."""
        if not self._writers:
            self._writers = [ShardWriter(plan) for plan in self.plans]
        return self._writers

    def _finish(self, origin: str, each: Callable[[str], list[Any]] | None = None) -> Manifest:
        """Complete the shards and move them to their places; return the manifest."""

        def each_here(method: str) -> list[Any]:
            return [getattr(writer, method)() for writer in self._here()]

        entries: list[ShardEntry] = (each or each_here)("finish")
        count = sum(entry.count for entry in entries)
        if not count:
            raise DataError(f"{self._target}: nothing was appended; a store needs 1 image or more")
        self._refuse_to_overwrite()
        (each or each_here)("move")
        return Manifest(
            self._name, self._dimension, self._image_shape, count, self._digests, tuple(entries), origin=origin
        )  # fmt: skip

    def _replace_current(self, manifest: Manifest) -> Manifest:
        """Publish the manifest as the generation after the current one, whichever that is."""
        while True:
            base = Versions(self._target).seal()
            generation = read_manifest(self._target, base.manifest).generation + 1
            manifest = replace(manifest, generation=generation, changes_from=base.number)
            name = self._write_beside(manifest)
            if publish(self._target, name, base.manifest):
                return manifest
            (self._target / name).remove()

    def _write_beside(self, manifest: Manifest) -> str:
        name = f"manifest-{uuid.uuid4().hex[:8]}.json"
        (self._target / name).write_bytes(manifest.to_bytes(), durable=True)
        return name

    def _refuse_to_overwrite(self) -> None:
        if self._target.is_file():
            raise DataError(f"{self._target}: a file is in the way; choose another place")
        others = [name for name in self._target.names() if not name.startswith((_PARTIAL, "shard-"))]
        if others and not (self._replace and MANIFEST in others):
            raise DataError(f"{self._target}: holds files already; remove it, or choose another place")

    def _remove_stale(self) -> None:
        """Remove what interrupted writers left. A running writer holds its lock."""
        for directory in self._home.glob(f"{_PARTIAL}*"):
            lock = None if directory == self._partial else take_lock(directory / _LOCK)
            if lock is not None:
                lock.close()
                if self._resume or not is_saved(directory):
                    shutil.rmtree(directory, ignore_errors=True)
        remove_orphans(self._target)

    def _require_open(self) -> None:
        if not self._open:
            raise DataError(f"{self._target}: the writer is closed; open another")

    def _close(self, *, remove: bool) -> None:
        self._open = False
        for writer in self._writers:
            writer.close()
        if remove:
            shutil.rmtree(self._partial, ignore_errors=True)
        self._lock.close()
        if self._made_home and not any(self._home.iterdir()):
            self._home.rmdir()


def publish(location: Place, candidate: str, base: str) -> bool:
    """Make the manifest `candidate` the current one; return False if the current one is not `base`.

    StorageError if the snapshot was written too long ago.
    """
    place = Location(location)
    if time.time() - (place / candidate).modified_below() > _PUBLISH_SECONDS:
        raise StorageError(f"{place}: too slow to publish a generation; run the same command again")
    versions = Versions(place)
    while True:
        version = versions.read()
        if version.manifest == candidate:  # another process followed at once
            return True
        if version.manifest != base:
            return False
        held = set(place.names())
        retired = [(name, at) for name, at in version.retired if name in held and name != base]
        if versions.follow(version, manifest=candidate, retired=(*retired, (base, time.time()))):
            return True


def discard(place: Location, candidate: str) -> None:
    """Remove the snapshot of a manifest that was never published."""
    for directory in read_manifest(place, candidate).directories:
        (place / directory).remove()
    (place / candidate).remove()


def as_rows(
    ids: ArrayLike,
    vectors: ArrayLike,
    images: ArrayLike,
    tags: ArrayLike | None,
    dimension: int,
    image_shape: tuple[int, int, int],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return rows as arrays [N], [N, d], [N, H, W, C], [N]; DataError for a wrong shape, type or value."""
    numbers, points, pictures = as_ids(ids), as_vectors(vectors, dimension), np.asarray(images)
    count = len(points)
    if numbers.shape != (count,) or (numbers == NO_ID).any():
        raise DataError(
            f"ids of shape {list(numbers.shape)} for {count} rows: give each an id other than {NO_ID}"
        )
    if pictures.dtype != np.uint8 or pictures.shape != (count, *image_shape):
        raise DataError(
            f"images {pictures.dtype} {list(pictures.shape)}: this store needs uint8 {[count, *image_shape]}"
        )
    codes = np.zeros(count, np.uint8) if tags is None else np.asarray(tags)
    if codes.shape != (count,) or not np.isin(codes, np.arange(len(SPLITS))).all():
        raise DataError(
            f"tags of shape {list(codes.shape)} for {count} rows: give each 0 to {len(SPLITS) - 1}"
        )
    return numbers, points, pictures, codes.astype(np.uint8)
