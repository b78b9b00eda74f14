"""JSON lines that grow at the end, and what a crash leaves of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rgcluster.base.logs.events import add_event, read_events
from rgcluster.base.logs.jsonlines import append_line, read_lines
from rgcluster.base.logs.notices import add_notice, read_notices
from rgcluster.base.storage import Location

values = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=8), max_size=3)


@given(st.lists(values, max_size=5))
def test_what_is_appended_is_read(lines: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Location(folder) / "a" / "lines.jsonl"
        for line in lines:
            append_line(file, line)
        assert read_lines(file) == lines


@given(st.lists(values, min_size=1, max_size=4), values, st.data())
def test_a_torn_line_takes_no_other_line_with_it(
    lines: list[dict[str, Any]], after: dict[str, Any], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Location(folder) / "lines.jsonl"
        for line in lines:
            append_line(file, line)
        whole = file.read_bytes()
        last = len(whole) - len(whole.splitlines()[-1]) - 1
        file.local().write_bytes(whole[: data.draw(st.integers(last, len(whole) - 2))])
        append_line(file, after)
        assert read_lines(file) == [*lines[:-1], after]


def test_torn_events_and_notices_are_left_out(tmp_path: Path) -> None:
    run = Location(tmp_path)
    add_event(run, "translation", "begun")
    add_notice(run, "slow disk")
    for name in ("events.jsonl", "notices.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"time": "2026-01-01", "no')
    add_event(run, "translation", "finished")
    add_notice(run, "still slow")
    assert [event.kind for event in read_events(run)] == ["begun", "finished"]
    assert read_notices(run) == ["slow disk", "still slow"]


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_lines(Location(tmp_path / "none.jsonl")) == []
