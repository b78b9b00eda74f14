"""Messages of workers to the user: lines of `notices.jsonl`, which the driver shows."""

from __future__ import annotations

from datetime import UTC, datetime

from rgcluster.base.logs.jsonlines import append_line, read_lines
from rgcluster.base.rundir import NOTICES
from rgcluster.base.storage import Location

__all__ = ["add_notice", "read_notices"]


def add_notice(directory: Location, text: str) -> None:
    """Add one line to the stage's notices, with the time."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    append_line(directory / NOTICES, {"time": time, "notice": text})


def read_notices(directory: Location) -> list[str]:
    """Return the texts of the stage's notices."""
    return [line["notice"] for line in read_lines(directory / NOTICES) if "notice" in line]
