"""What an operator should know of a run: one JSON object a line in its `events.jsonl`, oldest first.

Written by the run's driver, and by the controller that it waits for, one at a time.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rgcluster.base.storage import Location
from rgcluster.errors import RGClusterError

__all__ = ["EVENTS", "Event", "add_event", "last_error", "read_events"]

EVENTS = "events.jsonl"

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
    line = json.dumps(asdict(event)) + "\n"
    file = run / EVENTS
    try:
        with _lock:
            if file.is_local:
                file.parent.make_directory()
                with file.local().open("a") as log:
                    log.write(line)
            else:
                file.write_text((file.read_text() if file.exists() else "") + line)
    except (OSError, RGClusterError):
        pass


def read_events(run: Location) -> list[Event]:
    """Return the run's events; a line cut short by a crash is left out."""
    file = run / EVENTS
    if not file.exists():
        return []
    events = []
    for line in file.read_text().splitlines():
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
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
