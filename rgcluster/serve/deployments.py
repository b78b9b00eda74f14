"""The endpoint as a Ray Serve application: fronts that speak HTTP, and for each run replicas that translate.

`rgcluster.serve.deployments:build` is what a Serve configuration file imports; its `args` are the settings.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
from fastapi import FastAPI, Response
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from rgcluster.errors import ConfigError, RGClusterError, StoreUnavailable
from rgcluster.inference.jobs import Job, Outcome
from rgcluster.inference.run import snapshot_of, store_name
from rgcluster.placement import CPUS_PER_FRONT, describe_nodes, pack, serving_claims
from rgcluster.serve.application import create_app
from rgcluster.serve.backend import Served, describe
from rgcluster.serve.engine import Engine
from rgcluster.serve.errors import busy, unavailable
from rgcluster.serve.metrics import RayFrontMetrics, TranslatorMetrics, ours
from rgcluster.serve.settings import ServeSettings, settings_of
from rgcluster.session import cluster_nodes
from rgcluster.storage import Location
from rgcluster.store.client import Neighbours
from rgcluster.store.snapshot import read_manifest
from rgcluster.store.store import RayStore

__all__ = ["APPLICATION", "build", "open_store"]

APPLICATION = "rgcluster"
FRONT = "front"
MAX_ONGOING = 2000
"""More than any front lets in by itself, so that its own refusals, in JSON, come before Serve's."""
TRIES = 5
RETRY_SECONDS = 0.2

T = TypeVar("T")
log = logging.getLogger("ray.serve")


def open_store(run: Location, name: str, timeout: float) -> RayStore:
    """Connect to the store of that name, or start it from the run's snapshot."""
    try:
        return RayStore.connect(name, timeout=timeout)
    except StoreUnavailable:
        pass
    try:
        return RayStore.start(snapshot_of(run), name, detached=True, timeout=timeout)
    except ConfigError:  # another replica was faster
        return RayStore.connect(name, timeout=max(timeout, 60.0))


@serve.deployment(logging_config=LoggingConfig(enable_access_log=False))
class Translator:
    """One copy of a run's networks, warm before the first request."""

    def __init__(self, served: Served, settings: ServeSettings) -> None:
        self._location = Location(served.run)
        self._store_name = settings.stores.get(served.name) or store_name(self._location)
        self._settings = settings
        metrics = TranslatorMetrics(served.name)
        self._engine = Engine(served.run, self._open_store(), settings, metrics.batch)

    async def translate(self, job: Job) -> Outcome | RGClusterError:
        return await self._asked(lambda: self._engine.translate(job))

    async def neighbours(self, job: Job, count: int) -> Neighbours | RGClusterError:
        return await self._asked(lambda: self._engine.neighbours(job, count))

    async def stored_image(self, row_id: int) -> npt.NDArray[np.uint8] | RGClusterError:
        return await self._asked(lambda: self._engine.stored_image(row_id))

    async def examples(self) -> list[bytes] | RGClusterError:
        async def read() -> list[bytes]:
            return await asyncio.to_thread(self._engine.examples)

        return await self._asked(read)

    async def ready(self) -> bool:
        return True

    def _open_store(self) -> RayStore:
        return open_store(self._location, self._store_name, self._settings.store_timeout_s)

    async def _asked(self, work: Callable[[], Awaitable[T]]) -> T | RGClusterError:
        """Return the answer or the deliberate error as a value; a store that has gone is started once more."""
        try:
            return await work()
        except StoreUnavailable as error:
            log.warning("%s", error)
            try:
                self._engine.translators.retriever.store = await asyncio.to_thread(self._open_store)
                return await work()
            except RGClusterError as again:
                return again
        except RGClusterError as error:
            return error


class HandleBackend:
    """Reaches the translators by their handles; what a dying replica held is sent to another."""

    def __init__(self, handles: Mapping[str, DeploymentHandle], settings: ServeSettings) -> None:
        self._handles, self._retry_after_s = dict(handles), settings.limits.retry_after_s
        self._examples: dict[str, list[bytes]] = {}

    async def translate(self, name: str, job: Job) -> Outcome:
        return await self._call(name, "translate", job)

    async def neighbours(self, name: str, job: Job, count: int) -> Neighbours:
        return await self._call(name, "neighbours", job, count)

    async def stored_image(self, name: str, row_id: int) -> npt.NDArray[np.uint8]:
        return await self._call(name, "stored_image", row_id)

    async def examples(self, name: str) -> list[bytes]:
        if name not in self._examples:
            self._examples[name] = await self._call(name, "examples")
        return self._examples[name]

    async def ready(self, name: str) -> bool:
        try:
            async with asyncio.timeout(2.0):
                return bool(await self._handles[name].ready.remote())
        except (TimeoutError, RayActorError, RayServeException):
            return False

    async def _call(self, name: str, method: str, *arguments: Any) -> Any:
        for attempt in range(TRIES):
            try:
                answer = await getattr(self._handles[name], method).remote(*arguments)
            except RayActorError:
                if attempt == TRIES - 1:
                    raise unavailable(
                        f"the translator {name} went down {TRIES} times", "send it again", self._retry_after_s
                    ) from None
                await asyncio.sleep(RETRY_SECONDS)
            except BackPressureError:
                raise busy("the translator's queue", self._retry_after_s) from None
            except DeploymentUnavailableError:
                raise unavailable(
                    f"the translator {name} cannot be started", "see the server's log", self._retry_after_s
                ) from None
            else:
                if isinstance(answer, RGClusterError):
                    raise answer
                return answer
        raise AssertionError


@serve.deployment(logging_config=LoggingConfig(enable_access_log=False))
@serve.ingress()
class Front:
    """Speaks HTTP."""

    def __init__(
        self, settings: ServeSettings, served: list[Served], handles: dict[str, DeploymentHandle]
    ) -> None:
        self._settings, self._served = settings, served
        self._backend = HandleBackend(handles, settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._settings, self._served, self._backend, RayFrontMetrics())
        app.add_api_route("/metrics", _metrics, methods=["GET"], include_in_schema=False)
        return app


async def _metrics() -> Response:
    text = await asyncio.to_thread(_gather_metrics)
    return Response(text, media_type="text/plain; version=0.0.4")


def _gather_metrics() -> str:
    """Return what Ray's exporters say of this endpoint, on every node that answers."""
    lines: list[str] = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=3.0) as answer:
                lines += ours(answer.read().decode())
        except OSError as error:
            lines.append(f"# {url}: {error}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _require_room(settings: ServeSettings) -> None:
    """Raise ConfigError where the cluster's machines cannot hold what serving asks for at least."""
    shards = sum(
        read_manifest(snapshot_of(Location(run))).num_shards
        for name, run in settings.runs.items()
        if name not in settings.stores
    )
    claims = serving_claims(
        len(settings.runs),
        settings.fronts,
        settings.min_replicas,
        settings.cpus,
        settings.gpus or 0.0,
        shards,
    )
    nodes = cluster_nodes()
    if pack(claims, nodes) is None:
        need, gpus = (
            sum(claim.count * getattr(claim, kind) for claim in claims) for kind in ("cpus", "gpus")
        )
        raise ConfigError(
            f"serving: {' + '.join(map(str, claims))} = {need:.4g} CPUs and {gpus:.4g} GPUs do not fit on "
            f"{describe_nodes(nodes)}; lower min_replicas, fronts, cpus or gpus, or add machines"
        )


def build(arguments: Mapping[str, Any]) -> Application:
    """Return the application that the settings describe; UserError where a setting or a run is at fault."""
    settings = settings_of(arguments)
    if settings.gpus is None:
        found = ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else 0
        settings = settings.model_copy(update={"gpus": float(found >= len(settings.runs))})
    served = [describe(name, run) for name, run in settings.runs.items()]
    if ray.is_initialized():
        _require_room(settings)
    limits = settings.limits
    replicas: dict[str, Any] = {"num_replicas": settings.min_replicas}
    if settings.max_replicas > settings.min_replicas:
        replicas = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.min_replicas,
                max_replicas=settings.max_replicas,
                target_ongoing_requests=settings.batch_rows,
            )
        }
    handles = {
        one.name: Translator.options(  # type: ignore[attr-defined]
            name=f"translator-{one.name}",
            max_ongoing_requests=limits.waiting * settings.fronts,
            health_check_period_s=2.0,
            ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
            **replicas,
        ).bind(one, settings)
        for one in served
    }
    return Front.options(  # type: ignore[attr-defined]
        name=FRONT,
        num_replicas=settings.fronts,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_ONGOING,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=limits.retry_after_s),
        health_check_period_s=2.0,
        ray_actor_options={"num_cpus": CPUS_PER_FRONT},
    ).bind(settings, served, handles)
