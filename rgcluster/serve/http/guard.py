"""Middleware: Host, Origin, API key, security headers, metrics, and a JSON error for every unexpected exception."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Collection, Iterator, Set
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rgcluster.base.cluster.internals import routed_path
from rgcluster.serve.http.errors import ApiError, busy, short
from rgcluster.serve.telemetry import RequestMetrics

__all__ = ["ApiKeyCheck", "Guard", "HostCheck", "OriginCheck", "ConcurrencyLimit"]

log = logging.getLogger("ray.serve")

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class ConcurrencyLimit:
    """Limits the number of concurrent requests; further ones are refused immediately."""

    def __init__(self, limit: int, what: str, retry_after_s: int) -> None:
        self._limit, self._what, self._retry_after_s = limit, what, retry_after_s
        self.in_use = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot for the duration of the block; ApiError 429 where none is free."""
        if self.in_use >= self._limit:
            raise busy(f"the limit is {self._limit} {self._what}", self._retry_after_s)
        self.in_use += 1
        try:
            yield
        finally:
            self.in_use -= 1

    def hold_until(self, work: asyncio.Future[Any]) -> None:
        """Occupy a slot until the work has ended, in place of the request that gave it up."""
        self.in_use += 1
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self.in_use -= 1
        if not work.cancelled():
            work.exception()  # nobody waits for it; asyncio would log that


class HostCheck:
    """ASGI middleware that refuses requests to a foreign host name.

    A web page can let its own name resolve to this endpoint (DNS rebinding) and then read the answers. Its name
    is in the Host header. IP addresses are allowed, because no name is resolved for them, and so is localhost.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._any = "*" in allowed
        self._names = {"localhost", *(name for name in allowed if "*" not in name)}
        self._suffixes = (".localhost", *(name[1:] for name in allowed if name.startswith("*.")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._any:
            hosts = Headers(scope=scope).getlist("host")
            if len(hosts) != 1 or not self._allows(hosts[0]):
                raise _foreign_host(", ".join(hosts))
        await self._app(scope, receive, send)

    def _allows(self, host: str) -> bool:
        split = _split(f"//{host}")
        if split is None or split.netloc != host or "@" in host or not split.hostname:
            return False
        name = split.hostname.rstrip(".")
        return name in self._names or name.endswith(self._suffixes) or _is_address(name)


class OriginCheck:
    """ASGI middleware that refuses requests from pages of other origins than the endpoint's own and `allowed`.

    The own origin is the one with the host and port of the Host header. Its scheme is not compared: behind a
    gateway that ends TLS the endpoint sees HTTP. Browsers send no Origin for an <img> of another page, but say that
    it is one (Sec-Fetch-Site); a link that is followed is no request of the page.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app, self._allowed = app, frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self._allowed:
            headers = Headers(scope=scope)
            for origin in headers.getlist("origin"):
                if origin not in self._allowed and not _same_host(origin, headers.get("host", "")):
                    raise _foreign_origin(origin)
            if "origin" not in headers and _embedded_elsewhere(headers):
                raise _foreign_origin("another origin")
        await self._app(scope, receive, send)


def _embedded_elsewhere(headers: Headers) -> bool:
    """Return whether a page of another origin embeds what is asked for."""
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "")
    return site in ("cross-site", "same-site") and mode != "navigate"


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL, None where it or its port is malformed."""
    try:
        split = urlsplit(url)
        _ = split.port
    except ValueError:
        return None
    return split


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_host(origin: str, host: str) -> bool:
    own, other = _split(f"//{host}"), _split(origin)
    if own is None or other is None or not own.hostname:
        return False
    default = {"http": 80, "https": 443}.get(other.scheme)
    return default is not None and (own.hostname, own.port or default) == (
        other.hostname,
        other.port or default,
    )


class ApiKeyCheck:
    """ASGI middleware that refuses requests without the API key, except for the `public` paths.

    It compares the path that the router sees, without the root path, so a prefix changes nothing.
    """

    def __init__(self, app: ASGIApp, api_key: SecretStr, public: Set[str], metrics: RequestMetrics) -> None:
        self._app, self._public, self._metrics = app, public, metrics
        self._key = api_key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and routed_path(scope) not in self._public and not self._has_key(scope):
            self._metrics.failed("no_key")
            await send_error(send, _no_key())  # sent here, so that the middleware around adds CORS headers
            return
        await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode("latin-1"), self._key)


class Guard:
    """Outermost ASGI middleware: security headers, metrics, and errors as JSON."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def measured_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], *HEADERS]
                if routed_path(scope).startswith("/v1/") and all(
                    name != b"cache-control" for name, _ in headers
                ):
                    headers.append((b"cache-control", b"no-store"))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, measured_send)
        except ApiError as error:
            await self._refuse(measured_send, error)
        except Exception:
            log.exception("unexpected error on %s %s", scope["method"], scope["path"])
            if status:  # the response has started, so the connection can only be closed
                raise
            await self._refuse(measured_send, _internal())
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(route, status, time.perf_counter() - start)

    async def _refuse(self, send: Send, error: ApiError) -> None:
        self._metrics.failed(error.detail.code)
        await send_error(send, error)


async def send_error(send: Send, error: ApiError) -> None:
    """Send an error response."""
    body = error.body()
    headers: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _no_key() -> ApiError:
    return ApiError(
        401, "no_key", "this endpoint needs an API key", field="X-API-Key",
        remedy="send it as X-API-Key, or as Authorization: Bearer", headers={"WWW-Authenticate": "Bearer"},
    )  # fmt: skip


def _foreign_host(host: str) -> ApiError:
    return ApiError(
        400, "foreign_host", f"this endpoint does not answer to the host {short(host)!r}", field="Host",
        remedy="use localhost or an IP address, or start the server with --allowed-host NAME (allowed_hosts)",
    )  # fmt: skip


def _foreign_origin(origin: str) -> ApiError:
    return ApiError(
        403, "foreign_origin", f"pages of {short(origin)!r} may not call this endpoint", field="Origin",
        remedy="add the origin to the setting allowed_origins",
    )  # fmt: skip


def _internal() -> ApiError:
    return ApiError(
        500, "internal", "the server failed; what happened is in its log",
        remedy="send it again; if it fails again, report it to the operator of the server",
    )  # fmt: skip
