"""The run's log for operators, and what `rgcluster status` makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import command

from rgcluster.base.locks.lease import Lease
from rgcluster.base.logs.events import add_event, last_error, read_events
from rgcluster.base.progress import duration
from rgcluster.base.rundir import EVENTS, enter
from rgcluster.base.storage import Location
from rgcluster.config import load_config
from rgcluster.pipeline.overview import status
from rgcluster.train.records.metrics import MetricsLog


@pytest.fixture
def run(tmp_path: Path) -> Location:
    run = Location(tmp_path / "run")
    (run / "config.yaml").write_text(load_config("smoke").to_yaml())
    return run


def test_events_are_kept_in_order_and_a_torn_line_is_left_out(run: Location) -> None:
    add_event(run, "translation", "begun")
    add_event(run, "translation", "failed", "two\nlines")
    with (run / EVENTS).local().open("a") as log:
        log.write('{"time": "2026')
    events = read_events(run)
    assert [(event.kind, event.message) for event in events] == [("begun", ""), ("failed", "two lines")]
    assert str(events[1]).endswith("translation  failed: two lines")


def test_the_last_error_is_that_of_a_stage_not_finished_since(run: Location) -> None:
    for stage, kind in (("a", "failed"), ("b", "failed"), ("a", "finished")):
        add_event(run, stage, kind, f"{stage} {kind}")
    error = last_error(read_events(run))
    assert error is not None and error.message == "b failed"
    add_event(run, "b", "finished")
    assert last_error(read_events(run)) is None


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    add_event(Location(tmp_path / "file" / "run"), "a", "begun")


def test_status_tells_progress_time_left_and_the_error(run: Location) -> None:
    enter(run / "translation", {})
    log = MetricsLog(run / "translation", 0)
    log.write({"step": 25, "steps": 100, "seconds_per_step": 4.0, "images_per_second": 8.0})
    log.close()
    add_event(run, "translation", "failed", "no room to write 3 KiB")
    found = status(str(run))
    assert found.rows[0] == ("translation", "begun", "25/100", "8", "0", "5 min")
    assert found.rows[1][1] == "not begun"
    with Lease(run):
        shown = command("status", "--run", str(run))
    assert shown.returncode == 0
    assert f"at work: process {os.getpid()} on " in shown.stdout
    assert "last error: translation: no room to write 3 KiB" in shown.stdout and "5 min" in shown.stdout


@pytest.mark.parametrize(
    ("seconds", "text"), [(6, "6 s"), (300, "5 min"), (11_040, "3 h 4 min"), (183_600, "2 d 3 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
