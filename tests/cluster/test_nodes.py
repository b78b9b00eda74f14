"""What is told of a cluster's nodes before work starts: one without credentials or weights, a head without CPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import command
from nodes import free_port
from s3 import FaultyProxy, place, s3_server

pytestmark = pytest.mark.long

LOOK = """
import sys, time
from rgcluster.base.session import ray_session
from rgcluster.base.storage import Location
from rgcluster.base.weights import find
from rgcluster.errors import RGClusterError
from rgcluster.train.preflight import check_nodes
with ray_session():
    start = time.monotonic()
    try:
        check_nodes(Location(sys.argv[1]), [found for name in sys.argv[2:] if (found := find(name))])
        print(f"{time.monotonic() - start:.1f} 0 ")
    except RGClusterError as error:
        print(f"{time.monotonic() - start:.1f} {error.exit_status} {error}")
"""


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs; nodes that are added get the environment of that moment."""
    from ray.cluster_utils import Cluster

    directory = tempfile.mkdtemp(prefix="rgn", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", directory)
    (Path(directory) / "ray").mkdir()
    options = {
        "num_cpus": 0,
        "include_dashboard": False,
        "dashboard_port": free_port(),
        "object_store_memory": 128 << 20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=options)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def add_node(cluster: Any) -> str:
    """Add a node and return the first letters of its id."""
    return str(cluster.add_node(num_cpus=1, object_store_memory=128 << 20).node_id)[:8]


def look(run: str, *weights: str) -> tuple[float, int, str]:
    """Look from a driver on the head; return the seconds, the status and the message, '' where all is well."""
    result = subprocess.run(
        [sys.executable, "-c", LOOK, run, *weights], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-3000:]
    seconds, status, message = result.stdout.splitlines()[-1].split(" ", 2)
    return float(seconds), int(status), message


def test_the_node_that_the_storage_refuses_is_named(head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server("runs") as address:
        proxy = FaultyProxy(address, key="testing")
        run = place(proxy.address, "runs/team/a")
        for _ in range(2):
            add_node(head)
        usual, status, message = look(run)
        assert (status, message) == (0, "")
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "another")
            refused = add_node(head)
        seconds, status, message = look(run)
        assert seconds < max(10, 2 * usual) and status == 1  # a busy machine starts a node's process late
        assert re.search(rf"node \S+ \({refused}\) cannot read a file .*access denied", message), message
        assert message.count("node ") == 1 and "every machine the credentials for it" in message
        result = command("demo", "--preset", "smoke", "--run", run, timeout=120)
        assert result.returncode == 1 and refused in result.stderr.splitlines()[-1], result.stderr
        proxy.close()


def test_weights_that_only_the_driver_has_are_refused(
    head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shared = tmp_path / "driver", tmp_path / "hub"
    for folder in (own, shared):
        (folder / "checkpoints").mkdir(parents=True)
    file = "vgg16-397923af.pth"
    (own / "checkpoints" / file).write_bytes(b"weights")
    monkeypatch.setenv("TORCH_HOME", str(shared))
    node = add_node(head)
    monkeypatch.setenv("TORCH_HOME", str(own))
    for folder in (own, shared):  # torch looks into hub/ below its home
        (folder / "hub").symlink_to(folder)
    _, status, message = look(str(tmp_path / "run"), "vgg16")
    assert status == 2 and f"({node}) does not find vgg16; this machine uses" in message, message
    (shared / "checkpoints" / file).write_bytes(b"others")
    assert f"({node}) has another vgg16" in look(str(tmp_path / "run"), "vgg16")[2]


TIMED = """
import sys, time
import rgcluster.cli.commands, rgcluster.serve.deploy.launch
from rgcluster.cli import main
start = time.monotonic()
try:
    main()
finally:
    print(f"{time.monotonic() - start:.1f}")
"""


def timed(*arguments: str) -> tuple[float, int, str]:
    """Run a command; return its seconds without its imports, its status, and what it wrote to stderr."""
    result = subprocess.run(
        [sys.executable, "-c", TIMED, *arguments], capture_output=True, text=True, timeout=200
    )
    return float(result.stdout.splitlines()[-1]), result.returncode, result.stderr


def test_a_cluster_without_cpus_is_refused_by_what_starts_tasks_within_ten_seconds(
    head: Any, tmp_path: Path, noise_run: Path
) -> None:
    faces, shards = tmp_path / "faces", tmp_path / "shards"
    assert command("data", "faces", str(faces), "--count", "8").returncode == 0
    usual, status, errors = timed("store", "list")  # what needs no CPU is answered
    assert status == 0, errors
    for arguments in (
        ["data", "shard", str(faces), str(shards)],
        ["data", "check", str(faces)],
        ["demo", "--preset", "smoke", "--run", str(tmp_path / "run")],
        ["serve", "--run", str(noise_run), "--port", str(free_port())],
    ):
        seconds, status, errors = timed(*arguments)
        assert status == 2 and "do not fit on a cluster without CPUs" in errors.splitlines()[-1], errors
        assert seconds < max(10, 2 * usual)  # a busy machine takes its time to connect
    assert sorted(os.listdir(tmp_path)) == ["faces"]
