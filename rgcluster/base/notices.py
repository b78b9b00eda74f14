"""What a worker wants the user to know while it works: lines of `notices.jsonl`, shown by the driver."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from rgcluster.base.storage import Location

__all__ = ["NOTICES", "add_notice", "read_notices"]

NOTICES = "notices.jsonl"


def add_notice(directory: Location, text: str) -> None:
    """Add one line to the stage's notices, with the time."""
    file = directory / NOTICES
    before = file.read_text() if file.exists() else ""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "notice": text})
    file.write_text(f"{before}{line}\n")


def read_notices(directory: Location) -> list[str]:
    """Return the texts of the stage's notices."""
    file = directory / NOTICES
    if not file.exists():
        return []
    return [json.loads(line)["notice"] for line in file.read_text().splitlines()]
