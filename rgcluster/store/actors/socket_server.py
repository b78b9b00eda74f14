"""Unix-socket server of a shard, for clients on its own machine.

It is faster than a call through Ray, which passes many threads of two processes. Each of them may have to wait
for the CPU while all cores compute.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rgcluster.errors import RGClusterError
from rgcluster.store.actors.frames import MAX_REQUEST_BYTES, receive, send
from rgcluster.store.shard.requests import ShardRequest

__all__ = ["SocketServer", "address", "same_user"]

_MAX_CONNECTIONS = 128
_POLL_SECONDS = 1.0


def address(key: str, part: int, replica: int) -> str | None:
    """Return the socket address of a shard, which only holders of the store's key know; None except on Linux.

    Linux's abstract socket names are not files, so a killed shard leaves none behind. They are not visible
    outside the machine or the container's network.
    """
    return f"\0rgcluster/{key}/{part}/{replica}" if sys.platform == "linux" else None


def same_user(connection: socket.socket) -> bool:
    """Return whether the peer process runs as this process's user, according to the kernel."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())


class SocketServer:
    """Serves `call(request)` until the process ends, with one thread per connection.

    It rejects processes of other users. It stops when the raylet dies: Ray then restarts the shard on another
    node, and this process would miss the changes written there.
    """

    def __init__(self, path: str, call: Callable[[ShardRequest], Any]) -> None:
        self._path, self._call, self._parent = path, call, os.getppid()
        self._free, self._closed = threading.BoundedSemaphore(_MAX_CONNECTIONS), False
        threading.Thread(target=self._accept, daemon=True, name="store-socket-server").start()

    def close(self) -> None:
        """Stop serving."""
        self._closed = True

    def _stopped(self) -> bool:
        return self._closed or os.getppid() != self._parent

    def _accept(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            while not self._bind(server):
                time.sleep(_POLL_SECONDS)
            server.listen()
            server.settimeout(_POLL_SECONDS)
            while not self._stopped():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                except OSError:  # too many open files; Ray carries the calls until this passes
                    time.sleep(_POLL_SECONDS)
                    continue
                if not same_user(connection) or not self._free.acquire(blocking=False):
                    connection.close()
                    continue
                threading.Thread(
                    target=self._serve, args=(connection,), daemon=True, name="store-connection"
                ).start()

    def _bind(self, server: socket.socket) -> bool:
        try:
            server.bind(self._path)
        except OSError:  # the shard's previous process has not ended yet
            return False
        return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(None)
                # Otherwise a shard that wakes up preempts the client, which is about to call the next shard.
                with suppress(OSError):  # a container may forbid it
                    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
                while True:
                    fields = receive(connection, MAX_REQUEST_BYTES)
                    if self._stopped():
                        return
                    send(connection, self._respond(ShardRequest(*fields)))
        except OSError:
            pass  # the client disconnected, or sent an invalid frame
        finally:
            self._free.release()

    def _respond(self, request: ShardRequest) -> tuple[Any, ...]:
        """Return the result or the typed error of a request.

        Any other error closes the connection. The client repeats the call through Ray, which reports the traceback.
        """
        if not request.is_read:
            raise ConnectionError("the socket serves reads only")
        try:
            return "answer", self._call(request)
        except RGClusterError as error:
            return "error", type(error).__name__, str(error)
