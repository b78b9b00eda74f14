"""Changes since the snapshot was written, one file each: durable before they are acknowledged.

    journal-<token>/000000000017-0002-0004.npz     the change 17, written by the shard 2 of 4

A file appears whole or not at all. Replaying the files in the order of their names gives the present state, on
any number of shards. Several processes may write to one journal: a file is never replaced, and a writer reads
all earlier changes before it takes the next number. Replicas follow their shard by reading the journal.
"""

from __future__ import annotations

import errno
import io
import os
import re
import uuid
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
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


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

    def select(self, mine: NDArray[np.bool_]) -> Change:
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
        """Parse a change; CheckpointError names a damaged file, which the zip checksums reveal."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls(**{key: arrays[key] for key in arrays.files})
        except (zipfile.BadZipFile, ValueError, TypeError, EOFError, OSError) as error:
            raise CheckpointError(
                f"{source}: damaged ({error}); restore the store from another snapshot, "
                "or remove this file to lose only this change"
            ) from None


class Journal:
    """The changes in one directory, as the shard `part` of `parts` sees them."""

    def __init__(self, directory: Location, part: int, parts: int) -> None:
        self._directory, self._part, self._parts = directory, part, parts
        self._seen: set[str] = set()
        self._next = 0

    def append(self, change: Change) -> bool:
        """Write a change durably under the next number; return False if another process has taken the number.

        Call `news` before, and again after False.
        """
        name = f"{self._next:012d}-{self._part:04d}-{self._parts:04d}.npz"
        if not _create(self._directory / name, change.to_bytes()):
            return False
        self._seen.add(name)
        self._next += 1
        return True

    def news(self) -> Iterator[Change]:
        """Yield the changes to this shard that this object has neither read nor written, in order."""
        for name in change_names(self._directory):
            if name in self._seen:
                continue
            number, part, parts = _parse(name)
            # With the same number of shards, a change concerns one shard; with another, it may concern any.
            if parts != self._parts:
                change = read_change(self._directory, name)
                yield change.select(shard_of(change.ids, self._parts) == self._part)
            elif part == self._part:
                yield read_change(self._directory, name)
            self._next = max(self._next, number + 1)
            self._seen.add(name)


def change_names(directory: Location) -> list[str]:
    """Return the names of all changes in order."""
    return [name for name in directory.names() if _NAME.fullmatch(name)]


def read_change(directory: Location, name: str) -> Change:
    """Return one change of a journal; CheckpointError if the file is damaged."""
    return Change.from_bytes((directory / name).read_bytes(), str(directory / name))


def _parse(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.removesuffix(".npz").split("-"))


def _create(target: Location, content: bytes) -> bool:
    """Create a file that survives a crash; return False, and leave the file as it is, if it exists.

    The check and the creation are one atomic step only on a local file system with hard links.
    """
    if not target.is_local:
        if target.exists():
            return False
        target.write_bytes(content, durable=True)
        return True
    temporary = target.parent / f"{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.write_bytes(content)
    try:
        _sync(temporary.path)
        os.link(temporary.path, target.path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():
            return False
        os.rename(temporary.path, target.path)
    finally:
        temporary.remove()
    _sync(target.parent.path)
    return True


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
