"""Jobs on a cluster of `ray start` nodes with tokens: refused, killed, submitted again; nodes that come and go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import PROJECT, RayCluster, signal_driver

from rgcluster.base.logs.events import read_events
from rgcluster.base.storage import Location
from rgcluster.train.records.metrics import read_metrics

pytestmark = pytest.mark.long

STEPS = 60
SETTINGS = [
    "--preset", "smoke", "--set", "cluster.threads=1", "--set", "guidance.variants=[rg-unit]",
    "--set", "evaluation.images=16", "--set", "evaluation.classifier_steps=5",
    *(word for stage in ("retrieval", "guidance") for pair in (f"{stage}.steps={STEPS}", f"{stage}.checkpoint_every=10")
      for word in ("--set", pair)),
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster()
    try:
        cluster.start_head(1)
        cluster.add_node(2)
        yield cluster
    finally:
        cluster.close()


def submit(cluster: RayCluster, *words: str, token: str | None = None) -> subprocess.Popen[str]:
    """`rgcluster submit` of the pipeline, as from a machine outside of the cluster."""
    line = [
        sys.executable, "-c", "from rgcluster.cli import main; main()", "submit", "pipeline",
        "--address", cluster.address, *words,
    ]  # fmt: skip
    environment = {name: value for name, value in cluster.environment.items() if name != "RAY_AUTH_MODE"}
    environment["RAY_AUTH_TOKEN"] = token or cluster.token
    return subprocess.Popen(
        line, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            out, errors = process.communicate()
            raise AssertionError(f"{out[-3000:]}\n{errors[-3000:]}")
        time.sleep(0.05)


def test_refusals_are_one_line(cluster: RayCluster) -> None:
    """What would fail later, or hang, is told before the job: no job is left behind."""
    # A directory each: of two that look at one at a time, neither knows that it was not there before.
    none, large, gpus, many = (
        ["--", "--run", str(cluster.directory / f"never-{number}"), "--preset", "smoke"]
        for number in range(4)
    )
    nowhere = ["--", "--run", "/proc/nowhere/run", "--preset", "smoke"]
    cases = [
        (submit(cluster, *none, token="f" * 64), 2, "the cluster refuses the token"),
        (submit(cluster, "--max-upload-mib", "0.1", *large), 2, "MiB, the limit is 0.1; the largest files are"),
        (submit(cluster, *gpus, "--set", "cluster.gpu=always"), 2, "1 GPUs are needed, the cluster has 0"),
        (submit(cluster, *nowhere), 1, "/proc/nowhere/run: this machine cannot write there"),
        (submit(cluster, *many, "--set", "store.shards=40"), 2, "guidance: 1 worker x 0.05 + 40 store shards x 0.1"),
    ]  # fmt: skip
    for process, status, message in cases:
        _, errors = process.communicate(timeout=400)
        line = errors.splitlines()[-1]
        assert process.returncode == status, errors
        assert line.startswith("rgcluster: ") and message in line, errors
        assert "Traceback" not in errors
    assert not list(cluster.directory.glob("never-*"))


def test_a_killed_driver_goes_on_while_nodes_come_and_go(cluster: RayCluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    head, second = cluster.nodes[0], cluster.nodes[1]
    process = submit(cluster, "--", "--run", str(run), *SETTINGS)
    wait_for((run / "retrieval" / "checkpoints" / "step-00000010" / "manifest.json").exists, process)
    signal_driver(head, "jobs/pipeline.py")
    out, errors = process.communicate(timeout=300)
    assert process.returncode not in (0, 2), errors
    assert "translation            done in" in out, out
    assert not any(ord(mark) in (0x1B, 0x0D) for mark in out), "colours or a progress bar in a job's log"
    finished = {name: (run / name / "stage.json").read_bytes() for name in ("translation",)}
    assert json.loads(finished["translation"])["finished"]
    weights = (run / "translation" / "model" / "tensors.safetensors").stat().st_mtime_ns

    process = submit(cluster, "--", "--run", str(run), *SETTINGS)
    cluster.add_node(2)
    wait_for((run / "guidance" / "checkpoints" / "step-00000010" / "manifest.json").exists, process)
    second.kill()
    assert not (run / "guidance" / "model" / "manifest.json").exists(), "the fault came too late"
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, f"{out[-3000:]}\n{errors[-3000:]}"
    assert f"report: {run}" in out
    assert (run / "report" / "index.html").exists()
    # Nothing that was finished was done again, and nothing was lost of what was not.
    assert {name: (run / name / "stage.json").read_bytes() for name in finished} == finished
    assert (run / "translation" / "model" / "tensors.safetensors").stat().st_mtime_ns == weights
    assert read_metrics(Location(run / "guidance"))[-1]["step"] == STEPS
    told = [(event.stage, event.kind) for event in read_events(Location(run))]
    assert told.count(("translation", "begun")) == told.count(("translation", "finished")) == 1
    assert ("retrieval", "resumed") in told and told[-1] == ("evaluation", "finished")
