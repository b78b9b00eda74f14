"""How a command ends that is asked to end, whatever it was doing."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

__all__ = ["INTERRUPTED", "TERMINATED", "leave", "unwind_on_sigterm"]

INTERRUPTED, TERMINATED = 130, 143
"""What a shell calls a command that SIGINT (Ctrl-C) or SIGTERM ended."""
REMIND_SECONDS = 1.0


def unwind_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, as Ctrl-C raises KeyboardInterrupt, so that what the command started ends with it.

    A library's bare `except` may swallow the exception, so it is raised again each second until one gets through.
    """

    def unwind(number: int, frame: FrameType | None) -> None:
        reminder = threading.Timer(REMIND_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
        reminder.daemon = True
        reminder.start()
        if not _unwinds(sys.exc_info()[1]):
            sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, unwind)


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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
