"""A .npy file that grows by rows and can be continued after an interruption."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rgcluster.errors import DataError

__all__ = ["GrowingArray"]


class GrowingArray:
    """Rows of one shape and type. Keeps the first `count` rows of an existing file and truncates the rest."""

    def __init__(self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...], count: int = 0) -> None:
        self.path, self._dtype, self._row_shape, self.count = path, np.dtype(dtype), row_shape, count
        self._stream: IO[bytes] = path.open("r+b" if count else "w+b")
        # numpy pads the header, so that it can be rewritten in place with another number of rows.
        self._header = self._write_header()
        if count:
            self._stream.truncate(self._header + count * self._row_bytes)
        self._stream.seek(0, os.SEEK_END)

    @property
    def _row_bytes(self) -> int:
        return int(self._dtype.itemsize * np.prod(self._row_shape, dtype=np.int64))

    def append(self, rows: NDArray[Any]) -> None:
        self._stream.write(np.ascontiguousarray(rows, self._dtype).data)
        self.count += len(rows)

    def sync(self) -> None:
        """Sync the appended rows to disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def read(self) -> NDArray[Any]:
        """Return all rows so far."""
        self._stream.flush()
        with self.path.open("rb") as stream:
            stream.seek(self._header)
            flat = np.fromfile(stream, self._dtype, self.count * self._row_bytes // self._dtype.itemsize)
        return flat.reshape(self.count, *self._row_shape)

    def finish(self) -> None:
        """Write the header with the final number of rows, and close the file."""
        self._stream.seek(0)
        if self._write_header() != self._header:
            raise DataError(f"{self.path}: {self.count} rows do not fit the header")
        self.sync()
        self.close()

    def close(self) -> None:
        self._stream.close()

    def _write_header(self) -> int:
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.count, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, described)
        return self._stream.tell()
