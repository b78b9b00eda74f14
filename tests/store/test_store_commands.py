"""`rgcluster store` on a cluster that an operator started: a store that outlives every command, and its metrics."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import RayCluster
from places import SUPPORT
from stores import sample, write

pytestmark = pytest.mark.long

COUNT = 300

ADD = """
import numpy as np
from stores import images_of
from rgcluster.base.session import cluster_session
from rgcluster.store import RayStore
with cluster_session(), RayStore.connect("faces") as store:
    ids = np.arange(20) + 10**12
    store.add(ids, np.ones((20, 8), np.float32), images_of(ids))
    store.remove(ids[:5])
    store.search(np.ones((4, 8), np.float32), 3)
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    cluster = RayCluster()
    try:
        cluster.start_head(2)
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            monkeypatch.delenv(name)
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{cluster.port}")
        yield cluster
    finally:
        cluster.close()


def store(*words: str, status: int = 0) -> str:
    line = [sys.executable, "-c", "from rgcluster.cli import main; main()", "store", *words]
    result = subprocess.run(
        line, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"}
    )
    assert result.returncode == status, result.stderr[-3000:]
    return result.stdout if status == 0 else result.stderr


def test_a_store_lives_from_command_to_command(cluster: RayCluster, tmp_path: Path) -> None:
    place = str(write(tmp_path / "snapshot", *sample(COUNT, 8), 2))
    assert "300 images, recall measured 1.0000" in store(
        "start", "--at", place, "--name", "faces", "--replicas", "2"
    )
    assert "take its name" in store("start", "--at", place, "--name", "faces", status=2)
    assert "faces" in store("list")

    environment = {**os.environ, "PYTHONPATH": f"{SUPPORT}:{os.environ['PYTHONPATH']}"}
    changed = subprocess.run(
        [sys.executable, "-c", ADD], env=environment, capture_output=True, text=True, timeout=120
    )
    assert changed.returncode == 0, changed.stderr[-3000:]
    shown = store("info", "faces")
    assert "0 replica 1" in shown and "1 replica 1" in shown and "generation 0" in shown
    assert "generation 1, 315 images" in store("compact", "faces")

    wanted = ('rgcluster_store_queries_total{', 'rgcluster_store_vectors{', 'rgcluster_store_search_seconds_bucket{',
              'rgcluster_store_restarts{', 'rgcluster_store_memory_bytes{')  # fmt: skip
    deadline = time.monotonic() + 60
    while not all(f"ray_{name}" in (text := scrape(cluster)) for name in wanted):
        assert time.monotonic() < deadline, [name for name in wanted if f"ray_{name}" not in text]
        time.sleep(1)
    assert 'store="faces"' in text

    assert "faces: stopped" in store("stop", "faces")
    assert "no store faces is running; running: none" in store("info", "faces", status=1) + store(
        "stop", "faces", status=1
    )
    assert "315 images" in store("info", "--at", place)


def scrape(cluster: RayCluster) -> str:
    """What the nodes export to Prometheus."""
    (port,) = [
        word.partition("=")[2]
        for word in cluster.nodes[0].process.args  # type: ignore[union-attr]
        if str(word).startswith("--metrics-export-port=")
    ]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
