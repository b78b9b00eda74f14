"""Prometheus metrics of serving. Ray exports them on every node, and `GET /metrics` collects them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from ray.util.metrics import Counter, Gauge, Histogram

__all__ = ["RequestMetrics", "NoMetrics", "RayRequestMetrics", "TranslatorMetrics", "ours"]

PREFIXES = ("ray_rgcluster_", "ray_serve_deployment_", "ray_serve_num_http_")
SECONDS = [0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
GAUGE_S = 0.25
"""Seconds between two updates of a gauge; Ray exports less often."""
ROWS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


class RequestMetrics(Protocol):
    """Metrics of the HTTP layer."""

    def answered(self, route: str, status: int, seconds: float) -> None: ...

    def failed(self, code: str) -> None: ...

    def waiting(self, requests: int) -> None: ...


class NoMetrics:
    """Discards all metrics."""

    def answered(self, route: str, status: int, seconds: float) -> None: ...

    def failed(self, code: str) -> None: ...

    def waiting(self, requests: int) -> None: ...


class RayRequestMetrics:
    """Metrics of the HTTP layer, exported by Ray."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "rgcluster_request_seconds",
            "from a request's headers to its answer",
            SECONDS,
            ("route", "status"),
        )
        self._errors = Counter("rgcluster_errors", "answers that were errors, by code", ("code",))
        self._waiting = Gauge("rgcluster_requests_waiting", "requests translated or waiting for it")
        self._last_update = 0.0

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._seconds.observe(seconds, {"route": route, "status": str(status)})

    def failed(self, code: str) -> None:
        self._errors.inc(1, {"code": code})

    def waiting(self, requests: int) -> None:
        now = time.monotonic()
        if now - self._last_update >= GAUGE_S:
            self._last_update = now
            self._waiting.set(requests)


class TranslatorMetrics:
    """A translator's metrics, exported by Ray."""

    def __init__(self, model: str) -> None:
        self._tags = {"model": model}
        self._rows = Histogram("rgcluster_batch_rows", "samples in a batch", ROWS, ("model",))
        self._queue = Gauge("rgcluster_queue", "requests that no batch has taken yet", ("model",))

    def batch(self, rows: int, waiting: int) -> None:
        """Count a batch as it begins."""
        self._rows.observe(rows, self._tags)
        self._queue.set(waiting, self._tags)


def ours(exposition: str) -> Iterable[str]:
    """Yield the lines of a Prometheus exposition that belong to this package or to Serve."""
    for line in exposition.splitlines():
        name = line.split(" ")[2] if line.startswith("# ") and line.count(" ") > 1 else line
        if name.startswith(PREFIXES):
            yield line
