"""A file of JSON lines that one process adds to for hours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rgcluster.base.logs.jsonlines import append_line, as_lines, read_lines
from rgcluster.base.storage import Location

__all__ = ["GrowingFile", "read_growing"]

SECONDS_BETWEEN_WRITES = 5.0
"""Seconds between writes where files cannot be appended to."""
SEGMENT_LINES = 512
"""Lines of a segment."""


class GrowingFile:
    """Appends lines to `file`, which begins with `lines`.

    Object stores cannot append. There what was added lies beside `file` in segments, named by the number of lines
    before them, of which only the last is written anew; `close` joins them.
    """

    def __init__(self, file: Location, lines: Sequence[dict[str, Any]]) -> None:
        self._file, self._lines = file, list(lines)
        self._start = self._stored = len(self._lines)
        self._written = time.monotonic()
        self._join()

    def add(self, line: dict[str, Any]) -> None:
        """Add one line."""
        self._lines.append(line)
        if self._file.is_local:
            append_line(self._file, line)
        elif len(self._lines) - self._start == SEGMENT_LINES:
            self.flush()
            self._start = len(self._lines)
        elif time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Write what was kept back."""
        if not self._file.is_local and self._stored < len(self._lines):
            segment = _segments(self._file) / f"{self._start:012d}"
            segment.write_text(as_lines(self._lines[self._start :]))
            self._stored, self._written = len(self._lines), time.monotonic()

    def close(self) -> None:
        """Write what was kept back, as one file."""
        if not self._file.is_local:
            self._join()

    def _join(self) -> None:
        self._file.write_text(as_lines(self._lines))
        if not self._file.is_local:
            _segments(self._file).remove()


def read_growing(file: Location) -> list[dict[str, Any]]:
    """Return all lines of the file, whether its writer closed it, still adds to it or died."""
    lines = read_lines(file)
    if not file.is_local:
        folder = _segments(file)
        for name in folder.names():
            # A writer that died while it joined them left segments whose lines the file has, too.
            lines[int(name) :] = read_lines(folder / name)
    return lines


def _segments(file: Location) -> Location:
    return file.parent / f"{file.name}.segments"
