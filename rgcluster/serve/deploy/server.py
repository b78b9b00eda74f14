"""An HTTP server on an open listening socket, in its own thread and event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from rgcluster.errors import RGClusterError
from rgcluster.serve.deploy.listening import BACKLOG

__all__ = ["DRAIN_SECONDS", "KEEP_ALIVE_S", "Server"]

KEEP_ALIVE_S = 60
DRAIN_SECONDS = 1.5
"""Seconds during which responses carry `Connection: close`, before idle connections are closed."""
CHECK_S = 5.0


class Server:
    """Serves an ASGI application until it is stopped."""

    def __init__(self, app: ASGIApp, listening: socket.socket, timeout_s: float) -> None:
        """Start; `timeout_s` is the time that `stop` leaves to requests in progress."""
        self._config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off",
            backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=int(timeout_s) + 1,
        )  # fmt: skip
        self._server = uvicorn.Server(self._config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, args=(listening,), name="http", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RGClusterError("the HTTP server did not start; see the log")
            time.sleep(0.01)

    def check(self) -> None:
        """Raise RGClusterError where the event loop has ended or is blocked."""
        if self._loop is None or not self._thread.is_alive():
            raise RGClusterError("the HTTP server has ended")
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        if not turned.wait(CHECK_S):
            raise RGClusterError(f"the HTTP server's event loop has not turned for {CHECK_S:g} s")

    def stop(self) -> None:
        """Stop accepting connections; return when the requests in progress are answered."""
        if self._loop is None or not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._accept_no_more)
        time.sleep(DRAIN_SECONDS)
        self._server.should_exit = True
        self._thread.join()

    def _run(self, listening: socket.socket) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[listening])

        with asyncio.Runner(loop_factory=self._config.get_loop_factory()) as runner:
            runner.run(serve())

    def _accept_no_more(self) -> None:
        for server in self._server.servers:
            server.close()
        # Uvicorn copies the headers once a second. With the header, clients do not reuse a connection about to close.
        last: tuple[bytes, bytes] = (b"connection", b"close")
        self._config.encoded_headers.append(last)
        state: Any = self._server.server_state
        state.default_headers = [*state.default_headers, last]
