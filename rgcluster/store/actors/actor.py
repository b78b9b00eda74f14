"""Ray actor that serves one shard. After a restart it loads the shard from disk again."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import psutil
import ray

from rgcluster.base.cluster.internals import times_restarted
from rgcluster.base.placement import CPUS_PER_SHARD
from rgcluster.base.storage import digest_bytes
from rgcluster.store.actors.pool import CONCURRENCY
from rgcluster.store.actors.socket_server import SocketServer, address
from rgcluster.store.actors.telemetry import ShardMeter
from rgcluster.store.disk.snapshot import Manifest
from rgcluster.store.shard.host import Host
from rgcluster.store.shard.requests import ShardRequest
from rgcluster.store.shard.shard import IndexSettings

__all__ = ["ShardActor"]


class ShardProcess(Host):
    """Process of one shard's replica.

    It loads the shard on the first call. An error in the constructor would end the actor permanently and lose
    its type.
    """

    def __init__(
        self,
        name: str,
        location: str,
        shard: tuple[int, int],
        copy: tuple[int, int],
        settings: IndexSettings,
        key: str,
    ) -> None:
        """`shard` is its number and how many there are, `copy` that of the replica."""
        self._restarts = _restarts()
        owner = digest_bytes(key.encode())
        super().__init__(location, *shard, settings, owner, restarts=self._restarts)
        self._replica, self._replicas = copy
        self._meter: ShardMeter | None = None
        self._metering = threading.Lock()
        self._names = (name, shard[0], self._replica)
        self._key = key
        path = address(key, shard[0], self._replica)
        self._server = None if path is None else SocketServer(path, self.call)

    def describe_store(self) -> tuple[str, Manifest, int, int, str]:
        """Return the location, its manifest, the numbers of shards and replicas, and the key of their sockets."""
        return str(self._location), *self.origin(), self._replicas, self._key

    def stop_serving(self) -> None:
        """Stop the socket server and leave the right to write to others, before the process is killed."""
        if self._server is not None:
            self._server.close()
        self.release()

    def call(self, request: ShardRequest) -> Any:
        if request.method != "search":
            return super().call(request)
        start = time.perf_counter()
        found = super().call(request)
        self._metered().searched(len(request.args[0]), time.perf_counter() - start)
        return found

    def ping(self) -> int:
        """Return the shard's number once it has loaded."""
        self._load_current()
        self._metered()
        return self._part

    def _metered(self) -> ShardMeter:
        with self._metering:
            if self._meter is None:
                self._meter = ShardMeter(*self._names, self._restarts)
                self._meter.watch(super().info)
            return self._meter

    def info(self) -> dict[str, Any]:
        """Return the shard's row, with its process, node and number of restarts."""
        self.ping()
        return super().info() | {
            "replica": self._replica,
            "pid": os.getpid(),
            "node": ray.get_runtime_context().get_node_id(),
            "restarts": self._restarts,
            "resident": psutil.Process().memory_info().rss,
        }


def _restarts() -> int:
    return times_restarted(ray.get_runtime_context().get_actor_id())


# FAISS and file reads release the GIL, and concurrent searches are batched, so many calls may run at once.
_ACTOR: dict[str, Any] = {
    "num_cpus": CPUS_PER_SHARD,
    "max_restarts": -1,
    "max_task_retries": 0,
    "max_concurrency": 16,
    "concurrency_groups": CONCURRENCY,
}

ShardActor: Any = ray.remote(**_ACTOR)(ShardProcess)
