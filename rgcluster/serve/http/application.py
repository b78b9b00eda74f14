"""The ASGI application: the routes of the API, its OpenAPI description, the page, and error handlers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from rgcluster import __version__
from rgcluster.serve.backend import Backend, ServedModel
from rgcluster.serve.http.errors import ApiError
from rgcluster.serve.http.guard import ApiKeyCheck, Guard, HostCheck, OriginCheck
from rgcluster.serve.http.operations import PNG, operation
from rgcluster.serve.http.pages import add_page
from rgcluster.serve.http.routes import Endpoints
from rgcluster.serve.http.schemas import (
    Answer,
    Domains,
    Examples,
    Health,
    InterpolateParameters,
    ModelParameter,
    Models,
    NeighboursAnswer,
    NeighboursParameters,
    Parameters,
    ReferenceParameters,
    StoredNeighboursParameters,
    TranslateParameters,
)
from rgcluster.serve.settings import ServeSettings
from rgcluster.serve.telemetry import NoMetrics, RequestMetrics

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
    settings: ServeSettings,
    served: Sequence[ServedModel],
    backend: Backend,
    metrics: RequestMetrics | None = None,
) -> FastAPI:
    """Return the ASGI application: /v1, the page, and /openapi.json."""
    metrics = metrics or NoMetrics()
    endpoints = Endpoints(settings, served, backend, metrics)
    app = FastAPI(
        title="rgcluster", version=__version__, docs_url=None, redoc_url=None,
        description="Retrieval-guided image-to-image translation.",
    )  # fmt: skip
    app.router.route_class = _Route

    async def answer_error(request: Request, error: Exception) -> Response:
        api_error = error if isinstance(error, ApiError) else _of_http(error)
        metrics.failed(api_error.detail.code)
        return _ErrorAnswer(api_error)

    app.add_exception_handler(ApiError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    _add_routes(app, endpoints)
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
    """A route that FastAPI only documents; `parameters.py` says why the endpoint validates the request itself."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


class _ErrorAnswer(Response):
    def __init__(self, error: ApiError) -> None:
        super().__init__(error.body(), error.status, error.headers, "application/json")


def _of_http(error: Exception) -> ApiError:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "answer_error")
    return ApiError(
        error.status_code, code, str(error.detail).lower(), remedy="/openapi.json describes what there is",
        headers=dict(error.headers or {}),
    )  # fmt: skip


def _add_routes(app: FastAPI, endpoints: Endpoints) -> None:
    """Add /v1."""
    image = ("image",)
    number = ({"name": "number", "in": "path", "required": True, "schema": {"type": "integer"}},)
    for path, method, endpoint, description in (
        ("translate", "POST", endpoints.translate, operation(
            "Translate an image", "Translates into the domain `target` and returns `samples` pictures.",
            TranslateParameters, Answer, parts=image, gives=PNG)),
        ("interpolate", "POST", endpoints.interpolate, operation(
            "Interpolate between two domains", "Returns pictures from the domain `start` to the domain `end`.",
            InterpolateParameters, Answer, parts=image, gives=PNG)),
        ("reference", "POST", endpoints.reference, operation(
            "Apply the style of another image", "The style comes from the part `reference`, the content from `image`.",
            ReferenceParameters, Answer, parts=("image", "reference"), gives=PNG)),
        ("neighbors", "POST", endpoints.neighbours_of_image, operation(
            "Find real images similar to an image", "Returns stored images that have the target's attributes.",
            NeighboursParameters, NeighboursAnswer, parts=image)),
        ("neighbors", "GET", endpoints.neighbours_of_stored, operation(
            "Find real images similar to a stored one", "Returns stored images that have the target's attributes.",
            StoredNeighboursParameters, NeighboursAnswer)),
        ("domains", "GET", endpoints.domains, operation(
            "List the attributes of a model", "Returns the attributes that a target may name.",
            ModelParameter, Domains)),
        ("models", "GET", endpoints.models, operation(
            "List the models", "Returns every served run under its name.", Parameters, Models)),
        ("examples", "GET", endpoints.examples, operation(
            "List example images", "Returns images of the test split where the data is available, else of the store.",
            ModelParameter, Examples)),
        ("examples/{number}", "GET", endpoints.example, operation(
            "Get an example image", "Returns it as a file.", ModelParameter, None,
            gives={"image/jpeg": {}, "image/png": {}}, path=number)),
        ("health", "GET", endpoints.health, operation(
            "Check that the server is alive", "Does not call the translators or the store.", Parameters, Health)),
        ("ready", "GET", endpoints.ready, operation(
            "Check that the models are ready", "Answers 503 until every model is ready.", Parameters, Health)),
    ):  # fmt: skip
        app.add_api_route(f"/v1/{path}", endpoint, methods=[method], **description)  # type: ignore[arg-type]
