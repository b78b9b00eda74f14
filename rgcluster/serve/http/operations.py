"""OpenAPI descriptions of the operations."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from rgcluster.serve.http.errors import ErrorResponse
from rgcluster.serve.http.parameters import bare, query_parameters
from rgcluster.serve.http.schemas import Parameters
from rgcluster.serve.http.uploads import IMAGE_TYPES, MULTIPART

__all__ = ["operation"]

FAULTS = {
    400: "the Host header names another host",
    401: "no API key, or a wrong one",
    403: "the request comes from a page of another origin",
    404: "no such model, image or path",
    408: "the body arrived too slowly",
    413: "the body or the image is too large",
    415: "the content type is not supported",
    422: "a parameter or the image is invalid",
    429: "too many concurrent requests; Retry-After holds the seconds to wait",
    500: "an internal error",
    503: "a translator or the store is unavailable; Retry-After holds the seconds to wait",
    504: "the response took too long",
}
FAULT_EXAMPLE = {
    "error": {
        "code": "unknown_attribute",
        "message": "no attribute 'Blond_Hairs': did you mean 'Blond_Hair'?",
        "field": "target",
        "remedy": "GET /v1/domains lists the attributes and which exclude each other",
    }
}
PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


def operation(
    summary: str,
    description: str,
    parameters: type[Parameters],
    answer: type[BaseModel] | None,
    *,
    parts: tuple[str, ...] = (),
    gives: dict[str, Any] | None = None,
    path: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """Return the arguments of `add_api_route`; `parts` are the images it takes, `gives` content types besides JSON."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {
            "model": ErrorResponse,
            "description": text,
            "content": {"application/json": {"example": FAULT_EXAMPLE}},
        }
        for status, text in FAULTS.items()
    }
    responses[200] = {"description": "done"}
    if answer:
        responses[200]["model"] = answer
    if gives:
        responses[200]["content"] = gives
    extra: dict[str, Any] = {"parameters": [*path, *query_parameters(parameters, in_form=bool(parts))]}
    if parts:
        extra["requestBody"] = {"required": True, "content": _body(parts, parameters)}
    return {
        "summary": summary,
        "description": description,
        "responses": responses,
        "openapi_extra": extra,
        "response_model": None,
    }


def _body(parts: tuple[str, ...], parameters: type[Parameters]) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    schema = parameters.model_json_schema()
    form = {
        name: {"description": "as in the query", **bare(field)}
        for name, field in schema["properties"].items()
    }
    content: dict[str, Any] = {
        MULTIPART: {
            "schema": {
                "type": "object",
                "properties": {**dict.fromkeys(parts, binary), **form},
                "required": list(parts),
            }
        }
    }
    if len(parts) == 1:
        content |= {kind: {"schema": binary} for kind in (*IMAGE_TYPES, "application/octet-stream")}
    return content
