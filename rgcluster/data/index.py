"""The rows of a split: their ids, labels, file names and places in the shards.

The index of many rows is a directory of arrays, built once on each machine and memory-mapped, so that its processes
share one copy, of which they read the pages that they need. Between processes it travels as its origin.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rgcluster.base.locks.files import locked
from rgcluster.errors import StorageError

__all__ = ["MAPPED_ROWS", "ROWS_PER_GROUP", "FileNames", "LabelColumns", "RowIndex", "joined", "mapped"]

ROWS_PER_GROUP = 64
"""Rows in a row group: few, so that reading a single image is cheap."""
MAPPED_ROWS = 1 << 20
"""Fewest rows of a split whose index is memory-mapped."""

Rows = npt.NDArray[np.int64]


class FileNames(Sequence[str]):
    """Names of files in one array of UTF-8: that of row i ends before `ends[i]`."""

    def __init__(self, content: npt.NDArray[np.uint8], ends: Rows) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, names: pa.StringArray) -> FileNames:
        _, ends, content = names.buffers()
        edges = np.frombuffer(ends, np.int32)[names.offset : names.offset + len(names) + 1].astype(np.int64)
        held = np.empty(0, np.uint8) if content is None else np.frombuffer(content, np.uint8)
        return cls(held[edges[0] : edges[-1]], edges[1:] - edges[0])

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[at] for at in range(*row.indices(len(self)))]
        at = range(len(self))[row]
        return self.content[self.ends[at - 1] if at else 0 : self.ends[at]].tobytes().decode()

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: Rows) -> FileNames:
        names = [self[row].encode() for row in rows.tolist()]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return FileNames(np.frombuffer(b"".join(names), np.uint8), ends)


@dataclass(frozen=True)
class LabelColumns:
    """Some columns of labels int8 [N, A], which are read with the rows that are indexed."""

    labels: npt.NDArray[np.int8]
    columns: Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Any) -> npt.NDArray[np.int8]:
        return self.labels[rows][..., list(self.columns)]


@dataclass(frozen=True)
class RowIndex:
    """Rows in the order of the shards: ids [N], labels int8 [N, A], file names [N] and places [N, 2] (file, row)."""

    row_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    file_names: Sequence[str]
    places: npt.NDArray[np.integer[Any]]
    edges: Rows | None = None
    """`group_edges`, where they are known."""
    origin: Callable[[], RowIndex] | None = None
    """Opens the index in another process, if it is memory-mapped."""

    def __len__(self) -> int:
        return len(self.row_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is not None:
            return self.origin, ()
        return RowIndex, tuple(getattr(self, known.name) for known in fields(self))

    @cached_property
    def group_edges(self) -> Rows:
        """Return the first row of each row group that holds any, and the number of rows: [groups + 1]."""
        return _group_edges(self.places) if self.edges is None else self.edges

    def columns(self, columns: Sequence[int]) -> LabelColumns:
        """Return these columns of the labels, without a copy."""
        return LabelColumns(self.labels, columns)

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> RowIndex:
        """Return some rows, in memory."""
        chosen = np.arange(len(self))[rows]
        names = self.file_names
        return RowIndex(
            self.row_ids[chosen],
            self.labels[chosen],
            names.take(chosen) if isinstance(names, FileNames) else [names[row] for row in chosen],
            self.places[chosen],
        )


def joined(parts: Sequence[RowIndex]) -> RowIndex:
    """Return the rows of all parts, in memory."""
    names = [part.file_names for part in parts if isinstance(part.file_names, FileNames)]
    starts = np.cumsum([0, *(len(part.content) for part in names)])
    places = np.concatenate([part.places for part in parts])
    return RowIndex(
        np.concatenate([part.row_ids for part in parts]),
        np.concatenate([part.labels for part in parts]),
        FileNames(
            np.concatenate([part.content for part in names]),
            np.concatenate([part.ends + start for part, start in zip(names, starts, strict=False)]),
        ),
        places,
        _group_edges(places),
    )


def mapped(
    directory: Path, width: int, parts: Callable[[], Iterable[RowIndex]], origin: Callable[[], RowIndex]
) -> RowIndex:
    """Return the index in `directory`, whose rows have `width` labels; the first caller writes it from `parts`.

    Others on this machine wait for it. StorageError where there is no room.
    """
    if not directory.exists():
        with locked(directory.with_suffix(".lock")):
            if not directory.exists():
                unfinished = directory.with_suffix(".tmp")
                shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
                unfinished.mkdir()
                try:
                    _write(unfinished, parts())
                except BaseException as error:
                    shutil.rmtree(unfinished)
                    if isinstance(error, OSError):
                        raise StorageError(
                            f"{unfinished}: cannot write the index of the rows ({error.strerror}); free some space, "
                            "or set TMPDIR to another place"
                        ) from None
                    raise
                unfinished.rename(directory)
    row_ids = _map(directory / "row_ids", np.int64)
    return RowIndex(
        row_ids,
        _map(directory / "labels", np.int8).reshape(len(row_ids), width),
        FileNames(_map(directory / "names", np.uint8), _map(directory / "ends", np.int64)),
        _map(directory / "places", np.int32).reshape(-1, 2),
        _map(directory / "edges", np.int64),
        origin,
    )


def _write(directory: Path, parts: Iterable[RowIndex]) -> None:
    """Write the arrays of all parts, which hold whole files of the shards, one after another."""
    rows = length = 0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((directory / name).open("wb"))
            for name in ("row_ids", "labels", "names", "ends", "places", "edges")
        }
        for part in parts:
            names = part.file_names
            assert isinstance(names, FileNames)
            arrays = {
                "row_ids": part.row_ids,
                "labels": part.labels,
                "names": names.content,
                "ends": names.ends + length,
                "places": part.places.astype(np.int32),
                "edges": _group_edges(part.places)[:-1] + rows,
            }
            for name, values in arrays.items():
                files[name].write(np.ascontiguousarray(values).data)
            rows, length = rows + len(part), length + len(names.content)
        files["edges"].write(np.array([rows], np.int64).data)


def _map(file: Path, dtype: Any) -> npt.NDArray[Any]:
    # An empty file cannot be mapped.
    return np.asarray(np.memmap(file, dtype, "r")) if file.stat().st_size else np.empty(0, dtype)


def _group_edges(places: npt.NDArray[np.integer[Any]]) -> Rows:
    if not len(places):
        return np.zeros(1, np.int64)
    groups = places // (1, ROWS_PER_GROUP)
    changes = (groups[1:] != groups[:-1]).any(axis=1)
    return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(places)]])
