"""A message for the case that Ray ends the process.

A driver that loses its cluster, for example because the head's GCS was killed, is ended from within Ray's C++ part:
no exception is raised, no exit handler runs, and what it logs is not shown. A shell that waits for the process says it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["LOST", "announce_loss"]

LOST = (
    "rgcluster: ended before its work was done: the Ray cluster was lost, or the process was killed; the same command "
    "continues where this one stopped"
)
_WAIT = 'read -r done || echo "$0" >&2'
"""Reads a line from the process; where the process ends without writing one, prints the message."""


@contextmanager
def announce_loss() -> Iterator[None]:
    """Print LOST where the process ends within the body other than by an exception."""
    try:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT, LOST], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process
        )  # fmt: skip
    except OSError:  # a system without a shell
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            shell.communicate(b"done\n", timeout=5)
