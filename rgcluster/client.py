"""A client of the endpoint.

from rgcluster import Client
made = Client("http://127.0.0.1:8000").translate("photo.jpg", "Blond_Hair,-Young", samples=4)
made.images    # uint8 [4, h, w, 3]
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import requests
from PIL import Image
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_exponential

from rgcluster.base.cluster.address import require_url
from rgcluster.errors import ConfigError, DataError, EndpointError, RequestRefused

__all__ = ["Client", "Made", "Neighbour", "Picture"]

UInt8Array = npt.NDArray[np.uint8]

Picture = str | os.PathLike[str] | bytes | UInt8Array
"""A file, its content, or pixels uint8 [h, w, 3]."""

BUSY = (429, 503)
"""Statuses that are retried after a pause, as are broken connections; requests have no side effects."""
LONGEST_PAUSE_S = 10.0
HOPELESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
)
"""Errors of `requests` that another attempt cannot mend."""


@dataclass(frozen=True)
class Neighbour:
    """A real image that guided a picture; distance NaN where it was drawn at random."""

    id: int
    distance: float
    image: UInt8Array | None


@dataclass(frozen=True)
class Made:
    """Pictures uint8 [N, h, w, 3], masks uint8 [N, h, w], each picture's neighbours, and the whole JSON answer."""

    images: UInt8Array
    masks: UInt8Array
    neighbours: list[list[Neighbour]]
    warnings: list[str]
    degraded: bool
    answer: dict[str, Any]


class Client:
    """Client of one endpoint; reuses its connections. ConfigError where `url` is not http://HOST:PORT."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 60.0, patience: float = 60.0
    ) -> None:
        require_url(url)
        self.url, self._timeout, self._patience = url.rstrip("/"), timeout, patience
        self._session = requests.Session()
        if api_key:
            self._session.headers["X-API-Key"] = api_key

    def translate(
        self,
        image: Picture,
        to: str,
        *,
        samples: int = 1,
        seed: int = 0,
        guidance: Literal["on", "off", "random"] = "on",
        fit: str = "auto",
        model: str | None = None,
    ) -> Made:
        """Translate an image to the attributes `to`, e.g. `Blond_Hair,-Young`, in `samples` ways."""
        return self._made(
            "translate", {"image": image}, target=to, samples=samples, seed=seed, guidance=guidance, fit=fit,
            model=model,
        )  # fmt: skip

    def interpolate(
        self,
        image: Picture,
        end: str,
        *,
        start: str = "",
        steps: int = 5,
        seed: int = 0,
        guidance: Literal["on", "off", "random"] = "on",
        fit: str = "auto",
        model: str | None = None,
    ) -> Made:
        """Return pictures on the way from the domain `start` to `end`."""
        return self._made(
            "interpolate", {"image": image}, start=start, end=end, steps=steps, seed=seed, guidance=guidance,
            fit=fit, model=model,
        )  # fmt: skip

    def reference(
        self,
        image: Picture,
        style_of: Picture,
        *,
        guidance: Literal["on", "off", "random"] = "on",
        fit: str = "auto",
        model: str | None = None,
    ) -> Made:
        """Translate an image to the style of another."""
        pictures = {"image": image, "reference": style_of}
        return self._made("reference", pictures, guidance=guidance, fit=fit, model=model)

    def neighbours(
        self, image: Picture, to: str = "", *, count: int = 5, fit: str = "auto", model: str | None = None
    ) -> list[Neighbour]:
        """Return the real images nearest to the image with the attributes `to`."""
        answer = self._post("neighbors", {"image": image}, target=to, count=count, fit=fit, model=model)
        return [_neighbour(one) for one in answer["neighbours"]]

    def domains(self, model: str | None = None) -> dict[str, Any]:
        """Return the attributes and which exclude each other."""
        return self._send("GET", "domains", {"model": model})

    def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        return list(self._send("GET", "models", {})["models"])

    def ready(self) -> bool:
        """Return whether every model can answer; False where no server listens."""
        try:
            return self._session.get(f"{self.url}/v1/ready", timeout=self._timeout).status_code == 200
        except requests.RequestException:
            return False

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _made(self, path: str, pictures: Mapping[str, Picture], **parameters: Any) -> Made:
        answer = self._post(path, pictures, **parameters)
        return Made(
            np.stack([_pixels(text) for text in answer["images"]]),
            np.stack([_pixels(text) for text in answer["masks"]]),
            [[_neighbour(one) for one in row] for row in answer["neighbours"]],
            [warned["message"] for warned in answer["warnings"]],
            answer["degraded"],
            answer,
        )

    def _post(self, path: str, pictures: Mapping[str, Picture], **parameters: Any) -> dict[str, Any]:
        contents = {name: _content(picture) for name, picture in pictures.items()}
        if list(contents) == ["image"]:
            headers = {"Content-Type": "application/octet-stream"}
            return self._send("POST", path, parameters, data=contents["image"], headers=headers)
        return self._send("POST", path, parameters, files=contents)

    def _send(self, method: str, path: str, parameters: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Return the answer's JSON, trying again while the server is busy; RequestRefused, EndpointError."""
        given = {name: value for name, value in parameters.items() if value is not None}
        attempts = Retrying(
            retry=retry_if_exception_type(EndpointError),
            wait=_pause,
            stop=stop_before_delay(self._patience),
            reraise=True,
        )
        return _json(attempts(self._send_once, method, f"{self.url}/v1/{path}", params=given, **options))

    def _send_once(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            answer = self._session.request(method, url, timeout=self._timeout, **options)
        except requests.RequestException as error:
            if isinstance(error, requests.exceptions.SSLError) and "EOF" not in str(error):
                raise ConfigError(
                    f"{self.url}: no TLS connection ({_reason(error)}); write http:// for an endpoint without TLS, or "
                    "let REQUESTS_CA_BUNDLE name the file of its authority"
                ) from None
            if isinstance(error, HOPELESS):
                raise ConfigError(f"{self.url}: no such request is possible ({_reason(error)})") from None
            raise EndpointError(f"{self.url}: {type(error).__name__}; is the endpoint running?") from None
        if answer.ok:
            return answer
        if answer.status_code < 500 and answer.status_code not in BUSY:
            refused = RequestRefused(_error_message(answer))
            refused.field = _error_of(answer).get("field")
            raise refused
        raise _Unavailable(_error_message(answer), answer.headers.get("Retry-After", ""))


def _reason(error: BaseException) -> str:
    """Return the text of the innermost error."""
    inner = getattr(error, "reason", None) or next(
        (one for one in error.args if isinstance(one, BaseException)), None
    )
    return _reason(inner) if isinstance(inner, BaseException) else str(error)


class _Unavailable(EndpointError):
    """The server is busy or fails; it may have said when to try again."""

    def __init__(self, message: str, retry_after: str) -> None:
        super().__init__(message)
        self.retry_after_s = float(retry_after) if retry_after.isdecimal() else 0.0  # else an HTTP date


def _pause(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: doubling, and at least what the server asked for."""
    error = state.outcome.exception() if state.outcome else None
    wanted = error.retry_after_s if isinstance(error, _Unavailable) else 0.0
    return max(wanted, wait_exponential(0.2, max=LONGEST_PAUSE_S)(state))


def _content(picture: Picture) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        return buffer.getvalue()
    path = Path(picture)
    if path.is_dir():
        raise DataError(f"{path}: a folder, not an image; give the images in it")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return path.read_bytes()


def _pixels(text: str) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def _neighbour(one: Mapping[str, Any]) -> Neighbour:
    distance = float("nan") if one["distance"] is None else float(one["distance"])
    return Neighbour(int(one["id"]), distance, _pixels(one["image"]) if one["image"] else None)


def _json(answer: requests.Response) -> dict[str, Any]:
    try:
        return dict(answer.json())
    except (ValueError, TypeError):
        raise EndpointError(
            f"{answer.url.split('?')[0]}: the server there answers, but is no endpoint of rgcluster"
        ) from None


def _error_message(answer: requests.Response) -> str:
    error = _error_of(answer)
    if answer.status_code == 404 and error.get("field") is None:
        return (
            f"{answer.url.split('?')[0]}: not found; an endpoint's address is what `rgcluster serve` prints"
        )
    if "message" in error and "remedy" in error:
        return f"{error['message']}; {error['remedy']}"
    return f"{answer.url.split('?')[0]} answered {answer.status_code} {answer.reason}"


def _error_of(answer: requests.Response) -> dict[str, Any]:
    """Return the error that an answer describes; empty where it is none of this endpoint's."""
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
