"""JSON lines: files of one JSON object a line, that grow at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rgcluster.base.storage import Location

__all__ = ["append_line", "as_lines", "read_lines"]


def append_line(file: Location, value: Mapping[str, Any]) -> None:
    """Add an object as the last line of a file, which is created with its folder if need be.

    On a local disk the line is appended; a last line that a crash cut short is ended first, so that it takes no
    other line with it. Object stores cannot append: the whole file is written again.
    """
    line = as_lines([value])
    if not file.is_local:
        file.write_text((file.read_text() if file.exists() else "") + line)
        return
    file.parent.make_directory()
    with file.local().open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                line = "\n" + line
        stream.write(line.encode())


def read_lines(file: Location) -> list[dict[str, Any]]:
    """Return the objects of a file, none where there is no file; lines that a crash cut short are left out."""
    if not file.exists():
        return []
    found = []
    for line in file.read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def as_lines(values: list[Mapping[str, Any]] | list[dict[str, Any]]) -> str:
    """Return objects as the text of a file, one a line."""
    return "".join(json.dumps(value) + "\n" for value in values)
