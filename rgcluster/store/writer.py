"""Writing a snapshot: streamed, in bounded memory, and there in full or not at all.

A writer fills a directory beside the target and renames it at the end. What an
interrupted writer leaves is never called a store, and the next one removes it.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rgcluster.errors import DataError
from rgcluster.storage import Location
from rgcluster.store.index import NO_ID, as_vectors
from rgcluster.store.snapshot import (
    FILES,
    MANIFEST,
    FileEntry,
    Manifest,
    ShardEntry,
    file_digest,
    shard_of,
    verify,
)

__all__ = ["SnapshotWriter", "copy_snapshot"]

_PARTIAL = ".partial-"
_LOCK = "lock"
_COPY_ROWS = 256


class SnapshotWriter:
    """Streams rows into a new snapshot on a local path; leaving it without `commit` leaves nothing.

    DataError if the location holds files already, unless `replace` is set; then
    the old snapshot is exchanged for the new one by `commit`.
    """

    def __init__(
        self,
        location: Location | str | os.PathLike[str],
        num_shards: int,
        dimension: int,
        image_shape: tuple[int, int, int],
        digests: Mapping[str, str],
        *,
        name: str | None = None,
        replace: bool = False,
    ) -> None:
        if num_shards < 1:
            raise DataError(f"{num_shards} shards: a store needs 1 or more")
        self._target = Location(location).local()
        self._replace = replace
        self._refuse_to_overwrite()
        self._name, self._dimension, self._digests = name or self._target.name, dimension, dict(digests)
        self._image_shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
        self._target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(self._target)
        self._partial = _beside(self._target)
        self._partial.mkdir()
        self._lock = _lock(self._partial)
        self._shards: list[dict[str, _GrowingArray]] = []
        self._open = True
        try:
            for number in range(num_shards):
                directory = self._partial / f"shard-{number:05d}"
                directory.mkdir()
                self._shards.append(
                    {
                        "ids.npy": _GrowingArray(directory / "ids.npy", np.int64, ()),
                        "vectors.npy": _GrowingArray(directory / "vectors.npy", np.float32, (dimension,)),
                        "images.npy": _GrowingArray(directory / "images.npy", np.uint8, self._image_shape),
                    }
                )
        except BaseException:
            self.abort()
            raise

    def append(self, ids: ArrayLike, vectors: ArrayLike, images: ArrayLike) -> None:
        """Append ids [N], vectors float32 [N, d], images uint8 [N, H, W, C]; DataError where they misfit."""
        if not self._open:
            raise DataError(f"{self._target}: the writer is closed; open another")
        numbers, rows, pictures = (
            np.asarray(ids, np.int64),
            as_vectors(vectors, self._dimension),
            np.asarray(images),
        )
        if pictures.dtype != np.uint8 or pictures.shape != (len(rows), *self._image_shape):
            raise DataError(
                f"images {pictures.dtype} {list(pictures.shape)}: this store needs uint8 "
                f"{[len(rows), *self._image_shape]}"
            )
        if numbers.shape != (len(rows),) or (numbers == NO_ID).any():
            raise DataError(
                f"ids of shape {list(numbers.shape)} for {len(rows)} rows: give each an id other than -1"
            )
        owners = shard_of(numbers, len(self._shards))
        for owner in np.unique(owners):
            mine = owners == owner
            files = self._shards[owner]
            files["ids.npy"].append(numbers[mine])
            files["vectors.npy"].append(rows[mine])
            files["images.npy"].append(pictures[mine])

    def commit(self) -> Manifest:
        """Write the manifest and put the snapshot in its place; DataError for no rows or an id twice."""
        if not self._open:
            raise DataError(f"{self._target}: the writer is closed; open another")
        try:
            manifest = self._finish()
            Location(self._partial / MANIFEST).write_json(asdict(manifest))
            _sync(self._partial / MANIFEST)
            self._move_into_place()
        except BaseException:
            self.abort()
            raise
        # Only now: until it is in place, the lock keeps other writers from clearing it away.
        (self._target / _LOCK).unlink(missing_ok=True)
        self._close()
        return manifest

    def abort(self) -> None:
        """Remove everything written; harmless after `commit`."""
        if self._open:
            for files in self._shards:
                for file in files.values():
                    file.close()
            shutil.rmtree(self._partial, ignore_errors=True)
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _finish(self) -> Manifest:
        entries = []
        for files in self._shards:
            for file in files.values():
                file.finish()
            path = files["ids.npy"].path
            unique, counts = np.unique(np.load(path, allow_pickle=False), return_counts=True)
            if (counts > 1).any():
                raise DataError(
                    f"the id {unique[counts > 1][0]} was appended twice: remove one of the two images"
                )
            sums = {
                name: FileEntry(file.path.stat().st_size, file_digest(file.path))
                for name, file in files.items()
            }
            entries.append(ShardEntry(path.parent.name, len(unique), sums))
        count = sum(entry.count for entry in entries)
        if not count:
            raise DataError(f"{self._target}: nothing was appended; a store needs 1 image or more")
        return Manifest(self._name, self._dimension, self._image_shape, count, self._digests, tuple(entries))

    def _refuse_to_overwrite(self) -> None:
        if self._target.exists() and not self._target.is_dir():
            raise DataError(f"{self._target}: a file is in the way; choose another place")
        if self._target.exists() and any(self._target.iterdir()) and not self._replace:
            raise DataError(f"{self._target}: holds files already; remove it, or choose another place")

    def _move_into_place(self) -> None:
        self._refuse_to_overwrite()
        if self._target.exists() and any(self._target.iterdir()):
            # Named as a partial, so that the next writer clears it away if we are interrupted here.
            old = _beside(self._target)
            self._target.rename(old)
            self._partial.rename(self._target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self._partial.rename(self._target)
        _sync(self._target.parent)

    def _close(self) -> None:
        self._open = False
        self._lock.close()


def copy_snapshot(
    source: Location | str | os.PathLike[str],
    target: Location | str | os.PathLike[str],
    num_shards: int | None = None,
) -> Manifest:
    """Copy a verified snapshot, onto another number of shards if given; memory holds a few hundred images."""
    manifest = verify(source)
    with SnapshotWriter(
        target, num_shards or manifest.num_shards, manifest.dimension, manifest.image_shape, manifest.digests
    ) as writer:
        for entry in manifest.shards:
            directory = Location(source).local() / entry.directory
            ids, vectors, images = (
                np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in FILES
            )
            for start in range(0, entry.count, _COPY_ROWS):
                rows = slice(start, start + _COPY_ROWS)
                writer.append(ids[rows], vectors[rows], images[rows])
        return writer.commit()


class _GrowingArray:
    """A .npy file that grows by rows; numpy pads its header for the rows to come."""

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.path, self._dtype, self._row_shape, self._count = path, np.dtype(dtype), row_shape, 0
        self._stream: IO[bytes] = path.open("wb")
        self._header = self._write_header()

    def append(self, rows: NDArray[Any]) -> None:
        self._stream.write(np.ascontiguousarray(rows, self._dtype).data)
        self._count += len(rows)

    def finish(self) -> None:
        self._stream.seek(0)
        if self._write_header() != self._header:
            raise DataError(f"{self.path}: {self._count} rows do not fit the header")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.close()

    def close(self) -> None:
        self._stream.close()

    def _write_header(self) -> int:
        shape = (self._count, *self._row_shape)
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._stream, described)
        return self._stream.tell()


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}{_PARTIAL}{uuid.uuid4().hex[:8]}")


def _lock(directory: Path) -> IO[bytes]:
    stream = (directory / _LOCK).open("wb")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise
    return stream


def _remove_stale(target: Path) -> None:
    """Remove what interrupted writers left; the lock of a living one cannot be taken."""
    for directory in target.parent.glob(f"{glob.escape(target.name)}{_PARTIAL}*"):
        try:
            if (directory / _LOCK).exists():
                _lock(directory).close()
        except BlockingIOError:
            continue
        shutil.rmtree(directory, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
