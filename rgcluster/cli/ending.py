"""How a command ends that is asked to end, whatever it was doing."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from rgcluster.base.cluster.internals import run_exit_handlers

__all__ = ["INTERRUPTED", "TERMINATED", "leave", "unwinding_on_sigterm"]

INTERRUPTED, TERMINATED = 130, 143
"""What a shell calls a command that SIGINT (Ctrl-C) or SIGTERM ended."""
REMIND_SECONDS = 1.0


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Make SIGTERM in the body raise SystemExit, as Ctrl-C raises KeyboardInterrupt, so that what it started ends, too.

    A library's bare `except` may swallow the exception. So the handler is called each second until the body ends, and
    raises again unless it meets the clean-up after one. Where the body takes the signal over, as a training does,
    its handler is called.
    """
    asked = False  # no lock, which the handler may interrupt whoever holds it
    ended = threading.Event()

    def remind() -> None:
        while not ended.wait(REMIND_SECONDS):
            if asked:
                # Calls the handler without the signal, which would end the process if Ray has reset its disposition.
                _thread.interrupt_main(signal.SIGTERM)

    def unwind(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if not _unwinds(sys.exc_info()[1]):
            sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, unwind)
    threading.Thread(target=remind, name="reminder of SIGTERM", daemon=True).start()
    try:
        yield
    except SystemExit:
        if asked:  # `ray.get` raises another status in its place
            sys.exit(TERMINATED)
        raise
    finally:
        ended.set()


def _unwinds(error: BaseException | None) -> bool:
    """Whether the code at work is the clean-up after a SystemExit or KeyboardInterrupt."""
    while error is not None:
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            return True
        error = error.__context__
    return False


def leave(status: int) -> NoReturn:
    """End the process after its exit handlers, but without taking the interpreter down.

    A signal may have interrupted the import of a compiled module, whose half-made state can crash there.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        run_exit_handlers()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
    finally:
        os._exit(status)
