"""What an operator should know of a run: one JSON object a line in its `events.jsonl`, oldest first.

Written by the run's driver, and by the controller that it waits for, one at a time.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rgcluster.base.logs.jsonlines import append_line, read_lines
from rgcluster.base.rundir import EVENTS
from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError

__all__ = ["Event", "add_event", "last_error", "read_events"]

_lock = threading.Lock()


@dataclass(frozen=True)
class Event:
    """When, in which stage, what.

    Kinds: begun, resumed, finished, failed, interrupted, worker lost, worker failed, shard restarted, notice.
    """

    time: str
    stage: str
    kind: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.time}  {self.stage}  {self.kind}" + (f": {self.message}" if self.message else "")


def add_event(run: Location, stage: str, kind: str, message: str = "") -> None:
    """Add an event; a log that cannot be written stops no work."""
    event = Event(datetime.now(UTC).isoformat(timespec="seconds"), stage, kind, " ".join(message.split()))
    try:
        with _lock:
            append_line(run / EVENTS, asdict(event))
    except (OSError, RGClusterError):
        pass


def read_events(run: Location) -> list[Event]:
    """Return the run's events; lines that are no events are left out."""
    events = []
    for line in read_lines(run / EVENTS):
        try:
            events.append(Event(**line))
        except TypeError:
            continue
    return events


def last_error(events: list[Event]) -> Event | None:
    """Return the newest failure of a stage that has not finished since."""
    finished: set[str] = set()
    for event in reversed(events):
        if event.kind == "finished":
            finished.add(event.stage)
        elif event.kind == "failed" and event.stage not in finished:
            return event
    return None
