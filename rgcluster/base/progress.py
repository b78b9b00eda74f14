"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Update", "console", "duration", "explain_waits", "follow", "task", "waiting"]

console = Console(stderr=True, highlight=False)


class Update(Protocol):
    """Callback that takes the finished amount, the total and a short note."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


LINE_SECONDS = 15.0
SILENT_SECONDS = 10.0
"""A wait without progress of this length is explained, and again after every `MORE_SECONDS`."""
MORE_SECONDS = 60.0
AT_START_SECONDS = 2.0

_explain: Callable[[], str] | None = None


@contextmanager
def explain_waits(explain: Callable[[], str]) -> Iterator[None]:
    """Let `explain` say what work waits for that has shown no progress yet."""
    global _explain
    before, _explain = _explain, explain
    try:
        yield
    finally:
        _explain = before


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Print a line where the body takes longer than `SILENT_SECONDS`."""
    with _Silence(lambda: f"waiting for {what}"):
        yield


class _Silence:
    """Prints a line after `SILENT_SECONDS`, then every `MORE_SECONDS`, until there is progress."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe, self._start = describe, time.monotonic()
        self._next: float = self._start + SILENT_SECONDS
        self._at_start: int | None = None

    def __enter__(self) -> _Silence:
        self._following = follow(self._poll, 1.0)
        self._following.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._following.__exit__(None, None, None)

    def progress(self, done: int) -> None:
        """Record progress; work that an earlier start had finished does not count."""
        if self._at_start is None:
            self._at_start = done if time.monotonic() - self._start < AT_START_SECONDS else 0
        if done > self._at_start:
            self._next = math.inf

    def _poll(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + MORE_SECONDS
            console.print(f"{self._describe()} ({now - self._start:.0f} s so far)", soft_wrap=True)


@contextmanager
def task(title: str) -> Iterator[Update]:
    """Show one piece of work; a finished one leaves a line with its time.

    If the first result is slow to come, a line says what it waits for.
    """
    start = time.monotonic()
    silence = _Silence(lambda: f"{title}: waiting for {_explained()}")
    with silence, _shown(title, start) as show:

        def update(done: int, total: int, note: str = "") -> None:
            silence.progress(done)
            show(done, total, note)

        yield update
    console.print(f"{title:<22} done in {time.monotonic() - start:.0f} s", soft_wrap=True)


def _explained() -> str:
    try:
        return _explain() if _explain else "its first result"
    except Exception:  # a wait is not explained at the price of the work
        return "its first result"


@contextmanager
def _shown(title: str, start: float) -> Iterator[Update]:
    if not console.is_terminal:
        yield _Lines(title, start)
        return
    columns = (
        TextColumn("{task.description:<22}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        number = bar.add_task(title, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(number, completed=done, total=total, note=note)

        yield update


class _Lines:
    """A line every `LINE_SECONDS` in which something was done, for logs."""

    def __init__(self, title: str, start: float) -> None:
        self._title, self._printed, self._last = title, start, 0
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if self._first is None:  # what an earlier start had done says nothing about the speed
            self._first, self._last = (done, now), done
        if now - self._printed < LINE_SECONDS or done <= self._last:
            return
        self._printed, self._last = now, done
        first, since = self._first
        left = (now - since) / (done - first) * (total - done)
        console.print(
            f"{self._title:<22} {done}/{total}, about {left:.0f} s left{', ' + note if note else ''}",
            soft_wrap=True,  # one line a report, however long the title
        )


@contextmanager
def follow(poll: Callable[[], None], seconds: float = 0.7) -> Iterator[None]:
    """Call `poll` every so often from a thread while the body runs."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            poll()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def duration(seconds: float) -> str:
    """Return `2 d 3 h`, `3 h 4 min`, `5 min` or `6 s`."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    if days < 1:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(days)} d {int(hours % 24)} h"
