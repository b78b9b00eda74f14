"""A .npy file that grows by rows, can be continued after an interruption, and is hashed while it is written."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rgcluster.errors import DataError
from rgcluster.store.disk.snapshot import FileEntry, file_digest

__all__ = ["GrowingArray"]

_PIECE = 1 << 20


class GrowingArray:
    """Rows of one shape and type. Keeps the first `count` rows of an existing file and truncates the rest.

    Another number of rows in the end than `expected` costs another pass over the file, since its header comes first.
    """

    def __init__(
        self,
        path: Path,
        dtype: DTypeLike,
        row_shape: tuple[int, ...],
        count: int = 0,
        expected: int = 0,
    ) -> None:
        self._path, self._dtype, self._row_shape = path, np.dtype(dtype), row_shape
        self._count, self._expected = count, expected
        self._stream: IO[bytes] = path.open("r+b" if count else "w+b")
        header = self._header(expected)
        self._stream.write(header)
        self._hash = hashlib.sha256(header)
        left = count * int(self._dtype.itemsize * np.prod(self._row_shape, dtype=np.int64))
        self._stream.truncate(len(header) + left)
        while left:
            piece = self._stream.read(min(left, _PIECE))
            self._hash.update(piece)
            left -= len(piece)

    def append(self, rows: NDArray[Any]) -> None:
        content = np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8).data
        self._stream.write(content)
        self._hash.update(content)
        self._count += len(rows)

    def sync(self) -> None:
        """Sync the appended rows to disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def finish(self) -> FileEntry:
        """Write the header with the final number of rows, and close the file; return its size and checksum."""
        header = self._header(self._count)
        if len(header) != len(self._header(self._expected)):
            raise DataError(f"{self._path}: {self._count} rows do not fit the header")
        self._stream.seek(0)
        self._stream.write(header)
        self.sync()
        self.close()
        told = self._hash.hexdigest() if self._count == self._expected else file_digest(self._path)
        return FileEntry(self._path.stat().st_size, told)

    def close(self) -> None:
        self._stream.close()

    def _header(self, count: int) -> bytes:
        # numpy pads the header, so that it can be rewritten in place with another number of rows.
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (count, *self._row_shape),
        }
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, described)
        return buffer.getvalue()
