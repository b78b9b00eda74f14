"""Writer of one shard's files, in any process that sees the snapshot; an interrupted one is continued by the next."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.base.locks.files import take_lock
from rgcluster.base.locks.private import private_directory
from rgcluster.base.storage import Location, digest_bytes
from rgcluster.errors import DataError, StorageError
from rgcluster.store.disk.growing import GrowingArray
from rgcluster.store.disk.snapshot import FILES, FileEntry, ShardEntry

__all__ = ["ShardPlan", "ShardWriter", "building_directory", "is_saved"]

_LOCK_SECONDS = 60.0
"""A killed process takes a moment to end."""


@dataclass(frozen=True)
class ShardPlan:
    """The shard `number` of a snapshot that is being written."""

    target: str
    """Location of the snapshot."""
    partial: str
    """Name of the directory that holds what is not finished."""
    number: int
    directory: str
    """Name of the finished shard's directory."""
    dimension: int
    image_shape: tuple[int, int, int]
    expected: int = 0
    """Number of rows, if it is known; another number is no error."""


class ShardWriter:
    """Writes the rows of one shard in the order in which they are appended.

    Rows may be appended in numbered pieces. Then the rows up to the last save, every `save_seconds`, outlive this
    process, and the next writer of the same plan begins with piece `pieces()`. DataError if another process writes
    the shard.
    """

    def __init__(self, plan: ShardPlan, save_seconds: float = 0.0) -> None:
        self._place, self._save_seconds = Location(plan.target), save_seconds
        home = building_directory(self._place) / plan.partial
        home.mkdir(parents=True, exist_ok=True)
        self._rows, self._progress = (home / f"shard-{plan.number:05d}{kind}" for kind in ("", ".json"))
        lock = take_lock(self._rows.with_suffix(".lock"), _LOCK_SECONDS)
        if lock is None:
            raise DataError(f"{plan.target}: another process is writing this snapshot; wait for it")
        self._lock, self._directory = lock, plan.directory
        self._pieces, self._count, self._entry = self._saved()
        if self._entry is None:
            self._rows.mkdir(exist_ok=True)
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "ids.npy": (np.int64, ()),
            "vectors.npy": (np.float32, (plan.dimension,)),
            "images.npy": (np.uint8, plan.image_shape),
            "tags.npy": (np.uint8, ()),
        }
        self._files = {
            name: GrowingArray(self._rows / name, *kinds[name], self._count, plan.expected)
            for name in (FILES if self._entry is None else ())
        }
        self._save_at = time.monotonic() + save_seconds

    def pieces(self) -> int:
        """Return the number of pieces that are held."""
        return self._pieces

    def append(self, columns: Sequence[NDArray[Any]], piece: int | None = None) -> None:
        """Append ids [N], vectors [N, d], images [N, H, W, C] and tags [N], valid ones of this shard.

        A piece that is held already is ignored; StorageError for one after a gap.
        """
        if piece is not None and piece < self._pieces:
            return
        if piece is not None and piece > self._pieces:
            raise StorageError(
                f"{self._rows}: piece {piece} came after {self._pieces}; run the same command again"
            )
        for name, values in zip(FILES, columns, strict=True):
            self._files[name].append(values)
        self._count += len(columns[0])
        if piece is not None:
            self._pieces = piece + 1
            if time.monotonic() >= self._save_at:
                for file in self._files.values():
                    file.sync()
                self._save()

    def finish(self) -> ShardEntry:
        """Complete the files; return what the manifest says about them. DataError for an id that came twice."""
        if self._entry is None:
            sums = {name: file.finish() for name, file in self._files.items()}
            unique, counts = np.unique(np.load(self._rows / FILES[0], allow_pickle=False), return_counts=True)
            if (counts > 1).any():
                raise DataError(
                    f"the id {unique[counts > 1][0]} was appended twice: remove one of the two images"
                )
            self._entry = ShardEntry(self._directory, len(unique), sums)
            if self._pieces:
                self._save()
        return self._entry

    def move(self) -> None:
        """Move the finished files to their place in the snapshot, unless they are there."""
        assert self._entry is not None
        place = self._place / self._entry.directory
        if not self._rows.exists():
            return
        if place.is_local:
            os.utime(self._rows)  # its age as an orphan counts from here
            self._rows.rename(place.local())
        else:
            for name in FILES:
                (place / name).upload(self._rows / name)
            shutil.rmtree(self._rows)

    def close(self) -> None:
        """Release the files; what was not saved is lost."""
        for file in self._files.values():
            file.close()
        self._lock.close()

    def _saved(self) -> tuple[int, int, ShardEntry | None]:
        """Return what an earlier writer saved: pieces, rows, and the finished shard's entry."""
        if not self._progress.exists():
            return 0, 0, None
        pieces, count, entry = json.loads(self._progress.read_text())
        if entry is None:
            return pieces, count, None
        files = {name: FileEntry(**each) for name, each in entry["files"].items()}
        if not self._rows.exists() and not (self._place / entry["directory"]).exists():
            return 0, 0, None  # it was removed as an orphan
        return pieces, count, ShardEntry(entry["directory"], entry["count"], files)

    def _save(self) -> None:
        state = [self._pieces, self._count, None if self._entry is None else asdict(self._entry)]
        Location(self._progress).write_bytes(json.dumps(state).encode(), durable=True)
        self._save_at = time.monotonic() + self._save_seconds


def building_directory(target: Location) -> Path:
    """Return the directory of what is not finished: the target, or a local one if the target is remote."""
    if target.is_local:
        return target.local()
    return private_directory(f"building/{digest_bytes(str(target).encode())}")


def is_saved(partial: Path) -> bool:
    """Return whether the next writer may continue with what is in the directory of a plan."""
    return any(partial.glob("shard-*.json"))
