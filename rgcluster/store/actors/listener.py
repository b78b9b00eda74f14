"""A shard's ear for clients on its own machine: a Unix socket, quicker than a call of Ray.

Such a call passes many threads of two processes; where all cores compute, each may wait for its turn.
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
from rgcluster.store.actors.message import MOST_REQUEST, receive, send
from rgcluster.store.shard.requests import ShardRequest

__all__ = ["Listener", "address", "same_user"]

_MOST_LINES = 128
_LOOK_SECONDS = 1.0


def address(key: str, part: int, replica: int) -> str | None:
    """Return where a shard listens, to those who know the store's key; None where there is no such thing.

    Linux's abstract names are no files, so a killed shard leaves none behind; they do not reach past the
    machine, nor past a container's network.
    """
    return f"\0rgcluster/{key}/{part}/{replica}" if sys.platform == "linux" else None


def same_user(line: socket.socket) -> bool:
    """Return whether the process at the other end runs as this one's user, as the kernel says."""
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())


class Listener:
    """Answers `call(request)` for as long as the process lives, each line on a thread.

    Another user's process is not heard. A process whose raylet has died answers no more: Ray starts the shard
    anew elsewhere, and what is written there would be missing here.
    """

    def __init__(self, where: str, call: Callable[[ShardRequest], Any]) -> None:
        self._where, self._call, self._parent = where, call, os.getppid()
        self._room, self._closed = threading.BoundedSemaphore(_MOST_LINES), False
        threading.Thread(target=self._listen, daemon=True, name="store-listener").start()

    def close(self) -> None:
        """Answer no more."""
        self._closed = True

    def _over(self) -> bool:
        return self._closed or os.getppid() != self._parent

    def _listen(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            while not self._bound(door):
                time.sleep(_LOOK_SECONDS)
            door.listen()
            door.settimeout(_LOOK_SECONDS)
            while not self._over():
                try:
                    line, _ = door.accept()
                except TimeoutError:
                    continue
                except OSError:  # too many open files: it may pass, and Ray carries the calls meanwhile
                    time.sleep(_LOOK_SECONDS)
                    continue
                if not same_user(line) or not self._room.acquire(blocking=False):
                    line.close()
                    continue
                threading.Thread(target=self._converse, args=(line,), daemon=True, name="store-line").start()

    def _bound(self, door: socket.socket) -> bool:
        try:
            door.bind(self._where)
        except OSError:  # the process before this one has not quite gone
            return False
        return True

    def _converse(self, line: socket.socket) -> None:
        try:
            with line:
                line.settimeout(None)
                # Else a shard, as it wakes, would put aside the client that is about to wake the next one.
                with suppress(OSError):  # a container may forbid it
                    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
                while True:
                    asked = receive(line, MOST_REQUEST)
                    if self._over():
                        return
                    send(line, self._answer(ShardRequest(*asked)))
        except OSError:
            pass  # the client has gone, or said what is no message
        finally:
            self._room.release()

    def _answer(self, request: ShardRequest) -> tuple[Any, ...]:
        """Any other error ends the line; the client asks again through Ray, which tells it with its traceback."""
        if not request.is_read:
            raise ConnectionError("lines are for reading")
        try:
            return "answer", self._call(request)
        except RGClusterError as error:
            return "error", type(error).__name__, str(error)
