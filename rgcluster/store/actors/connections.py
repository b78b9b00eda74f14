"""A client's socket connections to the shards on its own machine.

A call that no connection can carry goes through Ray instead.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from typing import Any

from rgcluster import errors
from rgcluster.store.actors.frames import MAX_RESPONSE_BYTES, receive, send
from rgcluster.store.actors.socket_server import address, same_user
from rgcluster.store.shard.requests import ShardRequest

__all__ = ["PendingResponse", "ShardConnections"]

_BACKOFF_SECONDS = 5.0
"""Back-off after a refused connection."""

Replica = tuple[int, int]
"""Numbers of a shard and of its replica."""


class ShardConnections:
    """Pool of connections to the shards of one store. Safe for threads: each call takes its own connection."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._idle: dict[Replica, list[socket.socket]] = defaultdict(list)
        self._not_before: dict[Replica, float] = {}
        self._lock = threading.Lock()
        self._closed = False

    def request(self, replica: Replica, request: ShardRequest, until: float) -> PendingResponse | None:
        """Send a request; return None if it must go through Ray."""
        if not request.is_read:
            return None
        connection = self._take(replica)
        if connection is None:
            return None
        try:
            connection.settimeout(max(0.001, until - time.monotonic()))
            send(connection, request)
        except (OSError, TypeError):
            connection.close()
            self.close_idle(replica)
            return None
        return PendingResponse(self, replica, connection)

    def put_back(self, replica: Replica, connection: socket.socket) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            if not self._closed:
                self._idle[replica].append(connection)
                return
        connection.close()

    def close_idle(self, replica: Replica) -> None:
        """Close the idle connections to a replica, whose process has ended if one of them broke."""
        with self._lock:
            connections = self._idle.pop(replica, [])
        for connection in connections:
            connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            replicas = list(self._idle)
        for replica in replicas:
            self.close_idle(replica)

    def _take(self, replica: Replica) -> socket.socket | None:
        with self._lock:
            if self._idle[replica]:
                return self._idle[replica].pop()
            if time.monotonic() < self._not_before.get(replica, 0.0):
                return None
        connection = _connect(address(self._key, *replica))
        if connection is None:
            with self._lock:
                self._not_before[replica] = time.monotonic() + _BACKOFF_SECONDS
        return connection


class PendingResponse:
    """A request that was sent. Its connection is reused after the response, and closed if there is none."""

    def __init__(self, connections: ShardConnections, replica: Replica, connection: socket.socket) -> None:
        self._connections, self._replica, self._connection = connections, replica, connection
        self._done = False

    def result(self, until: float) -> Any:
        """Return the result or raise the shard's typed error; OSError if the connection broke or timed out."""
        try:
            response = receive(self._connection, MAX_RESPONSE_BYTES, until)
        except ConnectionError:
            self._connections.close_idle(self._replica)
            raise
        self._done = True
        self._connections.put_back(self._replica, self._connection)
        if response[0] == "answer":
            return response[1]
        raise _typed(*response[1:])

    def cancel(self) -> None:
        """Close the connection unless the response was received."""
        if not self._done:
            self._connection.close()


def _connect(path: str | None) -> socket.socket | None:
    if path is None:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(1.0)
        connection.connect(path)
        if same_user(connection):
            return connection
    except OSError:
        pass
    connection.close()
    return None


def _typed(name: str, text: str) -> errors.RGClusterError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.RGClusterError):
        return kind(text)
    return errors.StoreUnavailable(f"{name}: {text}")
