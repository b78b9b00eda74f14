"""What a client is told when a request fails: one form of JSON, whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

__all__ = ["ApiError", "Fault", "FaultAnswer", "busy", "invalid", "too_large", "unavailable"]


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
