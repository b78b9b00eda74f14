"""Where losses can be watched: TensorBoard and MLflow for real, Weights & Biases by a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rgcluster.base.logs.notices import read_notices
from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError
from rgcluster.train.records import trackers
from rgcluster.train.records.gauges import Gauges
from rgcluster.train.records.metrics import MetricsLog, read_metrics
from rgcluster.train.records.trackers import open_trackers


def log(directory: Path, steps: range, *names: str) -> None:
    subject = MetricsLog(Location(directory), steps.start, names)
    for step in steps:
        subject.write({"step": step + 1, "total": 10.0 - step, "note": "not a number"})
    subject.close()


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(tmp_path / "run" / "translation", range(3), "tensorboard")
    found = EventAccumulator(str(tmp_path / "run" / "translation" / "tensorboard")).Reload()
    assert found.Tags()["scalars"] == ["total"]
    assert [(event.step, event.value) for event in found.Scalars("total")] == [(1, 10.0), (2, 9.0), (3, 8.0)]


def test_mlflow_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlflow").as_uri())
    log(tmp_path / "run" / "translation", range(2), "mlflow")
    log(tmp_path / "run" / "translation", range(2, 4), "mlflow")
    (run,) = mlflow.search_runs(experiment_names=["rgcluster"], output_format="list")
    assert run.info.run_name == "run-translation"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "total")
    assert [(point.step, point.value) for point in history] == [(1, 10.0), (2, 9.0), (3, 8.0), (4, 7.0)]
    log(tmp_path / "run" / "translation", range(1), "mlflow")  # begun anew
    assert len(mlflow.search_runs(experiment_names=["rgcluster"], output_format="list")) == 2


def test_weights_and_biases_continues_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def init(**settings: Any) -> SimpleNamespace:
        calls.append(settings)
        return SimpleNamespace(
            log=lambda numbers, step: calls.append((step, numbers)), finish=lambda: calls.append("finished")
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    log(tmp_path / "run" / "guidance", range(1), "wandb")
    log(tmp_path / "run" / "guidance", range(1, 2), "wandb")
    first, second = calls[0], calls[3]
    assert first == second and first["resume"] == "allow" and first["name"] == "run-guidance"
    assert calls[1:3] == [(1, {"total": 10.0}), "finished"]


def test_a_tracker_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"cluster.trackers names wandb.*pip install 'rgcluster\[wandb\]'"):
        open_trackers(["wandb"], Location(tmp_path / "run" / "translation"), 0, lambda name, error: None)


class Failing:
    """Fails as a server that is down does, or a tag that cannot be encoded."""

    calls = 0

    def __init__(self, directory: Location, step: int) -> None:
        pass

    def log(self, step: int, numbers: dict[str, float]) -> None:
        Failing.calls += 1
        raise UnicodeEncodeError("ascii", "é", 0, 1, "not in range")

    def close(self) -> None:
        raise OSError("down")


def test_a_tracker_that_fails_is_noted_once_and_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.KINDS, "mlflow", Failing)
    log(tmp_path / "été" / "translation", range(3), "mlflow", "tensorboard")
    directory = Location(tmp_path / "été" / "translation")
    (notice,) = read_notices(directory)
    assert notice.startswith("Failing failed and gets no more numbers (UnicodeEncodeError: 'ascii' codec")
    assert Failing.calls == 1
    assert [line["step"] for line in read_metrics(directory)] == [1, 2, 3]
    assert list((tmp_path / "été" / "translation" / "tensorboard").glob("events.*"))


def test_a_tracker_that_cannot_be_opened_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Location, step: int) -> None:
        raise ConnectionError("no server")

    monkeypatch.setitem(trackers.KINDS, "mlflow", refuse)
    log(tmp_path / "run" / "translation", range(2), "mlflow", "tensorboard")
    (notice,) = read_notices(Location(tmp_path / "run" / "translation"))
    assert "mlflow failed" in notice and "no server" in notice
    assert list((tmp_path / "run" / "translation" / "tensorboard").glob("events.*"))


def test_gauges_that_fail_are_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Gauges, step: int, numbers: dict[str, float]) -> None:
        raise ValueError("no tag")

    monkeypatch.setattr(Gauges, "log", fail)
    log(tmp_path / "run" / "translation", range(3))
    assert len(read_notices(Location(tmp_path / "run" / "translation"))) == 1
