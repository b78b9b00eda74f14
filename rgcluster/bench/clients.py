"""Clients of an HTTP endpoint in one thread, to leave the cores to the endpoint.

A thread and an HTTP library for each client would take more time than the endpoint itself.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

__all__ = ["Load", "run_clients"]

TIMEOUT_S = 60.0
RETRY_SECONDS = 1.0
CHUNK = 1 << 18


@dataclass
class Load:
    """Latencies in seconds of successful requests, numbers of the others, and the total time."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    elapsed: float = 0.0

    def percentile(self, share: float) -> float:
        return 1000 * float(np.percentile(self.seconds, share)) if self.seconds else float("nan")

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.elapsed


class _Client:
    """A persistent connection and its current request."""

    def __init__(self, address: str, number: int) -> None:
        place = urlsplit(address)
        self._place, self.number = (place.hostname or "", place.port or 80), number
        self.turn, self.tries, self.begun = 0, 0, 0.0
        self._answer, self._length = bytearray(), -1
        self.socket = self._connect()

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._answer, self._length = bytearray(), -1
        self.begun = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Receive a chunk; return the status once the response is complete."""
        chunk = self.socket.recv(CHUNK)
        if not chunk:
            raise ConnectionError
        self._answer += chunk
        if self._length < 0:
            end = self._answer.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = bytes(self._answer[:end]).lower()
            self._length = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return int(self._answer[9:12]) if len(self._answer) >= self._length else None

    def reconnect(self) -> None:
        self.socket.close()
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._place, timeout=TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made


def run_clients(
    address: str, request: Callable[[int], bytes], clients: int, each: int, retries: int = 0
) -> Load:
    """Run `clients` that send `each` requests one after another; `request` builds one from its number.

    A refused request is sent again up to `retries` times.
    """
    load = Load()
    waiting: list[tuple[float, int]] = []
    all_of_them = [_Client(address, number) for number in range(clients)]
    for client in all_of_them[:64]:  # the first response of a connection includes set-up costs
        client.send(request(client.number))
        while client.receive() is None:
            pass
    start = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for client in all_of_them:
            client.send(request(client.number * each))
            selector.register(client.socket, selectors.EVENT_READ, client)
        left = clients
        while left:
            pause = max(0.0, waiting[0][0] - time.perf_counter()) if waiting else TIMEOUT_S
            for key, _ in selector.select(pause):
                client = key.data
                status = _status(client, selector)
                if status is None:
                    continue
                took = time.perf_counter() - client.begun
                if status == 200:
                    load.seconds.append(took)
                elif status == 429:
                    load.refused += 1
                else:
                    load.failed += 1
                if status == 429 and client.tries < retries:
                    client.tries += 1
                    heapq.heappush(waiting, (time.perf_counter() + RETRY_SECONDS, client.number))
                    continue
                client.turn, client.tries = client.turn + 1, 0
                if client.turn == each:
                    left -= 1
                else:
                    client.send(request(client.number * each + client.turn))
            while waiting and waiting[0][0] <= time.perf_counter():
                client = all_of_them[heapq.heappop(waiting)[1]]
                client.send(request(client.number * each + client.turn))
    load.elapsed = time.perf_counter() - start
    for client in all_of_them:
        client.socket.close()
    return load


def _status(client: _Client, selector: selectors.BaseSelector) -> int | None:
    """Return the status of a complete response, None while it is incomplete, 0 where the connection broke."""
    try:
        return client.receive()
    except OSError:
        selector.unregister(client.socket)
        client.reconnect()
        selector.register(client.socket, selectors.EVENT_READ, client)
        return 0
