"""Rows of a shard: images and vectors by id, in files or in memory."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rgcluster.errors import DataError

__all__ = ["SPLITS", "AddedRows", "FileRows", "Filter", "PickedRows", "Positions", "Rows", "tag_of"]

SPLITS = ("train", "val", "test", "unlabelled")
"""A row's tag is the position of its split."""


def tag_of(split: str) -> int:
    """Return the tag of a split; DataError for an unknown one."""
    if split not in SPLITS:
        raise DataError(f"split {split!r}: the store knows {', '.join(SPLITS)}")
    return SPLITS.index(split)


@dataclass(frozen=True)
class Filter:
    """Restricts a search to some splits, and to rows with or without labels."""

    splits: tuple[str, ...] = SPLITS
    labelled: bool | None = None

    @property
    def tags(self) -> tuple[int, ...]:
        """The allowed tags, ascending."""
        return tuple(
            sorted(
                {
                    tag_of(split)
                    for split in self.splits
                    if self.labelled is None or (split != "unlabelled") == self.labelled
                }
            )
        )


class Rows(Protocol):
    """Rows that are read by their number."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows [n, ...]."""


class FileRows:
    """The rows of a .npy file, read with `pread`.

    A memory map would cause 12 page faults per image; one read copies it at once. The file stays open, so it can
    be read after its directory is removed.
    """

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self._offset, self._dtype, self._shape = int(mapped.offset), mapped.dtype, mapped.shape[1:]
        self._count = len(mapped)
        self._bytes = int(mapped.dtype.itemsize * np.prod(self._shape, dtype=np.int64))
        self._handle = os.open(path, os.O_RDONLY)
        self._path = path

    def __len__(self) -> int:
        return self._count

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self._shape), self._dtype)
        if not len(rows):
            return out
        flat = out.reshape(-1).data.cast("B")
        # Read consecutive rows at once.
        begins = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), len(rows)], strict=True):
            self._fill(flat[begin * self._bytes : end * self._bytes], int(rows[begin]))
        return out

    def _fill(self, target: memoryview, row: int) -> None:
        done = 0
        while done < len(target):
            read = os.preadv(self._handle, [target[done:]], self._offset + row * self._bytes + done)
            if not read:
                raise DataError(f"{self._path}: ends before row {row}; rebuild the store")
            done += read


class PickedRows:
    """Row i is row `row[i]` of `files[file[i]]`."""

    def __init__(self, files: list[Rows], file: NDArray[np.int64], row: NDArray[np.int64]) -> None:
        self._files, self._file, self._row = files, file, row

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        file, row = self._file[rows], self._row[rows]
        numbers = np.unique(file).tolist() or [0]
        parts = {number: self._files[number].read(row[file == number]) for number in numbers}
        if len(parts) == 1:
            return parts[numbers[0]]
        first = parts[numbers[0]]
        out = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for number, part in parts.items():
            out[file == number] = part
        return out


class AddedRows:
    """Rows in memory, which were added after the snapshot. An addition is freed when all its rows are removed."""

    def __init__(self) -> None:
        self._starts = list[int]()
        self._additions = list[NDArray[Any]]()
        self._left = list[int]()
        self.count = 0
        """Number of rows ever added."""

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows under the next numbers."""
        self._starts.append(self.count)
        self._additions.append(rows)
        self._left.append(len(rows))
        self.count += len(rows)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows, each once."""
        for at in (bisect_right(self._starts, row) - 1 for row in rows.tolist()):
            self._left[at] -= 1
            if not self._left[at]:
                self._additions[at] = self._additions[at][:0]

    def read(self, rows: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Return each row, as a view."""
        places = [(row, bisect_right(self._starts, row) - 1) for row in rows.tolist()]
        return [self._additions[at][row - self._starts[at]] for row, at in places]


class Positions:
    """Positions of rows by id: 0 to n - 1 for those of the snapshot, then in the order in which they were added.

    A position is never given twice. Changes take time in proportion to their rows. Not thread-safe.
    """

    def __init__(self, ids: NDArray[np.int64]) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        self._alive = np.ones(len(ids), bool)
        self._removed, self._next = 0, len(ids)
        self._added = dict[int, int]()

    def __len__(self) -> int:
        return len(self._ids) - self._removed + len(self._added)

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions [n] of ids [n], -1 for unknown ones."""
        found = np.full(len(ids), -1)
        if len(self._ids):
            at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            known = (self._ids[at] == ids) & self._alive[at]
            found[known] = self._order[at[known]]
        if self._added:
            for row in np.flatnonzero(found < 0):
                found[row] = self._added.get(int(ids[row]), -1)
        return found

    def add(self, ids: NDArray[np.int64]) -> None:
        """Give ids [n], none of them known, the next positions."""
        self._added.update(zip(ids.tolist(), range(self._next, self._next + len(ids)), strict=True))
        self._next += len(ids)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Remove known ids."""
        at = np.searchsorted(self._ids, ids)
        for number, place in zip(ids.tolist(), at.tolist(), strict=True):
            if self._added.pop(number, None) is None:
                self._alive[place] = False
                self._removed += 1

    def ids(self) -> NDArray[np.int64]:
        """Return every id [N], ascending."""
        added = np.fromiter(self._added, np.int64, len(self._added))
        return np.sort(np.concatenate([self._ids[self._alive], added]), kind="stable")
