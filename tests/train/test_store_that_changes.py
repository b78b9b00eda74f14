"""Stage 3 and eight clients, while the rows that they are about to be given are removed and added again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from processes import copy_without, start

from rgcluster.base.rundir import store_name
from rgcluster.base.storage import Location
from rgcluster.store import LocalStore, RayStore
from rgcluster.train.records.metrics import read_metrics

CLIENTS, SECONDS = 8, 60.0


@pytest.mark.long
def test_stage_3_finishes_while_its_neighbours_come_and_go(
    smoke_run: Path, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_without(smoke_run, tmp_path / "run", "guidance", "evaluation", "report")
    with LocalStore(run / "store" / "snapshot") as before:
        ids = before.ids()
        vectors, images = before.vectors(ids), before.fetch(ids)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    name, errors, done = store_name(Location(run)), list[BaseException](), threading.Event()
    answers = [0] * CLIENTS

    def ask(number: int) -> None:
        rows = np.random.default_rng(number).permutation(len(ids))[:8]
        try:
            with RayStore.connect(name) as store:
                while not done.is_set():
                    near = store.neighbours(vectors[rows], 5, ids[rows])
                    place = np.searchsorted(ids, near.ids)
                    np.testing.assert_array_equal(ids[place], near.ids)
                    np.testing.assert_array_equal(images[place], near.images)
                    answers[number] += 1
                    time.sleep(0.02)
        except BaseException as error:
            errors.append(error)

    end = time.monotonic() + SECONDS
    with RayStore.start(run / "store" / "snapshot", name) as store:
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        training = start(
            "train", "guidance", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run),
            "--set", "guidance.steps=100",
        )  # fmt: skip
        changes = 0
        while training.poll() is None or time.monotonic() < end:
            half = np.sort(np.random.default_rng(changes).permutation(len(ids))[: len(ids) // 2])
            store.remove(ids[half])
            store.add(ids[half], vectors[half], images[half])
            changes += 1
        done.set()
        for client in clients:
            client.join(60)
        np.testing.assert_array_equal(store.ids(), ids)
    _, told = training.communicate()
    assert training.returncode == 0, told[-3000:]
    assert not errors and min(answers) > 0 and changes > 10
    assert read_metrics(Location(run / "guidance"))[-1]["step"] == 100
