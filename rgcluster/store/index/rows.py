"""Rows of a shard: images and vectors by id, in files or in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rgcluster.errors import DataError, UnknownId

__all__ = ["SPLITS", "ArrayRows", "FileRows", "Filter", "PickedRows", "RowTable", "Rows", "Source", "tag_of"]

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


class ArrayRows:
    """Rows in memory, which were added after the snapshot."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._array[rows]


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


@dataclass(frozen=True)
class Source:
    """Vectors float32 [n, d] and images uint8 [n, H, W, C] under the same row numbers."""

    vectors: Rows
    images: Rows


class RowTable:
    """Row numbers by id. Not thread-safe; the shard holds a lock."""

    def __init__(self) -> None:
        self.ids = np.empty(0, np.int64)
        """Every id [N], ascending."""
        self._source, self._row = np.empty(0, np.int64), np.empty(0, np.int64)
        self._sources: list[Source] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: NDArray[np.int64], source: Source, rows: NDArray[np.int64]) -> None:
        """Add rows of a source under new ids."""
        self._sources.append(source)
        together = np.concatenate([self.ids, ids])
        order = np.argsort(together, kind="stable")
        self.ids = together[order]
        self._source = np.concatenate([self._source, np.full(len(ids), len(self._sources) - 1)])[order]
        self._row = np.concatenate([self._row, rows])[order]

    def remove(self, ids: NDArray[np.int64]) -> int:
        """Remove ids, ignoring unknown ones; return how many were removed."""
        keep = ~np.isin(self.ids, ids)
        removed = len(keep) - int(keep.sum())
        if removed:
            self.ids, self._source, self._row = self.ids[keep], self._source[keep], self._row[keep]
        return removed

    def find(self, ids: NDArray[np.int64], what: Callable[[Source], Rows]) -> Callable[[], NDArray[Any]]:
        """Look up ids [n] and return a function that reads their rows without a lock. UnknownId for an unknown id."""
        at = np.searchsorted(self.ids, ids)
        known = at < len(self.ids)
        known[known] = self.ids[at[known]] == ids[known]
        if not known.all():
            raise UnknownId(f"the image {ids[~known][0]} is not in the store: take ids from a search")
        source, row, sources = self._source[at], self._row[at], list(self._sources)

        def read() -> NDArray[Any]:
            files: list[Rows] = [what(each) for each in sources]
            return PickedRows(files, source, row).read(np.arange(len(row)))

        return read
