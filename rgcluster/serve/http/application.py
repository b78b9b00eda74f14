"""The HTTP API of a number of runs as an ASGI application: paths, their description, the page, faults."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from rgcluster import __version__
from rgcluster.serve.backend import Backend, Served
from rgcluster.serve.http.errors import ApiError
from rgcluster.serve.http.guard import ApiKeyCheck, Guard, HostCheck, OriginCheck
from rgcluster.serve.http.operations import PNG, described_operation
from rgcluster.serve.http.pages import add_page
from rgcluster.serve.http.routes import Front
from rgcluster.serve.http.schemas import (
    Answer,
    Domains,
    Examples,
    Health,
    InterpolateParameters,
    ModelParameter,
    Models,
    NearAnswer,
    NearParameters,
    Parameters,
    ReferenceParameters,
    StoredNearParameters,
    TranslateParameters,
)
from rgcluster.serve.settings import ServeSettings
from rgcluster.serve.telemetry import FrontMetrics, NoMetrics

__all__ = ["create_app"]

EXPOSED_HEADERS = (
    "Retry-After",
    "WWW-Authenticate",
    "X-Rgcluster-Batch-Rows",
    "X-Rgcluster-Degraded",
    "X-Rgcluster-Variant",
    "X-Rgcluster-Warnings",
)
"""Headers that scripts of other origins may read."""
PUBLIC = frozenset({"", "/openapi.json", "/v1/health", "/v1/ready"})
"""Paths that need no API key, besides those of the page; the empty one redirects to the page."""


def create_app(
    settings: ServeSettings, served: Sequence[Served], backend: Backend, metrics: FrontMetrics | None = None
) -> FastAPI:
    """Return the ASGI application: /v1, the page, the API's description."""
    metrics = metrics or NoMetrics()
    front = Front(settings, served, backend, metrics)
    app = FastAPI(
        title="rgcluster", version=__version__, docs_url=None, redoc_url=None,
        description="Retrieval-guided image-to-image translation.",
    )  # fmt: skip
    app.router.route_class = _Route

    async def refused(request: Request, error: Exception) -> Response:
        fault = error if isinstance(error, ApiError) else _of_http(error)
        metrics.failed(fault.fault.code)
        return _Fault(fault)

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, refused)
    _add_routes(app, front)
    public = add_page(app) | PUBLIC
    # The last one added is the outermost.
    if settings.api_key:
        app.add_middleware(ApiKeyCheck, api_key=settings.api_key, public=public, metrics=metrics)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Accept", "Authorization", "Content-Type", "X-API-Key"),
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(OriginCheck, allowed=settings.allowed_origins)
    app.add_middleware(HostCheck, allowed=settings.allowed_hosts)
    app.add_middleware(Guard, metrics=metrics)
    return app


class _Route(APIRoute):
    """A route that FastAPI describes, and no more: endpoints read and check their requests themselves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


class _Fault(Response):
    def __init__(self, error: ApiError) -> None:
        super().__init__(error.body(), error.status, error.headers, "application/json")


def _of_http(error: Exception) -> ApiError:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    return ApiError(
        error.status_code, code, str(error.detail).lower(), remedy="/openapi.json describes what there is",
        headers=dict(error.headers or {}),
    )  # fmt: skip


def _add_routes(app: FastAPI, front: Front) -> None:
    """Add /v1."""
    image = ("image",)
    number = ({"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}},)
    for path, method, endpoint, description in (
        ("translate", "POST", front.translate, described_operation(
            "Translate an image", "Into the domain of `target`, in `samples` ways.",
            TranslateParameters, Answer, parts=image, gives=PNG)),
        ("interpolate", "POST", front.interpolate, described_operation(
            "Walk between two domains", "Pictures on the way from `start` to `end`.",
            InterpolateParameters, Answer, parts=image, gives=PNG)),
        ("reference", "POST", front.reference, described_operation(
            "Take the style of another image", "The part `reference` gives the style, `image` the rest.",
            ReferenceParameters, Answer, parts=("image", "reference"), gives=PNG)),
        ("neighbors", "POST", front.neighbours_of_image, described_operation(
            "Real images like this one", "That look alike and have the target's attributes.",
            NearParameters, NearAnswer, parts=image)),
        ("neighbors", "GET", front.neighbours_of_stored, described_operation(
            "Real images like a stored one", "That look alike and have the target's attributes.",
            StoredNearParameters, NearAnswer)),
        ("domains", "GET", front.domains, described_operation(
            "The attributes of a model", "Those that a target may name.", ModelParameter, Domains)),
        ("models", "GET", front.models, described_operation(
            "What is served", "Every run under its name.", Parameters, Models)),
        ("examples", "GET", front.examples, described_operation(
            "Images to try", "That the model was not trained on, if it can be helped.",
            ModelParameter, Examples)),
        ("examples/{number}", "GET", front.example, described_operation(
            "One of the examples", "As a file.", ModelParameter, None,
            gives={"image/jpeg": {}, "image/png": {}}, path=number)),
        ("health", "GET", front.health, described_operation(
            "Alive?", "Says so without asking anything behind it.", Parameters, Health)),
        ("ready", "GET", front.ready, described_operation(
            "Ready?", "503 until every model can answer.", Parameters, Health)),
    ):  # fmt: skip
        app.add_api_route(f"/v1/{path}", endpoint, methods=[method], **description)  # type: ignore[arg-type]
