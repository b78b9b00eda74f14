"""An S3 server in this process, and a proxy before it that fails as networks and servers do."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from moto.server import ThreadedMotoServer

FAULTS = ("busy", "cut", "slow", "lost", "half")
"""503 unasked; hung up unasked; late; done but the answer lost; half an answer."""


@dataclass
class FaultyProxy:
    """Forwards to `target`; of every `every` requests one meets the next of `faults`. With `down` all are refused.

    With `key` only requests that are signed with this access key are let through, the others get 403. `at` is the
    number of one request that meets `faults[0]`; with `stays`, so do all after it.
    """

    target: str
    every: int = 0
    faults: tuple[str, ...] = FAULTS
    down: bool = False
    key: str = ""
    at: int = 0
    stays: bool = False
    requests: int = 0
    met: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def next_fault(self) -> str | None:
        with self._lock:
            self.requests += 1
            if self.down:
                return "busy"
            if self.at and (self.requests == self.at or self.stays and self.requests > self.at):
                self.met[self.faults[0]] += 1
                return self.faults[0]
            if not self.every or self.requests % self.every:
                return None
            fault = self.faults[self.requests // self.every % len(self.faults)]
            self.met[fault] += 1
            return fault

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyProxy

    def _forward(self) -> None:
        body = self._body()
        if self.owner.key and f"Credential={self.owner.key}/" not in self.headers.get("Authorization", ""):
            denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            return self._answer(403, [], denied)
        fault = self.owner.next_fault()
        if fault == "busy":
            return self._answer(
                503, [], b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>"
            )
        if fault == "cut":
            return self._hang_up()
        if fault == "slow":
            time.sleep(0.2)
        upstream = http.client.HTTPConnection(self.owner.target, timeout=60)
        hop = ("transfer-encoding", "expect", "connection")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
        headers["Content-Length"] = str(len(body))
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault == "lost":
            return self._hang_up()
        self._answer(response.status, response.getheaders(), content, half=fault == "half")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, half: bool = False
    ) -> None:
        self.send_response_only(status)
        kept = [
            (k, v)
            for k, v in headers
            if k.lower() not in ("transfer-encoding", "content-length", "connection")
        ]
        if self.command == "HEAD":  # it says how long the object is
            kept += [(k, v) for k, v in headers if k.lower() == "content-length"]
        else:
            kept.append(("Content-Length", str(len(content))))
        for key, value in kept:
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half and len(content) > 1 else content)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def s3_server(bucket: str) -> Iterator[str]:
    """Serve an empty bucket; yield the server's address. The environment holds credentials meanwhile."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patched.delenv(name)
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patched.setenv(f"AWS_{name}", "testing")
        patched.setenv("AWS_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(
            Bucket=bucket
        )
        yield f"{host}:{port}"
    server.stop()


def place(address: str, path: str, **options: object) -> str:
    """The address of a path on the server, as a user writes it."""
    more = "".join(f"&{key}={value}" for key, value in options.items())
    return f"s3://{path}?endpoint_override={address}&scheme=http&region=us-east-1{more}"
