"""Addresses of Ray clusters, checked before Ray gets them: their form at once, whether anybody answers in seconds.

A driver, a process on a machine of the cluster, needs `HOST:6379`, the address that `ray start` printed. A job is
submitted to the dashboard, `http://HOST:8265`.
"""

from __future__ import annotations

import os
import socket
import urllib.request
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from rgcluster.errors import ConfigError

__all__ = [
    "ANSWER_SECONDS",
    "DASHBOARD_PORT",
    "check_driver_address",
    "check_last_cluster",
    "dashboard_address",
    "require_endpoint",
    "require_url",
]

ANSWER_SECONDS = 5.0
CLUSTER_PORT = 6379
DASHBOARD_PORT = 8265
CLIENT_PORT = 10001

_NAMED = ("auto", "local")

_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = 4
_EMPTY_SETTINGS = bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
"""A frame of HTTP/2; its type is the fourth byte."""


def check_driver_address(source: str, address: str) -> None:
    """Raise ConfigError unless a Ray cluster answers at `address`, HOST:PORT; `source` says where it was given."""
    if address in _NAMED:
        return
    shown = f"{source}={address}"
    parts = _parts(address)
    if parts is None or not parts.hostname:
        raise ConfigError(f"{shown}: not an address; write HOST:{CLUSTER_PORT}, as `ray start` prints it")
    host = _bracketed(parts.hostname)
    own = f"{host}:{CLUSTER_PORT}"
    if parts.scheme in ("http", "https"):
        raise ConfigError(
            f"{shown}: the address of a dashboard, to which `rgcluster submit --address {address}` submits jobs; on a "
            f"machine of the cluster set {source}={own}"
        )
    if parts.scheme == "ray":
        raise ConfigError(
            f"{shown}: Ray Client is not supported; on a machine of the cluster set {source}={own}, from elsewhere use "
            f"`rgcluster submit --address http://{host}:{DASHBOARD_PORT}`"
        )
    if parts.scheme:
        raise ConfigError(f"{shown}: an unknown kind of address; set {source}={own}")
    if parts.port is None:
        raise ConfigError(f"{shown}: no port; set {source}={own}")
    kind = _what_answers(parts.hostname, parts.port)
    if kind == "nothing":
        raise ConfigError(
            f"{shown}: nothing answers at this address within {ANSWER_SECONDS:g} s; `ray start --head` starts a "
            f"cluster on this machine, `ray status` shows the address of one that runs, HOST:{CLUSTER_PORT}"
        )
    if kind != "cluster":
        what = (
            "a web server, perhaps the dashboard," if kind == "http" else "something other than a Ray cluster"
        )
        raise ConfigError(
            f"{shown}: {what} answers there; set {source}={own}, the address that `ray start` printed"
        )


def check_last_cluster(address: str) -> None:
    """Raise ConfigError unless a Ray cluster answers at `address`, where one was started last on this machine."""
    parts = _parts(address)
    if parts is None or _what_answers(parts.hostname or "", parts.port or CLUSTER_PORT) != "cluster":
        raise ConfigError(
            f"no Ray cluster answers at {address} any more, where the last one was started; `ray start --head` starts "
            f"one on this machine, RAY_ADDRESS=HOST:{CLUSTER_PORT} names another"
        )


def dashboard_address(source: str, address: str) -> str:
    """Return the address of a dashboard as Ray's client of jobs wants it; ConfigError where it is wrong or dead.

    `HOST:8265` becomes `http://HOST:8265`. An address of the cluster itself, `HOST:6379`, stays: Ray finds the
    dashboard from it. `source` says where the address was given.
    """
    if address == "auto":
        return address
    shown = f"{source}={address}"
    parts = _parts(address)
    if parts is None or not parts.hostname:
        raise ConfigError(f"{shown}: not an address; write http://HOST:{DASHBOARD_PORT}")
    right = f"http://{_bracketed(parts.hostname)}:{DASHBOARD_PORT}"
    if parts.scheme in ("http", "https"):
        return address
    if parts.scheme:
        raise ConfigError(f"{shown}: jobs are submitted to the cluster's dashboard, here perhaps {right}")
    if parts.port is None:
        raise ConfigError(f"{shown}: no port; write {right}")
    kind = _what_answers(parts.hostname, parts.port)
    if kind == "nothing":
        raise ConfigError(
            f"{shown}: nothing answers at this address within {ANSWER_SECONDS:g} s; the dashboard of a cluster is "
            f"{right}, through a tunnel if it is out of reach"
        )
    if kind == "other":
        raise ConfigError(f"{shown}: no Ray cluster answers there; the dashboard is {right}")
    return f"http://{address}" if kind == "http" else address


def require_url(url: str) -> None:
    """Raise ConfigError unless `url` has the form of an endpoint's address, http://HOST:PORT or https://HOST."""
    parts = _parts(url)
    if parts is not None and parts.scheme in ("http", "https") and parts.hostname:
        return
    meant = (
        f"http://{url.rpartition('://')[2]}" if parts is not None and parts.hostname else "http://HOST:8000"
    )
    raise ConfigError(f"{url}: not the address of an endpoint; write {meant}")


def require_endpoint(url: str) -> None:
    """Raise ConfigError unless `url` has the right form and a server accepts connections there."""
    require_url(url)
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxies = urllib.request.getproxies()
    if parts.scheme in proxies and not urllib.request.proxy_bypass(host):
        return  # the proxy knows whom it reaches
    try:
        socket.create_connection((host, port), ANSWER_SECONDS).close()
    except (OSError, UnicodeError):
        raise ConfigError(
            f"{url}: nothing answers at this address within {ANSWER_SECONDS:g} s; `rgcluster serve --run DIR` starts "
            "an endpoint and prints its address"
        ) from None


def _parts(address: str) -> SplitResult | None:
    """Return the parts of an address, with or without a scheme; None where it or its port cannot be read."""
    text = address if "://" in address else f"//{address}"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    if any(character.isspace() for character in address) or (not parts.scheme and parts.path):
        return None
    return parts


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _what_answers(host: str, port: int) -> Literal["cluster", "http", "other", "nothing"]:
    """Return what listens at a port, by its response to the first bytes of HTTP/2, which gRPC speaks, and of HTTP/1."""
    try:
        response = _response(host, port, _HTTP2_PREFACE + _EMPTY_SETTINGS)
        if len(response) > 3 and response[3] == _SETTINGS:
            return "cluster"
        if not response.startswith(b"HTTP/"):
            response = _response(host, port, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    except (OSError, UnicodeError):
        return "nothing"
    if response.startswith(b"HTTP/"):
        return "http"
    return "cluster" if os.environ.get("RAY_USE_TLS", "0") in ("1", "true") else "other"


def _response(host: str, port: int, request: bytes) -> bytes:
    """Return the first bytes of a server's response, none where it is silent; OSError where nothing listens."""
    with socket.create_connection((host, port), ANSWER_SECONDS / 2) as connection:
        connection.settimeout(ANSWER_SECONDS / 5)
        try:
            connection.sendall(request)
            return connection.recv(9)
        except OSError:
            return b""
