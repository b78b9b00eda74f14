"""Faults injected for real: workers and shards killed by pid, interrupts, losses that are not finite."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import command
from processes import await_step, copy_without, descendants, start

from rgcluster.base.logs.events import read_events
from rgcluster.base.storage import Location
from rgcluster.train.records.metrics import read_metrics

pytestmark = pytest.mark.long


def test_a_killed_worker_and_a_killed_shard_cost_no_step(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_without(smoke_run, tmp_path / "run", "guidance", "evaluation", "report")
    process = start(
        "train", "all", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run),
        "--set", "guidance.steps=60", "--set", "guidance.checkpoint_every=10",
    )  # fmt: skip
    await_step(run / "guidance", 15, process)
    below = descendants(process.pid)
    worker = [pid for pid, title in below.items() if "RayTrainWorker" in title]
    shards = [pid for pid, title in below.items() if "ShardProcess" in title]
    assert len(worker) == 1 and len(shards) == 2
    os.kill(shards[0], signal.SIGKILL)
    time.sleep(0.5)
    os.kill(worker[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    steps = [line["step"] for line in read_metrics(Location(run / "guidance"))]
    assert steps == list(range(5, 61, 5))


@pytest.mark.parametrize("stage", ["translation", "guidance"])
def test_an_interrupted_stage_goes_on_from_its_checkpoint(
    smoke_run: Path, tmp_path: Path, stage: str
) -> None:
    gone = {"translation": ["translation", "retrieval", "store", "guidance"], "guidance": ["guidance"]}[stage]
    run = copy_without(smoke_run, tmp_path / "run", *gone, "evaluation", "report")
    arguments = [
        "train", stage, "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run),
        "--set", f"{stage}.steps=100", "--set", f"{stage}.checkpoint_every=10",
        "--set", "guidance.variants=[rg-unit]",
    ]  # fmt: skip
    process = start(*arguments)
    await_step(run / stage, 25, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted; the same command continues" in errors and "Traceback" not in errors, errors
    checkpoints = sorted(
        path.parent.name for path in (run / stage / "checkpoints").glob("step-*/manifest.json")
    )
    assert checkpoints and checkpoints[-1] >= "step-00000020"
    time_of_checkpoint = (run / stage / "checkpoints" / checkpoints[-1] / "manifest.json").stat().st_mtime_ns
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    lines = read_metrics(Location(run / stage))
    assert lines[-1]["step"] == 100
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    # The second start trained from the checkpoint: nothing before it was written again.
    kept = run / stage / "checkpoints" / checkpoints[-1] / "manifest.json"
    assert not kept.exists() or kept.stat().st_mtime_ns == time_of_checkpoint


def test_a_terminated_stage_leaves_a_checkpoint_of_the_step_at_hand(smoke_run: Path, tmp_path: Path) -> None:
    """No regular checkpoint comes in this training: the one that is there was asked for by SIGTERM."""
    run = copy_without(
        smoke_run, tmp_path / "run", "translation", "retrieval", "store", "guidance", "evaluation", "report"
    )
    arguments = [
        "train", "translation", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run),
        "--set", "translation.steps=100", "--set", "translation.checkpoint_every=1000",
    ]  # fmt: skip
    process = start(*arguments)
    await_step(run / "translation", 20, process)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "translation: asked to stop; the same command continues after step" in errors.splitlines()[-1]
    assert "Traceback" not in errors and "worker" not in errors, errors
    (checkpoint,) = (run / "translation" / "checkpoints").glob("step-*/manifest.json")
    step = int(checkpoint.parent.name[5:])
    assert 20 <= step < 100
    told = [
        (event.kind, event.message) for event in read_events(Location(run)) if event.stage == "translation"
    ]
    assert ("notice", f"checkpoint of step {step}: asked to stop") in told and told[-1][0] == "interrupted"
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    lines = [line["step"] for line in read_metrics(Location(run / "translation"))]
    assert lines[-1] == 100 and lines == sorted(set(lines))


def test_a_loss_that_is_not_finite_stops_with_one_line(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_without(
        smoke_run, tmp_path / "run", "translation", "retrieval", "store", "guidance", "evaluation"
    )
    result = command(
        "train", "translation", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run),
        "--set", "translation.optimizer.learning_rate=1e30",
    )  # fmt: skip
    assert result.returncode == 1
    assert "translation.optimizer.learning_rate" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (run / "translation" / "model").exists()


def test_more_neighbours_than_images_is_refused_before_training(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_without(smoke_run, tmp_path / "run", "guidance", "evaluation")
    result = command(
        "train", "guidance", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run),
        "--set", "guidance.retrieval_count=128",
    )  # fmt: skip
    assert result.returncode == 2
    assert "will hold only 127 images" in result.stderr
    assert not (run / "guidance" / "model").exists()


def test_a_batch_larger_than_the_data_is_refused(smoke_run: Path, tmp_path: Path) -> None:
    result = command(
        "train", "translation", "--preset", "smoke", "--data", str(smoke_run / "shards"),
        "--run", str(tmp_path / "run"), "--set", "translation.batch_size=129",
    )  # fmt: skip
    assert result.returncode == 2
    assert "translation.batch_size = 129 is larger than the 128 training images" in result.stderr


def test_a_corrupt_checkpoint_of_the_stage_before_is_named(smoke_run: Path, tmp_path: Path) -> None:
    run = copy_without(smoke_run, tmp_path / "run", "guidance", "evaluation")
    file = run / "translation" / "model" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    result = command(
        "train", "guidance", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run)
    )
    assert result.returncode == 2
    assert "tensors.safetensors: missing or corrupt" in result.stderr


def test_two_workers_train_all_stages(smoke_run: Path, tmp_path: Path) -> None:
    result = command(
        "train", "all", "--preset", "smoke", "--data", str(smoke_run / "shards"), "--run", str(tmp_path / "run"),
        "--set", "cluster.workers=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert read_metrics(Location(tmp_path / "run" / "guidance"))[-1]["step"] == 10
