"""Early checkpoints: before a machine is preempted, or when the run is asked to stop.

The driver asks by a file in the stage's directory. Every worker looks whether its own machine got its cloud's
notice, and tells the first worker by a file, too. Ray tells the first worker of nodes that it drains.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rgcluster.base.cluster.internals import is_preempted
from rgcluster.base.cluster.spot import MetadataService, metadata_service
from rgcluster.base.rundir import PREEMPTED, STOP
from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError

__all__ = ["NOTICED", "STOPPED", "PreemptionWatch", "clear_requests", "request_stop", "stoppable"]

NOTICED, STOPPED = "a machine is about to be taken away", "asked to stop"

SECONDS, REMOTE_SECONDS = 0.5, 5.0
"""Interval at which the stage's directory is polled, local or remote."""
NOTICE_SECONDS = 5.0
FAILURES = 3
"""Consecutive failures after which a metadata service is no longer polled."""
STOP_SECONDS = 100.0
"""After SIGTERM a training without a checkpoint ends; machines are taken away two minutes after their notice."""


@contextmanager
def stoppable(request: Callable[[], None]) -> Iterator[None]:
    """Make SIGTERM call `request`, which asks the trainings of the body for a checkpoint, after which they end.

    A second SIGTERM ends the process at once, and so does the first one where the request fails.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    late = threading.Timer(STOP_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
    late.daemon = True

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        late.start()
        try:
            request()
        except (OSError, RGClusterError):
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        late.cancel()
        signal.signal(signal.SIGTERM, before)


def request_stop(directory: Location) -> None:
    """Ask the stage at work in the directory for a checkpoint, after which it ends."""
    (directory / STOP).write_bytes(b"\n")


def clear_requests(directory: Location) -> None:
    """Remove what an earlier start was asked."""
    for name in (STOP, PREEMPTED):
        (directory / name).remove()


class PreemptionWatch:
    """Looks for notices and requests in threads while it is entered; `requested` itself makes no request."""

    def __init__(self, directory: Location, rank: int, service: MetadataService | None = None) -> None:
        self._directory, self._rank = directory, rank
        self._service = service or metadata_service()
        self._noticed = self._answered = self._stop = False
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []

    def requested(self) -> str | None:
        """Return why a checkpoint is wanted now: STOPPED, NOTICED once, or None."""
        if self._stop:
            return STOPPED
        return NOTICED if self._noticed and not self._answered else None

    def answered(self) -> None:
        """Note that the checkpoint is written."""
        self._answered = True

    def __enter__(self) -> PreemptionWatch:
        loops = [self._watch_machine] if self._service else []
        if self._rank == 0:
            with suppress(OSError, RGClusterError):  # that of a machine that is gone
                (self._directory / PREEMPTED).remove()
            loops.append(self._watch_directory)
        self._threads = [threading.Thread(target=loop, daemon=True, name="preemption") for loop in loops]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _watch_directory(self) -> None:
        """Look for what the driver, other workers and Ray say; the first worker does."""
        while not self._end.wait(SECONDS if self._directory.is_local else REMOTE_SECONDS):
            with suppress(OSError, RGClusterError):  # it may pass
                self._noticed = self._noticed or is_preempted() or (self._directory / PREEMPTED).exists()
                self._stop = self._stop or (self._directory / STOP).exists()

    def _watch_machine(self) -> None:
        """Look for the notice of this machine's cloud, and pass it on to the first worker."""
        failures = 0
        while failures < FAILURES and not self._end.wait(NOTICE_SECONDS):
            try:
                if self._service is not None and self._service.is_preempted():
                    (self._directory / PREEMPTED).write_text(f"rank {self._rank}\n")
                    return
                failures = 0
            except (OSError, RGClusterError):
                failures += 1
