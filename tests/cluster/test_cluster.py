"""A simulated cluster of three nodes and a head: workers and whole nodes are lost in every stage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from nodes import RAY, free_port
from processes import await_step, descendants, start

from rgcluster.base.logs.notices import read_notices
from rgcluster.base.storage import Location
from rgcluster.train.records.metrics import read_metrics

pytestmark = pytest.mark.long

STAGES = ("translation", "retrieval", "guidance")
STEPS, EVERY = 60, 20
SETTINGS = [
    "--preset", "smoke", "--set", "cluster.threads=1", "--set", "guidance.variants=[rg-unit]",
    *(word for stage in STAGES for pair in (f"{stage}.steps={STEPS}", f"{stage}.checkpoint_every={EVERY}")
      for word in ("--set", pair)),
]  # fmt: skip


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs and three nodes of two, on this machine."""
    from ray.cluster_utils import Cluster

    directory = tempfile.mkdtemp(prefix="rgc", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", directory)
    (Path(directory) / "ray").mkdir()
    # A busy machine answers late; one whose process is gone is known to be at once.
    for name, value in (("period_ms", 1000), ("timeout_ms", 5000), ("failure_threshold", 6)):
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0, "include_dashboard": False, "dashboard_port": free_port(), "object_store_memory": 256 << 20,
        },
    )  # fmt: skip
    for _ in range(3):
        add_node(cluster)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def add_node(cluster: Any) -> None:
    cluster.add_node(num_cpus=2, object_store_memory=128 << 20)


def node_of(cluster: Any, worker: int) -> Any:
    """The node whose raylet started the process."""
    for node in cluster.worker_nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        if worker in descendants(raylet):
            return node
    raise AssertionError(f"no node runs process {worker}")


def workers(cluster: Any) -> list[int]:
    """Process ids of the Ray Train workers, which train on one of the nodes."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]
    return [
        pid for raylet in raylets for pid, title in descendants(raylet).items() if "RayTrainWorker" in title
    ]


def await_checkpoint(stage: Path, step: int, process: subprocess.Popen[str], seconds: float = 400) -> None:
    """Wait until the checkpoint of `step` is there, whole."""
    manifest = stage / "checkpoints" / f"step-{step:08d}" / "manifest.json"
    deadline = time.monotonic() + seconds
    while not manifest.exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        if time.monotonic() > deadline:
            process.terminate()
            raise AssertionError(f"{manifest} did not come: {process.communicate()[1][-3000:]}")
        time.sleep(0.01)


def digest(run: Path, stage: str) -> str:
    return str(json.loads((run / stage / "model" / "manifest.json").read_text())["sha256"])


def test_lost_workers_and_lost_nodes_change_nothing(
    smoke_run: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each stage a worker is killed, then its node; the networks are those of a run without loss, bit for bit."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    data = ["--data", str(smoke_run / "shards")]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    process = start("train", "all", *data, "--run", str(rough), *SETTINGS, "--set", "cluster.max_failures=6")
    for stage in STAGES:
        await_checkpoint(rough / stage, EVERY, process)
        (worker,) = workers(cluster)
        os.kill(worker, signal.SIGKILL)
        await_checkpoint(rough / stage, 2 * EVERY, process)
        (worker,) = workers(cluster)
        node = node_of(cluster, worker)
        assert not (rough / stage / "model" / "manifest.json").exists(), "the fault came too late"
        cluster.remove_node(node, allow_graceful=False)
        add_node(cluster)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]

    monkeypatch.delenv("RAY_ADDRESS")
    result = command("train", "all", *data, "--run", str(calm), *SETTINGS)
    assert result.returncode == 0, result.stderr[-3000:]
    for stage in STAGES:
        lines = [read_metrics(Location(run / stage)) for run in (rough, calm)]
        assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
        assert digest(rough, stage) == digest(calm, stage), stage


def test_a_node_that_is_drained_leads_to_a_checkpoint(
    smoke_run: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What KubeRay, or an operator, tells Ray of a spot machine; no regular checkpoint comes in this training."""
    run = tmp_path / "run"
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    process = start(
        "train", "translation", "--data", str(smoke_run / "shards"), "--run", str(run), "--preset", "smoke",
        "--set", "cluster.threads=1", "--set", "translation.steps=2000", "--set", "translation.checkpoint_every=5000",
    )  # fmt: skip
    await_step(run / "translation", 20, process)
    (worker,) = workers(cluster)
    node = node_of(cluster, worker)
    drained = subprocess.run(
        [
            str(RAY), "drain-node", "--address", cluster.address, "--node-id", node.node_id, "--reason",
            "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "60",
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert drained.returncode == 0, drained.stderr
    deadline = time.monotonic() + 60
    while not (notices := read_notices(Location(run / "translation"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    assert notices[0].startswith("checkpoint of step ") and notices[0].endswith("about to be taken away")
    assert list((run / "translation" / "checkpoints").glob("step-*/manifest.json"))
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors[-3000:]
