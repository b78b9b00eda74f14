"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

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

__all__ = ["Update", "console", "duration", "follow", "task"]

console = Console(stderr=True, highlight=False)


class Update(Protocol):
    """Takes what is done, the total, and a word on how it goes."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


LINE_SECONDS = 15.0


@contextmanager
def task(title: str) -> Iterator[Update]:
    """Show one piece of work; a finished one leaves a line with its time."""
    start = time.monotonic()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<22}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            number = bar.add_task(title, total=None, note="")

            def update(done: int, total: int, note: str = "") -> None:
                bar.update(number, completed=done, total=total, note=note)

            yield update
    else:
        yield _Lines(title, start)
    console.print(f"{title:<22} done in {time.monotonic() - start:.0f} s", soft_wrap=True)


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
