"""The endpoint of one machine: one Serve replica serves HTTP and translates in the same process.

No proxy lies between the client and the networks. The replica receives a socket on which the launcher listens,
so the port stays open while replicas are replaced.
"""

from __future__ import annotations

import asyncio
import gc

import ray
from ray import serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from rgcluster.base.placement import CPUS_PER_FRONT, CPUS_PER_SHARD, Claim, pack
from rgcluster.base.session import cluster_nodes
from rgcluster.errors import ConfigError
from rgcluster.serve.backend import InProcess, ServedModel, describe
from rgcluster.serve.deploy.listening import receive_socket
from rgcluster.serve.deploy.plan import QUIET_THREADS, num_gpus, num_shards, require_room
from rgcluster.serve.deploy.server import DRAIN_SECONDS, Server
from rgcluster.serve.exposition import add_metrics
from rgcluster.serve.settings import Limits, ServeSettings
from rgcluster.serve.telemetry import RayRequestMetrics

__all__ = ["build_direct"]

ENDPOINT = "endpoint"


@serve.deployment(logging_config=LoggingConfig(enable_access_log=False))
class Endpoint:
    """HTTP server and networks of every run, warmed up before the first connection is accepted."""

    def __init__(self, settings: ServeSettings, served: list[ServedModel], path: str) -> None:
        # The launcher, which never comes here, is spared the seconds that torch takes to be imported.
        from rgcluster.serve.deploy.live import LiveEngine
        from rgcluster.serve.http.application import create_app

        engines = {one.name: LiveEngine(one, settings) for one in served}
        app = create_app(settings, served, InProcess(engines), RayRequestMetrics())
        add_metrics(app, settings.limits.retry_after_s)
        gc.collect()
        gc.freeze()  # excludes the networks from garbage collection, whose scans slow down requests
        self._server = Server(app, receive_socket(path), _longest(settings.limits))

    async def check_health(self) -> None:
        await asyncio.to_thread(self._server.check)

    async def __del__(self) -> None:
        if hasattr(self, "_server"):  # else it never started
            await asyncio.to_thread(self._server.stop)


def build_direct(settings: ServeSettings, path: str) -> Application:
    """Return the application whose replica receives the socket at `path`; ConfigError without enough resources."""
    served = [describe(name, run) for name, run in settings.runs.items()]
    runs = len(served)
    gpus = float(num_gpus() > 0) if settings.gpus is None else settings.gpus * runs
    if gpus > 1:
        raise ConfigError(f"http=direct: {runs} runs share one process and one GPU, {gpus:g} are requested")
    settings = settings.model_copy(update={"gpus": gpus / runs})
    nodes = cluster_nodes()
    one = Claim("endpoint", 1, runs * settings.cpus + CPUS_PER_FRONT, gpus)
    shards = Claim("store shard", num_shards(settings), CPUS_PER_SHARD)
    require_room((one, shards), nodes, "cpus or gpus")
    both = Claim("endpoint", 2, one.cpus, one.gpus)
    return Endpoint.options(  # type: ignore[attr-defined]
        name=ENDPOINT,
        num_replicas=1,
        # A new replica warms up before the old one stops; without resources for both, connections wait.
        max_surge_percent=100 if pack((both, shards), nodes) else 0,
        health_check_period_s=2.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_SECONDS + _longest(settings.limits) + 5.0,
        ray_actor_options={
            "num_cpus": one.cpus,
            "num_gpus": one.gpus,
            "runtime_env": QUIET_THREADS,
            # The node of the socket.
            "label_selector": {"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        },
    ).bind(settings, served, path)


def _longest(limits: Limits) -> float:
    """Return the seconds that a request may take at most."""
    return limits.upload_seconds + limits.request_seconds
