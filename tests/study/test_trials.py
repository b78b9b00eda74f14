"""A sweep that is asked to stop: trials that train end with a checkpoint, others end, none begins."""

from __future__ import annotations

import json
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from processes import start

from rgcluster.base.logs.events import read_events
from rgcluster.base.rundir import STAGE
from rgcluster.base.rundir import STOP as STAGE_STOP
from rgcluster.base.storage import Location
from rgcluster.errors import Terminated
from rgcluster.study.trials import STOP, Plan, Trial, _drive, _Stop
from rgcluster.train.records.metrics import read_metrics


def plan(root: Path) -> Plan:
    nothing: Any = None
    return Plan(Location(root), nothing, nothing, {}, 1, "rg-unit/total")


class FakeStudy:
    """Takes the place of a study and of its only pipeline, whose stages work until they are asked to stop."""

    def __init__(self, root: Path, stage: str = "guidance") -> None:
        self.run, self.stage = Location(root / "cell"), stage

    def pipeline(self, cell: object) -> FakeStudy:
        return self

    def finish(self, name: str) -> None:
        for before in ("translation", "retrieval"):
            if before != self.stage:
                (self.run / before / STAGE).write_json({"finished": True})
        (self.run / self.stage / STAGE).write_json({"finished": False})
        deadline = time.monotonic() + 30
        while not (self.run / self.stage / STAGE_STOP).exists():
            assert time.monotonic() < deadline, "nobody asked it to stop"
            time.sleep(0.05)
        raise Terminated(f"{name}: asked to stop; the same command continues after step 7")


@pytest.mark.parametrize("stage", ["translation", "guidance"])
def test_a_trial_at_work_is_asked_to_stop_and_does_not_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(Plan, "study", lambda self: FakeStudy(tmp_path, stage))
    with _Stop(Location(tmp_path) / STOP, []) as stop:
        later = threading.Timer(0.2, stop.request)
        later.start()
        assert _drive({"cell": 0}, plan(tmp_path), [{}]) is None
        later.join()
    stopped = [path.parent.name for path in (tmp_path / "cell").glob(f"*/{STAGE_STOP}")]
    assert stopped == [stage] and not (tmp_path / STOP).exists()


def test_a_trial_whose_turn_comes_after_the_request_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plan, "study", lambda self: pytest.fail("began"))
    with _Stop(Location(tmp_path) / STOP, []) as stop:
        stop.request()
        assert _drive({"cell": 0}, plan(tmp_path), [{}]) is None


def test_the_sweep_ends_when_no_trial_trains_any_more(tmp_path: Path) -> None:
    trials = [Trial({}, state) for state in ("finished", "training", "measuring", "waiting")]
    (tmp_path / "sweep").mkdir()
    (tmp_path / STOP).write_text("")  # of a driver that was killed while it stopped
    with _Stop(Location(tmp_path) / STOP, trials) as stop:
        assert not (tmp_path / STOP).exists() and not stop.stop_all()
        stop.request()
        assert not stop.stop_all()
        trials[1].state = "ended"
        assert stop.stop_all()
    assert pickle.loads(pickle.dumps(stop)).__dict__ == {}, "Tune writes it to disk"


@pytest.mark.long
def test_trials_that_share_no_stage_train_beside_each_other_and_end_with_a_checkpoint(
    smoke_run: Path, tmp_path: Path
) -> None:
    """No regular checkpoint comes in these trainings: those that are there were asked for by SIGTERM."""
    root = tmp_path / "study"
    line = [
        "sweep", "--preset", "smoke", "--data", str(smoke_run / "shards"), "--run", str(root),
        "--over", "seed=0,1", "--trials", "2", "--set", "cluster.threads=1",
        "--set", "guidance.variants=[rg-unit]",
        "--set", "guidance.steps=120", "--set", "guidance.checkpoint_every=1000",
    ]  # fmt: skip
    process = start(*line)
    deadline = time.monotonic() + 400
    while not (begun := at_step(root, 10)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1][-3000:]
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors[-3000:]
    assert errors.splitlines()[-1].startswith("rgcluster: sweep: asked to stop; the same command continues")
    assert "Traceback" not in errors, errors[-3000:]
    for directory in begun:
        (checkpoint,) = (directory / "checkpoints").glob("step-*/manifest.json")
        assert 10 <= int(checkpoint.parent.name[5:]) < 120
    assert not (root / STOP).exists()
    assert not list((root / "sweep" / "trials").glob("*")), "a trial that was stopped did not fail"
    result = command(*line, timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    for directory in begun:
        steps = [entry["step"] for entry in read_metrics(Location(directory))]
        assert steps[-1] == 120 and steps == sorted(set(steps))
    states = [row["state"] for row in json.loads((root / "sweep" / "results.json").read_text())["trials"]]
    assert states == ["finished", "finished"]
    (begun_at, finished_at), (other_begun_at, other_finished_at) = spans(root, "translation")
    assert begun_at < other_finished_at and other_begun_at < finished_at, "one waited for the other"
    assert len(list((root / "stages").glob("*/reference/stage.json"))) == 1, "the judge is shared"


def at_step(root: Path, step: int) -> list[Path]:
    """The directories of stage 3 whose training has come to `step`."""
    directories = [file.parent for file in (root / "stages").glob(f"*/guidance/{STAGE}")]
    return [
        place
        for place in directories
        if (lines := read_metrics(Location(place))) and lines[-1]["step"] >= step
    ]


def spans(root: Path, stage: str) -> list[list[float]]:
    """When each trial's stage began and finished."""
    events = [read_events(Location(cell)) for cell in sorted((root / "cells").iterdir())]
    return [
        [event.time for event in of_cell if event.stage == stage and event.kind in ("begun", "finished")]
        for of_cell in events
    ]
