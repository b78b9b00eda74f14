"""Error responses of the API: one JSON form, with the status that the type of the exception decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from rgcluster.errors import (
    ContradictoryTarget,
    RGClusterError,
    StoreMismatch,
    StoreUnavailable,
    TargetError,
    TooFewNeighbours,
    UnknownAttribute,
    UnknownId,
)

__all__ = [
    "MAPPED_ERRORS",
    "TARGET_REMEDY",
    "ApiError",
    "ErrorDetail",
    "ErrorResponse",
    "api_error",
    "busy",
    "invalid",
    "short",
    "too_large",
    "unavailable",
]

TARGET_REMEDY = "GET /v1/domains lists the attributes and which exclude each other"


class ErrorDetail(BaseModel):
    """An error of the API."""

    code: str = Field(description="stable identifier for programs", examples=["unknown_attribute"])
    message: str = Field(
        description="explanation in one sentence",
        examples=["no attribute 'Blond_Hairs': did you mean 'Blond_Hair'?"],
    )
    field: str | None = Field(None, description="the invalid parameter or part", examples=["target"])
    remedy: str = Field(
        description="how to correct the request", examples=["GET /v1/domains lists the attributes"]
    )


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


class ApiError(Exception):
    """An error that becomes the response to the client."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        remedy: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.detail = ErrorDetail(code=code, message=message, field=field, remedy=remedy)

    def body(self) -> bytes:
        """Return the JSON."""
        return ErrorResponse(error=self.detail).model_dump_json().encode()


def short(text: str) -> str:
    """Return text of a client as messages quote it: at most 60 characters."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def invalid(code: str, message: str, field: str | None, remedy: str) -> ApiError:
    """Return the error for invalid content: 422."""
    return ApiError(422, code, message, field=field, remedy=remedy)


def too_large(code: str, message: str, field: str | None, remedy: str) -> ApiError:
    """Return the error for a body or an image over the limit: 413. The rest of the body is not read."""
    return ApiError(413, code, message, field=field, remedy=remedy, headers={"Connection": "close"})


def busy(what: str, retry_after_s: int) -> ApiError:
    """Return the error for a reached concurrency limit: 429."""
    return ApiError(
        429, "busy", f"too many concurrent requests ({what})", remedy=f"send it again in {retry_after_s} s",
        headers={"Retry-After": str(retry_after_s)},
    )  # fmt: skip


def unavailable(message: str, remedy: str, retry_after_s: int) -> ApiError:
    """Return the error for an unavailable translator or store: 503."""
    return ApiError(503, "unavailable", message, remedy=remedy, headers={"Retry-After": str(retry_after_s)})


@dataclass(frozen=True)
class _Mapping:
    """The response for one type of exception; without `message`, the exception's own message."""

    status: int
    code: str
    remedy: str
    field: str | None = None
    message: str | None = None


_MAPPINGS: dict[type[RGClusterError], _Mapping] = {
    UnknownAttribute: _Mapping(422, "unknown_attribute", TARGET_REMEDY, "target"),
    ContradictoryTarget: _Mapping(422, "contradictory_target", TARGET_REMEDY, "target"),
    TooFewNeighbours: _Mapping(422, "too_few_neighbours", "ask for fewer", "count"),
    UnknownId: _Mapping(
        404, "not_found", "take an id from an answer", "id", "the store holds no image with this id"
    ),
    StoreUnavailable: _Mapping(
        503, "unavailable", "send it again, or translate with guidance=off",
        message="the store of real images does not answer",
    ),
    StoreMismatch: _Mapping(
        503, "store_mismatch", "translate with guidance=off until the operator has started the endpoint again",
        message="other networks than the served ones embedded the store of real images",
    ),
}  # fmt: skip

MAPPED_ERRORS = tuple(_MAPPINGS)
"""Exceptions that `api_error` maps; any other becomes 500."""


def api_error(error: RGClusterError, *, field: str | None = None, retry_after_s: int = 1) -> ApiError:
    """Map an exception of MAPPED_ERRORS to a response by its type; `field` names the invalid parameter."""
    mapping = next(_MAPPINGS[kind] for kind in type(error).__mro__ if kind in _MAPPINGS)
    message = error.reason if isinstance(error, TargetError) else str(error)
    headers = {"Retry-After": str(retry_after_s)} if mapping.status == 503 else None
    return ApiError(
        mapping.status, mapping.code, mapping.message or message, field=field or mapping.field,
        remedy=mapping.remedy, headers=headers,
    )  # fmt: skip
