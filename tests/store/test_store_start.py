"""Starting and stopping: of several drivers that start one store, one does; control calls pass blocked writers."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import list_named_actors, placement_group_table
from stores import images_of, sample, write

from rgcluster.errors import ConfigError
from rgcluster.store import NAMESPACE, RayStore, client, list_stores, stop_store
from rgcluster.store.actors import actor
from rgcluster.store.actors.actor import ShardProcess
from rgcluster.store.shard.requests import ShardRequest

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]

STARTERS = 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write(tmp_path / "s", *sample(60), 2)


def left_over(name: str) -> list[str]:
    """Actors and placement groups of the store."""
    groups = [row["name"] for row in placement_group_table().values() if row["state"] != "REMOVED"]
    actors = [
        actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE
    ]
    return [each for each in groups + actors if name in each]


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.long)])
def test_of_several_starters_one_starts_the_store(place: Path, rounds: int) -> None:
    class Starter:
        def share(self, place: Path, at: float) -> tuple[list[int], float]:
            time.sleep(max(0.0, at - time.time()))
            start = time.monotonic()
            with RayStore.share(place, "raced", detached=True) as store:
                return [row["pid"] for row in store.info()], time.monotonic() - start

    starters: list[Any] = [ray.remote(num_cpus=0.1)(Starter).remote() for _ in range(STARTERS)]
    for _ in range(rounds):
        at = time.time() + 0.3
        answers = ray.get([starter.share.remote(place, at) for starter in starters], timeout=60)
        assert len({tuple(pids) for pids, _ in answers}) == 1
        assert max(seconds for _, seconds in answers) < 30
        assert len([name for name in left_over("raced") if ":" in name]) == 1
        assert stop_store("raced") == 2
        deadline = time.monotonic() + 10
        while left_over("raced"):
            assert time.monotonic() < deadline, left_over("raced")
            time.sleep(0.05)
    for starter in starters:
        ray.kill(starter)


def test_one_of_two_that_start_is_refused_and_takes_nothing_from_the_other(place: Path) -> None:
    outcomes: list[Any] = []

    def start() -> None:
        try:
            outcomes.append(RayStore.start(place, "twice"))
        except ConfigError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (store,) = [outcome for outcome in outcomes if isinstance(outcome, RayStore)]
    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert refused.startswith("a store twice is running: stop it with `rgcluster store stop twice`")
    with store:
        assert store.count == 60 and len(left_over("twice")) == 3
    assert "twice" not in list_stores()


def test_control_calls_do_not_wait_for_writers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(ShardProcess):
        def call(self, request: ShardRequest) -> Any:
            if request.method == "write":
                time.sleep(6)
            return super().call(request)

    monkeypatch.setattr(client, "MAX_IN_FLIGHT", 40)
    monkeypatch.setattr("rgcluster.store.store.ShardActor", ray.remote(**actor._ACTOR)(Slow))
    ids, vectors = sample(24, seed=3)
    with RayStore.start(place, "busy", num_actors=1) as store:
        threads = [
            threading.Thread(
                target=store.add, args=(ids[n : n + 1], vectors[n : n + 1], images_of(ids[n : n + 1]))
            )
            for n in range(len(ids))
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)
        start = time.monotonic()
        assert store.count == 60 and time.monotonic() - start < 3
        for thread in threads:
            thread.join(60)
        assert store.count == 84
