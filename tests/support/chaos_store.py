"""Run by test_store_chaos.py: a simulated cluster of three nodes, and what goes wrong on it.

`python chaos_store.py FOLDER REPLICAS` prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TMPDIR": tempfile.mkdtemp(prefix="rg", dir="/tmp"),
}

import numpy as np  # noqa: E402
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from stores import brute_force, images_of, sample, write  # noqa: E402

from rgcluster.errors import RGClusterError  # noqa: E402
from rgcluster.store import LocalStore, RayStore  # noqa: E402

KILLS = 6
LIMIT = 110.0
"""Seconds; a slow machine gets to fewer kills."""
CLIENTS = 8
TIMEOUT = 60.0
ADDED = 10**12
"""The first id that is added; those of the snapshot are random and larger."""


class Told:
    """What happened, from all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wrong: list[str] = []
        self.answers: list[float] = []
        self.added: list[tuple[float, int]] = []
        self.kills: list[float] = []


def main(folder: Path, replicas: int) -> dict[str, object]:
    ids, vectors = sample(3000, 16)
    ids += 2 * ADDED
    place = write(folder / "s", ids, vectors, 4)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 128 << 20},
    )
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=128 << 20) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False)
    told, stop = Told(), threading.Event()
    store = RayStore.start(place, "chaos", replicas=replicas, timeout=TIMEOUT)
    assert len({row["node"] for row in store.everyone()}) == 3, "not spread over the nodes"
    threads = [threading.Thread(target=ask, args=(seed, ids, vectors, told, stop)) for seed in range(CLIENTS)]
    threads.append(threading.Thread(target=add, args=(vectors.shape[1], told, stop)))
    for thread in threads:
        thread.start()
    compactions = torment(cluster, nodes, store, told)
    come_round(told)
    restarts = sum(row["restarts"] for row in store.everyone())
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT + 20)
    hung = [thread.name for thread in threads if thread.is_alive()]
    store.close()
    ray.shutdown()
    cluster.shutdown()
    return {
        "wrong": told.wrong[:5],
        "lost": lost(place, told),
        "hung": hung,
        "kills": len(told.kills),
        "restarts": restarts,
        "nodes_removed": 1,
        "compactions": compactions,
        "answers": len(told.answers),
        "additions": len(told.added),
        "answers_after_last_kill": sum(at > told.kills[-1] for at in told.answers),
        "additions_after_last_kill": sum(at > told.kills[-1] for at, _ in told.added),
    }


def torment(cluster: Cluster, nodes: list[object], store: RayStore, told: Told) -> int:
    """Kill a shard every few seconds, take a node away half-way, compact in between."""
    chooser, compactions = random.Random(0), 0
    begun = time.monotonic()
    removed = False
    while len(told.kills) < KILLS and time.monotonic() - begun < LIMIT:
        time.sleep(1.5)
        if not removed and len(told.kills) == KILLS // 2:
            cluster.remove_node(nodes[-1], allow_graceful=False)
            removed = True
            continue
        try:
            row = chooser.choice(store.everyone())
            os.kill(row["pid"], signal.SIGKILL)
            told.kills.append(time.monotonic())
            if len(told.kills) in (1, 4):
                store.compact()
                compactions += 1
        except (RGClusterError, ProcessLookupError) as error:
            print(f"torment: {error}", file=sys.stderr)
    return compactions


def come_round(told: Told) -> None:
    """Wait until a search and an addition are answered after the last kill, as long as a client may wait."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if told.answers and told.added and min(told.answers[-1], told.added[-1][0]) > told.kills[-1]:
            return
        time.sleep(0.1)


def ask(seed: int, ids: np.ndarray, vectors: np.ndarray, told: Told, stop: threading.Event) -> None:
    """Search around rows of the snapshot; what is added lies far from them, so the answer is known."""
    generator = np.random.default_rng(seed)
    with RayStore.connect("chaos", timeout=TIMEOUT) as store:
        while not stop.is_set():
            rows = generator.choice(len(ids), 8, replace=False)
            _, expected = brute_force(ids, vectors, vectors[rows], 3, ids[rows])
            try:
                near = store.neighbours(vectors[rows], 3, ids[rows])
            except RGClusterError as error:  # a typed error in time would be right, but 60 s are enough here
                told.wrong.append(f"query: {error}")
                continue
            if not np.array_equal(near.ids, expected):
                told.wrong.append(f"ids {near.ids.tolist()} for {expected.tolist()}")
            if not np.array_equal(near.images, images_of(expected.ravel()).reshape(near.images.shape)):
                told.wrong.append("another image")
            told.answers.append(time.monotonic())
            time.sleep(0.01)  # the shards must come round on the same cores


def add(dimension: int, told: Told, stop: threading.Event) -> None:
    """Add rows far from all others; each must be found as soon as it is acknowledged."""
    with RayStore.connect("chaos", timeout=TIMEOUT) as store:
        number = 0
        while not stop.is_set():
            new = np.arange(5) + ADDED + number
            try:
                store.add(new, places(new, dimension), images_of(new))
                _, found = store.search(places(new, dimension), 1)
            except RGClusterError as error:
                told.wrong.append(f"addition: {error}")
                continue
            if not np.array_equal(found[:, 0], new):
                told.wrong.append(f"added {new.tolist()}, found {found[:, 0].tolist()}")
            told.added += [(time.monotonic(), row) for row in new.tolist()]
            number += 5


def places(ids: np.ndarray, dimension: int) -> np.ndarray:
    """A vector of its own for each added id, far from the snapshot's."""
    return np.stack([np.random.default_rng(row).normal(size=dimension) + 100 for row in ids.tolist()]).astype(
        np.float32
    )


def lost(place: Path, told: Told) -> list[int]:
    """Return acknowledged rows that a restart from storage, onto other shards, does not hold whole."""
    with LocalStore(place, num_shards=3) as store:
        held = set(store.ids().tolist())
        rows = np.array([row for _, row in told.added], np.int64)
        missing = [row for row in rows.tolist() if row not in held]
        if not missing and not np.array_equal(store.fetch(rows), images_of(rows)):
            missing = [-1]
    return missing[:5]


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
