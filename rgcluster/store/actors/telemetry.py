"""Prometheus metrics of a store, through Ray's exporter (names begin with `ray_rgcluster_store_`)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from rgcluster.errors import RGClusterError

__all__ = ["ClientMeter", "ShardMeter"]

_SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
_EVERY = 5.0
log = logging.getLogger(__name__)


class ShardMeter:
    """Metrics of one shard: queries, search latency, size and restarts."""

    def __init__(self, store: str, part: int, replica: int, restarts: int) -> None:
        tags = {"store": store, "shard": str(part), "replica": str(replica)}
        keys = tuple(tags)
        self._queries = Counter("rgcluster_store_queries", "Rows searched for.", keys)
        self._latency = Histogram(
            "rgcluster_store_search_seconds", "A search in a shard.", boundaries=_SECONDS, tag_keys=keys
        )
        self._vectors = Gauge("rgcluster_store_vectors", "Vectors that can be found.", keys)
        self._memory = Gauge("rgcluster_store_memory_bytes", "Memory of the index and of changes.", keys)
        self._restarts = Gauge("rgcluster_store_restarts", "Times that Ray restarted the shard.", keys)
        for metric in (self._queries, self._latency, self._vectors, self._memory, self._restarts):
            metric.set_default_tags(tags)
        self._times_restarted = restarts

    def searched(self, rows: int, seconds: float) -> None:
        self._queries.inc(rows)
        self._latency.observe(seconds)

    def watch(self, info: Callable[[], dict[str, Any]]) -> None:
        """Report the shard's size every few seconds until the process ends."""

        def report() -> None:
            while True:
                try:
                    row = info()
                    self._vectors.set(row["count"])
                    self._memory.set(row["memory"])
                except (RGClusterError, OSError) as error:  # of the storage; the next report may succeed
                    log.warning("no report on the store's size: %s", error)
                # Repeated, because Ray drops a gauge that is not updated.
                self._restarts.set(self._times_restarted)
                time.sleep(_EVERY)

        threading.Thread(target=report, daemon=True, name="store-metrics").start()


class ClientMeter:
    """Metrics of one client: whole requests, from scatter to merge."""

    def __init__(self, store: str) -> None:
        self._latency = Histogram(
            "rgcluster_store_request_seconds",
            "A request to all shards.",
            boundaries=_SECONDS,
            tag_keys=("store",),
        )
        self._failed = Counter(
            "rgcluster_store_requests_failed", "Requests that ended in an error.", ("store",)
        )
        for metric in (self._latency, self._failed):
            metric.set_default_tags({"store": store})

    def succeeded(self, seconds: float) -> None:
        self._latency.observe(seconds)

    def failed(self) -> None:
        self._failed.inc()
