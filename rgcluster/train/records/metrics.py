"""`metrics.jsonl`: one JSON object a line, truncated to the checkpoint when a stage continues; and trackers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rgcluster.base.logs.growing import GrowingFile, read_growing
from rgcluster.base.logs.notices import add_notice
from rgcluster.base.rundir import METRICS
from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError
from rgcluster.train.records.gauges import Gauges
from rgcluster.train.records.trackers import Tracker, open_trackers

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends lines to `metrics.jsonl`, and passes the same values to the named trackers."""

    def __init__(self, directory: Location, step: int, trackers: Sequence[str] = ()) -> None:
        before = [line for line in read_metrics(directory) if line["step"] <= step]
        self._file = GrowingFile(directory / METRICS, before)
        self._directory = directory
        self._trackers: list[Tracker] = [
            Gauges(directory),
            *open_trackers(trackers, directory, step, self._left_out),
        ]

    def write(self, values: dict[str, Any]) -> None:
        """Add one line; it must hold `step`."""
        self._file.add(values)
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
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:
                self._left_out(type(tracker).__name__, error)

    def _left_out(self, what: str, error: Exception) -> None:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        with suppress(OSError, RGClusterError):
            add_notice(self._directory, f"{what} failed and gets no more numbers ({text})")


def read_metrics(directory: Location) -> list[dict[str, Any]]:
    """Return the lines of a stage's `metrics.jsonl`."""
    return read_growing(directory / METRICS)
