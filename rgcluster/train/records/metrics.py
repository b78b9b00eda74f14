"""`metrics.jsonl`: one JSON object a line, truncated to the checkpoint when a stage continues; and trackers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rgcluster.base.logs.jsonlines import append_line, as_lines, read_lines
from rgcluster.base.logs.notices import add_notice
from rgcluster.base.rundir import METRICS
from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError
from rgcluster.train.records.gauges import Gauges
from rgcluster.train.records.trackers import Tracker, open_trackers

__all__ = ["MetricsLog", "read_metrics"]

SECONDS_BETWEEN_WRITES = 5.0
"""Seconds between writes of the whole file where it cannot be appended to."""


class MetricsLog:
    """Appends lines to `metrics.jsonl`, and passes the same values to the named trackers."""

    def __init__(self, directory: Location, step: int, trackers: Sequence[str] = ()) -> None:
        self._file = directory / METRICS
        self._lines = [line for line in read_metrics(directory) if line["step"] <= step]
        self._write_all()
        self._kept_back = False
        self._directory = directory
        self._trackers: list[Tracker] = [
            Gauges(directory),
            *open_trackers(trackers, directory, step, self._left_out),
        ]

    def write(self, values: dict[str, Any]) -> None:
        """Add one line; it must hold `step`."""
        self._lines.append(values)
        if self._file.is_local:
            append_line(self._file, values)
        else:  # object stores cannot append
            self._kept_back = True
            if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
                self.flush()
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        del numbers["step"]
        for tracker in list(self._trackers):
            try:
                tracker.log(values["step"], numbers)
            except Exception as error:  # what watches a training never ends it
                self._trackers.remove(tracker)
                self._left_out(type(tracker).__name__, error)

    def flush(self) -> None:
        """Write pending lines, so that the lines of a checkpoint are stored before it."""
        if self._kept_back:
            self._write_all()
            self._kept_back = False

    def close(self) -> None:
        self.flush()
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                self._left_out(type(tracker).__name__, error)

    def _left_out(self, what: str, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        with suppress(OSError, RGClusterError):
            add_notice(self._directory, f"{what} failed and gets no more numbers ({text})")

    def _write_all(self) -> None:
        self._file.write_text(as_lines(self._lines))
        self._written = time.monotonic()


def read_metrics(directory: Location) -> list[dict[str, Any]]:
    """Return the lines of a stage's `metrics.jsonl`."""
    return read_lines(directory / METRICS)
