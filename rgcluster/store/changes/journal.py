"""Changes since the snapshot was written: durable before they are acknowledged.

    changes/000000000012/000000000017-0002-0004.npz      the write 17 of shard 2 of 4 in the epoch 12

A file holds the changes that were written together, and appears whole or not at all. Only one process writes for a
shard in an epoch (`lease.py`). Replaying the epochs in order, and their files in the order of their names, gives the
present state, on any number of shards. Replicas follow their shard by reading the journal.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError
from rgcluster.store.disk.snapshot import Manifest, shard_of
from rgcluster.store.disk.versions import Versions

__all__ = ["Change", "ChangeFile", "Journal", "change_files", "encode", "epoch_directory"]

_NAME = re.compile(r"\d{12}-\d{4,}-\d{4,}\.npz")
_PATH = re.compile(rf"(\d{{12}})/({_NAME.pattern})")
_DIRECTORY = "changes"


@dataclass(frozen=True)
class Change:
    """Rows to add, replacing those of the same id; or, without vectors, ids to remove."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32] | None = None
    images: NDArray[np.uint8] | None = None
    tags: NDArray[np.uint8] | None = None

    @property
    def adds(self) -> bool:
        return self.vectors is not None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in vars(self).values() if array is not None)

    def select(self, mine: NDArray[np.bool_]) -> Change:
        """Return the part of the change that concerns the rows `mine` [n]."""
        if self.vectors is None or self.images is None or self.tags is None:
            return Change(self.ids[mine])
        return Change(self.ids[mine], self.vectors[mine], self.images[mine], self.tags[mine])


def encode(changes: Sequence[Change]) -> bytes:
    """Return the content of a file that holds these changes in order."""
    added = [change for change in changes if change.adds]
    arrays: dict[str, Any] = {
        "ids": np.concatenate([change.ids for change in changes]),
        # The number of rows of each change, negative for those that remove.
        "counts": np.array([len(change.ids) * (1 if change.adds else -1) for change in changes], np.int64),
    }
    for key in ("vectors", "images", "tags") if added else ():
        arrays[key] = np.concatenate([getattr(change, key) for change in added])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@dataclass(frozen=True)
class ChangeFile:
    """One file of the journal."""

    epoch: int
    directory: Location
    name: str

    @property
    def part(self) -> tuple[int, int]:
        """The shard that wrote it, and of how many."""
        _, part, parts = self.name.removesuffix(".npz").split("-")
        return int(part), int(parts)

    def read(self) -> list[Change]:
        """Return the changes in order; CheckpointError names a damaged file, which the zip checksums reveal."""
        file = self.directory / self.name
        try:
            with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as held:
                arrays = {key: held[key] for key in held.files}
            counts = arrays.pop("counts", None)
            if counts is None:  # a store of format 2
                return [Change(**arrays)]
            return list(_split(arrays.pop("ids"), counts.tolist(), arrays))
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError) as error:
            raise CheckpointError(
                f"{file}: damaged ({error}); restore the store from another snapshot, "
                "or remove this file to lose only these changes"
            ) from None


def _split(ids: NDArray[np.int64], counts: list[int], columns: dict[str, NDArray]) -> Iterator[Change]:
    first = first_added = 0
    for count in counts:
        rows = slice(first, first + abs(count))
        first = rows.stop
        if count < 0:
            yield Change(ids[rows])
        else:
            added = slice(first_added, first_added + count)
            first_added = added.stop
            yield Change(ids[rows], *(columns[key][added] for key in ("vectors", "images", "tags")))


class Journal:
    """Position of one reader, the shard `part` of `parts`, in the changes since a snapshot."""

    def __init__(self, place: Location, manifest: Manifest, part: int, parts: int) -> None:
        self._place, self._manifest, self._part, self._parts = place, manifest, part, parts
        self._versions = Versions(place)
        self._epoch, self._seen = 0, set[str]()

    def news(self) -> Iterator[Change]:
        """Yield the changes to this shard that are new to this object, in order."""
        newest = self._versions.newest()
        for file in change_files(self._place, self._manifest, self._epoch, newest):
            self._advance(file.epoch)
            if file.name not in self._seen:
                yield from self._mine(file)
                self._seen.add(file.name)
        self._advance(newest)

    def wrote(self, epoch: int, name: str) -> None:
        """Pass over a file that this shard wrote itself; `news` has been read up to it."""
        self._advance(epoch)
        self._seen.add(name)

    def _advance(self, epoch: int) -> None:
        if epoch > self._epoch:
            self._epoch, self._seen = epoch, set()

    def _mine(self, file: ChangeFile) -> Iterator[Change]:
        part, parts = file.part
        if parts == self._parts:
            if part == self._part:
                yield from file.read()
            return
        # Written with another number of shards, a change may concern any.
        for change in file.read():
            yield change.select(shard_of(change.ids, self._parts) == self._part)


def change_files(
    place: Location, manifest: Manifest, first: int = 0, last: int | None = None
) -> list[ChangeFile]:
    """Return the files of the changes since a snapshot, in order: those in the epochs `first` to `last`.

    `last` is the newest epoch if not given, or one that was read before: all that was acknowledged in an earlier
    epoch had been written when it began.
    """
    if last is None:
        last = Versions(place).newest()
    files = []
    if first == 0 and manifest.journal:
        directory = place / manifest.journal
        files = [ChangeFile(0, directory, name) for name in directory.names() if _NAME.fullmatch(name)]
    first = max(first, manifest.changes_from, 1)
    if first == last:  # one directory is faster to list than all
        paths = [f"{last:012d}/{name}" for name in epoch_directory(place, last).names()]
    else:
        paths = (place / _DIRECTORY).paths_below() if first < last else []
    for epoch, name in (match.groups() for path in paths if (match := _PATH.fullmatch(path))):
        if first <= int(epoch) <= last:
            files.append(ChangeFile(int(epoch), epoch_directory(place, int(epoch)), name))
    return files


def epoch_directory(place: Location, epoch: int) -> Location:
    """Return the directory of the changes made in an epoch."""
    return place / _DIRECTORY / f"{epoch:012d}"
