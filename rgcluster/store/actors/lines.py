"""A client's lines to the shards on its own machine. Where there is none, or it breaks, Ray carries the call."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from typing import Any

from rgcluster import errors
from rgcluster.store.actors.listener import address, same_user
from rgcluster.store.actors.message import MOST_ANSWER, receive, send
from rgcluster.store.shard.requests import ShardRequest

__all__ = ["Asked", "Lines"]

_AGAIN_SECONDS = 5.0
"""For so long nobody knocks again where nobody opened."""

Shard = tuple[int, int]
"""A shard's number and its replica's."""


class Lines:
    """Idle lines to the shards of one store; any number of threads may ask at once, each on a line of its own."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._idle: dict[Shard, list[socket.socket]] = defaultdict(list)
        self._not_before: dict[Shard, float] = {}
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, shard: Shard, request: ShardRequest, until: float) -> Asked | None:
        """Send a call; None where it must go another way."""
        if not request.is_read:
            return None
        line = self._take(shard)
        if line is None:
            return None
        try:
            line.settimeout(max(0.001, until - time.monotonic()))
            send(line, request)
        except (OSError, TypeError):
            line.close()
            self.forget(shard)
            return None
        return Asked(self, shard, line)

    def keep(self, shard: Shard, line: socket.socket) -> None:
        """Keep a line for the next call."""
        with self._lock:
            if not self._closed:
                self._idle[shard].append(line)
                return
        line.close()

    def forget(self, shard: Shard) -> None:
        """Close the idle lines to a shard: where one broke, its process has gone."""
        with self._lock:
            lines = self._idle.pop(shard, [])
        for line in lines:
            line.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            shards = list(self._idle)
        for shard in shards:
            self.forget(shard)

    def _take(self, shard: Shard) -> socket.socket | None:
        with self._lock:
            if self._idle[shard]:
                return self._idle[shard].pop()
            if time.monotonic() < self._not_before.get(shard, 0.0):
                return None
        line = _connected(address(self._key, *shard))
        if line is None:
            with self._lock:
                self._not_before[shard] = time.monotonic() + _AGAIN_SECONDS
        return line


class Asked:
    """A call that was sent; its line serves again once the answer is there, and is closed otherwise."""

    def __init__(self, lines: Lines, shard: Shard, line: socket.socket) -> None:
        self._lines, self._shard, self._line = lines, shard, line
        self._over = False

    def result(self, until: float) -> Any:
        """Return the answer or raise the shard's typed error; OSError where the line broke or was silent."""
        try:
            answer = receive(self._line, MOST_ANSWER, until)
        except ConnectionError:
            self._lines.forget(self._shard)
            raise
        self._over = True
        self._lines.keep(self._shard, self._line)
        if answer[0] == "answer":
            return answer[1]
        raise _typed(*answer[1:])

    def drop(self) -> None:
        """Close the line if its answer was not taken."""
        if not self._over:
            self._line.close()


def _connected(where: str | None) -> socket.socket | None:
    if where is None:
        return None
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.settimeout(1.0)
        line.connect(where)
        if same_user(line):
            return line
    except OSError:
        pass
    line.close()
    return None


def _typed(name: str, text: str) -> errors.RGClusterError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.RGClusterError):
        return kind(text)
    return errors.StoreUnavailable(f"{name}: {text}")
