"""The endpoint as a Ray Serve application: an HTTP ingress, and a translator deployment for each run.

`rgcluster.serve.deploy.deployments:build` is what a Serve configuration file imports; its `args` are the settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from rgcluster.base.placement import CPUS_PER_FRONT, serving_claims
from rgcluster.base.session import cluster_nodes
from rgcluster.errors import ConfigError, RGClusterError
from rgcluster.serve.backend import ServedModel, describe
from rgcluster.serve.deploy.live import LiveEngine
from rgcluster.serve.deploy.plan import QUIET_THREADS, num_gpus, num_shards, require_room
from rgcluster.serve.exposition import add_metrics
from rgcluster.serve.http.application import create_app
from rgcluster.serve.http.errors import busy, unavailable
from rgcluster.serve.settings import API_KEY_VARIABLE, ServeSettings, settings_of, with_api_key
from rgcluster.serve.telemetry import RayRequestMetrics
from rgcluster.store.client import Neighbours
from rgcluster.translate.jobs import Job, Outcome

__all__ = ["build", "build_proxied"]

FRONT = "front"
MAX_ONGOING = 2000
"""Above the limit of every HTTP replica, so that its JSON error is sent before Serve's own."""
TRIES = 5
RETRY_SECONDS = 0.2

T = TypeVar("T")


@serve.deployment(logging_config=LoggingConfig(enable_access_log=False))
class Translator:
    """One copy of a run's networks, warmed up before the first request."""

    def __init__(self, served: ServedModel, settings: ServeSettings) -> None:
        self._engine = LiveEngine(served, settings)

    async def translate(self, job: Job) -> Outcome | RGClusterError:
        return await _as_value(self._engine.translate(job))

    async def neighbours(self, job: Job, count: int) -> Neighbours | RGClusterError:
        return await _as_value(self._engine.neighbours(job, count))

    async def stored_image(self, row_id: int) -> npt.NDArray[np.uint8] | RGClusterError:
        return await _as_value(self._engine.stored_image(row_id))

    async def examples(self) -> list[bytes] | RGClusterError:
        return await _as_value(self._engine.examples())

    async def ready(self) -> bool:
        return True


async def _as_value(work: Awaitable[T]) -> T | RGClusterError:
    """Return the result, or an RGClusterError as a value, because Serve wraps exceptions that are raised."""
    try:
        return await work
    except RGClusterError as error:
        return error


class HandleBackend:
    """Calls the translators through their handles; requests of a replica that died are sent to another."""

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
        # Serve's response can be awaited, but tenacity awaits the results of coroutine functions alone.
        async def once() -> Any:
            return await getattr(self._handles[name], method).remote(*arguments)

        attempts = AsyncRetrying(
            retry=retry_if_exception_type(RayActorError),
            stop=stop_after_attempt(TRIES),
            wait=wait_fixed(RETRY_SECONDS),
            reraise=True,
        )
        try:
            answer: Any = await attempts(once)
        except RayActorError:
            raise unavailable(
                f"the translator {name} went down {TRIES} times", "send it again", self._retry_after_s
            ) from None
        except BackPressureError:
            raise busy("the translator's queue", self._retry_after_s) from None
        except DeploymentUnavailableError:
            raise unavailable(
                f"the translator {name} cannot be started", "see the server's log", self._retry_after_s
            ) from None
        if isinstance(answer, RGClusterError):
            raise answer
        return answer


@serve.deployment(logging_config=LoggingConfig(enable_access_log=False))
@serve.ingress()
class HttpIngress:
    """Serves HTTP."""

    def __init__(
        self, settings: ServeSettings, served: list[ServedModel], handles: dict[str, DeploymentHandle]
    ) -> None:
        self._settings, self._served = settings, served
        self._backend = HandleBackend(handles, settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(self._settings, self._served, self._backend, RayRequestMetrics())
        add_metrics(app, self._settings.limits.retry_after_s)
        return app


def build(arguments: Mapping[str, Any]) -> Application:
    """Return the application of a Serve configuration file; UserError where a setting or a run is at fault.

    The API key comes from the environment or from `api_key_file`.
    """
    if arguments.get("api_key"):
        raise ConfigError(
            f"api_key: `serve config` shows the arguments of an application; set {API_KEY_VARIABLE} on the nodes, or "
            "api_key_file"
        )
    return build_proxied(with_api_key(settings_of(arguments)))


def build_proxied(settings: ServeSettings) -> Application:
    """Return the application that runs behind Serve's proxy; UserError where a setting or a run is at fault."""
    if settings.http == "direct":
        raise ConfigError(
            "http=direct: it is how `rgcluster serve` serves on one machine; what `serve deploy` deploys is reached "
            "through Serve's proxy, so leave http out"
        )
    if settings.gpus is None:
        settings = settings.model_copy(update={"gpus": float(0 < len(settings.runs) <= num_gpus())})
    served = [describe(name, run) for name, run in settings.runs.items()]
    if ray.is_initialized():
        claims = serving_claims(
            len(served), settings.fronts, settings.min_replicas, settings.cpus, settings.gpus or 0.0,
            num_shards(settings),
        )  # fmt: skip
        require_room(claims, cluster_nodes(), "min_replicas, fronts, cpus or gpus")
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
            ray_actor_options={
                "num_cpus": settings.cpus,
                "num_gpus": settings.gpus,
                "runtime_env": QUIET_THREADS,
            },
            **replicas,
        ).bind(one, settings)
        for one in served
    }
    return HttpIngress.options(  # type: ignore[attr-defined]
        name=FRONT,
        num_replicas=settings.fronts,
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_ONGOING,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=limits.retry_after_s),
        health_check_period_s=2.0,
        ray_actor_options={"num_cpus": CPUS_PER_FRONT},
    ).bind(settings, served, handles)
