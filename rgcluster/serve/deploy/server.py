"""An ASGI application on a socket that listens already, in a thread and an event loop of its own."""

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

__all__ = ["DRAIN_S", "KEEP_ALIVE_S", "Server"]

KEEP_ALIVE_S = 60
DRAIN_S = 1.5
"""How long open connections are told with an answer that it is their last, before those without a request end."""
CHECK_S = 5.0


class Server:
    """Speaks HTTP until it is stopped."""

    def __init__(self, app: ASGIApp, listening: socket.socket, patience_s: float) -> None:
        """Start; `patience_s`: how long requests under way may take to finish when it is stopped."""
        self._config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off",
            backlog=BACKLOG, timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=int(patience_s) + 1,
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
        """Raise RGClusterError where the event loop has ended or is stuck."""
        if self._loop is None or not self._thread.is_alive():
            raise RGClusterError("the HTTP server has ended")
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        if not turned.wait(CHECK_S):
            raise RGClusterError(f"the HTTP server's event loop has not turned for {CHECK_S:g} s")

    def stop(self) -> None:
        """Accept no more, let connections end with the answer they wait for, return when all have."""
        if self._loop is None or not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._accept_no_more)
        time.sleep(DRAIN_S)
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
        # Uvicorn reads the list once a second; a client that is told does not send into a connection that ends.
        last: tuple[bytes, bytes] = (b"connection", b"close")
        self._config.encoded_headers.append(last)
        state: Any = self._server.server_state
        state.default_headers = [*state.default_headers, last]
