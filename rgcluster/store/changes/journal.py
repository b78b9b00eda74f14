"""Changes since the snapshot was written, one file each: durable before they are acknowledged.

    journal-<token>/000000000017-0002-0004.npz     the change 17, written by the shard 2 of 4

A file appears whole or not at all. Replaying them in the order of their names gives the present state, on any
number of shards: an id belongs to one shard at a time, and a shard begins after the last change it can see.
The journal is also how replicas follow.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError
from rgcluster.store.disk.snapshot import shard_of

__all__ = ["Change", "Journal", "change_names", "read_change"]

_NAME = re.compile(r"\d{12}-\d{4,}-\d{4,}\.npz")


@dataclass(frozen=True)
class Change:
    """Rows that come (replacing those of the same id), or ids that go (without vectors)."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32] | None = None
    images: NDArray[np.uint8] | None = None
    tags: NDArray[np.uint8] | None = None

    @property
    def adds(self) -> bool:
        return self.vectors is not None

    def of(self, mine: NDArray[np.bool_]) -> Change:
        """Return the part of the change that concerns the rows `mine` [n]."""
        if self.vectors is None or self.images is None or self.tags is None:
            return Change(self.ids[mine])
        return Change(self.ids[mine], self.vectors[mine], self.images[mine], self.tags[mine])

    def to_bytes(self) -> bytes:
        arrays = {key: value for key, value in vars(self).items() if value is not None}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> Change:
        """Read a change; CheckpointError names the file where it is damaged (a zip's own checksums)."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls(**{key: arrays[key] for key in arrays.files})
        except (zipfile.BadZipFile, ValueError, TypeError, EOFError, OSError) as error:
            raise CheckpointError(
                f"{source}: damaged ({error}); restore the store from another snapshot, "
                "or remove this file to lose this change alone"
            ) from None


class Journal:
    """The changes in one directory, as the shard `part` of `parts` sees them."""

    def __init__(self, directory: Location, part: int, parts: int) -> None:
        self._directory, self._part, self._parts = directory, part, parts
        self._seen: set[str] = set()
        self._next = 0

    def append(self, change: Change) -> None:
        """Write a change so that it survives a crash."""
        name = f"{self._next:012d}-{self._part:04d}-{self._parts:04d}.npz"
        (self._directory / name).write_bytes(change.to_bytes(), durable=True)
        self._seen.add(name)
        self._next += 1

    def news(self) -> Iterator[Change]:
        """Yield what concerns this shard and was not yet read or written here, in order."""
        for name in change_names(self._directory):
            number, part, parts = _parse(name)
            self._next = max(self._next, number + 1)
            if name in self._seen:
                continue
            # Of as many shards, each writes what concerns itself; of another number, any may concern us.
            if parts != self._parts:
                change = read_change(self._directory, name)
                yield change.of(shard_of(change.ids, self._parts) == self._part)
            elif part == self._part:
                yield read_change(self._directory, name)
            self._seen.add(name)


def change_names(directory: Location) -> list[str]:
    """Return the names of all changes in order."""
    return [name for name in directory.names() if _NAME.fullmatch(name)]


def read_change(directory: Location, name: str) -> Change:
    """Return one change of a journal; CheckpointError where the file is damaged."""
    return Change.from_bytes((directory / name).read_bytes(), str(directory / name))


def _parse(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.removesuffix(".npz").split("-"))
