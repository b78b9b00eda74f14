"""What a client is told when a request fails: one form of JSON, whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from rgcluster.errors import (
    ContradictoryTarget,
    RGClusterError,
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
    "Fault",
    "FaultAnswer",
    "api_error",
    "busy",
    "invalid",
    "too_large",
    "unavailable",
]

TARGET_REMEDY = "GET /v1/domains lists the attributes and which exclude each other"


class Fault(BaseModel):
    """What went wrong."""

    code: str = Field(description="stable word for programs", examples=["unknown_attribute"])
    message: str = Field(
        description="one sentence for people",
        examples=["no attribute 'Blond_Hairs': did you mean 'Blond_Hair'?"],
    )
    field: str | None = Field(None, description="the parameter or part at fault", examples=["target"])
    remedy: str = Field(description="what to do about it", examples=["GET /v1/domains lists the attributes"])


class FaultAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: Fault


class ApiError(Exception):
    """A fault on its way to the client."""

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
        self.fault = Fault(code=code, message=message, field=field, remedy=remedy)

    def body(self) -> bytes:
        """Return the JSON."""
        return FaultAnswer(error=self.fault).model_dump_json().encode()


def invalid(code: str, message: str, field: str | None, remedy: str) -> ApiError:
    """Return the answer to a request whose content is at fault: 422."""
    return ApiError(422, code, message, field=field, remedy=remedy)


def too_large(code: str, message: str, field: str | None, remedy: str) -> ApiError:
    """Return the answer to a body or an image over the limit: 413. The rest of the body is not read."""
    return ApiError(413, code, message, field=field, remedy=remedy, headers={"Connection": "close"})


def busy(what: str, retry_after_s: int) -> ApiError:
    """Return the answer where all places are taken: 429."""
    return ApiError(
        429, "busy", f"all places are taken ({what})", remedy=f"send it again in {retry_after_s} s",
        headers={"Retry-After": str(retry_after_s)},
    )  # fmt: skip


def unavailable(message: str, remedy: str, retry_after_s: int) -> ApiError:
    """Return the answer where something behind the front is down: 503."""
    return ApiError(503, "unavailable", message, remedy=remedy, headers={"Retry-After": str(retry_after_s)})


@dataclass(frozen=True)
class _Mapping:
    """What the API answers for one type of exception; without `message`, the exception's own."""

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
}  # fmt: skip

MAPPED_ERRORS = tuple(_MAPPINGS)
"""Exceptions for which `api_error` has an answer; any other is a fault of the server."""


def api_error(error: RGClusterError, *, field: str | None = None, retry_after_s: int = 1) -> ApiError:
    """Return the answer for an exception of MAPPED_ERRORS, by its type; `field`: the parameter at fault."""
    mapping = next(_MAPPINGS[kind] for kind in type(error).__mro__ if kind in _MAPPINGS)
    message = error.reason if isinstance(error, TargetError) else str(error)
    headers = {"Retry-After": str(retry_after_s)} if mapping.status == 503 else None
    return ApiError(
        mapping.status, mapping.code, mapping.message or message, field=field or mapping.field,
        remedy=mapping.remedy, headers=headers,
    )  # fmt: skip
