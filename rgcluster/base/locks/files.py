"""Locks between the processes of one machine, or of a shared file system; they end with the process that holds them."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["locked", "take_lock"]

_POLL_SECONDS = 0.1


def take_lock(file: Path, seconds: float = 0.0) -> IO[bytes] | None:
    """Return the lock of a file, held until it is closed; None if another process still holds it after `seconds`."""
    stream, deadline = file.open("ab"), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() >= deadline:
                stream.close()
                return None
        time.sleep(_POLL_SECONDS)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file, made with its directory if missing; wait for it as long as it takes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
