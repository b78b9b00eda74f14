"""The store as Ray actors: the same answers, through kills, silence and reconnection."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from rgcluster.errors import CheckpointError, ConfigError, DataError, StoreUnavailable, TooFewNeighbours
from rgcluster.store import (
    LocalStore,
    Neighbours,
    RayStore,
    SnapshotWriter,
    list_stores,
    read_manifest,
    stop_store,
)
from rgcluster.store.actors.connections import ShardConnections
from rgcluster.store.actors.pool import ActorPool

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(120)]

COUNT, DIMENSION, IMAGE = 600, 16, (8, 8, 3)


def write(path: Path, num_shards: int) -> Path:
    generator = np.random.default_rng(0)
    with SnapshotWriter(path, num_shards, DIMENSION, IMAGE, {"retrieval": "f00d"}) as writer:
        writer.append(
            generator.choice(2**60, COUNT, replace=False),
            generator.normal(size=(COUNT, DIMENSION)),
            generator.integers(0, 256, (COUNT, *IMAGE), dtype=np.uint8),
        )
        writer.commit()
    return path


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("store") / "faces", 3)


@pytest.fixture(scope="module")
def local(snapshot: Path) -> Iterator[LocalStore]:
    with LocalStore(snapshot) as store:
        yield store


@pytest.fixture(scope="module")
def store(snapshot: Path, ray_session: None) -> Iterator[RayStore]:
    with RayStore.start(snapshot, "faces", timeout=30.0) as running:
        yield running


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(32, DIMENSION)).astype(np.float32)


def assert_equal(answer: Neighbours, expected: Neighbours) -> None:
    np.testing.assert_array_equal(answer.ids, expected.ids)
    np.testing.assert_array_equal(answer.distances, expected.distances)
    np.testing.assert_array_equal(answer.images, expected.images)


def test_equals_the_local_store(store: RayStore, local: LocalStore, queries: NDArray[np.float32]) -> None:
    ids = local.ids()
    np.testing.assert_array_equal(store.ids(), ids)
    assert store.count == COUNT and store.manifest == local.manifest and store.num_shards == 3
    own = local.vectors(ids[:32])
    assert_equal(store.neighbours(queries, 3), local.neighbours(queries, 3))
    assert_equal(store.neighbours(own, 5, ids[:32]), local.neighbours(own, 5, ids[:32]))
    pair = [each.random_async(ids[:9], 4, ids[:9], seed=3).result() for each in (store, local)]
    assert_equal(*pair)
    np.testing.assert_array_equal(store.fetch(ids[:6].reshape(2, 3)), local.fetch(ids[:6].reshape(2, 3)))
    np.testing.assert_array_equal(store.vectors(ids[:6]), local.vectors(ids[:6]))


def test_on_one_machine_reads_go_without_ray(
    store: RayStore, local: LocalStore, queries: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    through_ray, submit = list[Any](), ActorPool._submit
    monkeypatch.setattr(ActorPool, "_submit", lambda *given: through_ray.append(given) or submit(*given))
    expected = local.neighbours(queries, 3)
    with RayStore.connect("faces") as other:
        for connected in (store, other):
            connected.ping()  # all have loaded, so all listen
            through_ray.clear()
            assert_equal(connected.neighbours(queries, 3), expected)
            assert (through_ray == []) == (sys.platform == "linux")
    monkeypatch.setattr(ShardConnections, "_take", lambda self, shard: None)
    assert_equal(store.neighbours(queries, 3), expected)
    assert through_ray


def test_typed_errors_cross_the_process(store: RayStore, queries: NDArray[np.float32]) -> None:
    with pytest.raises(TooFewNeighbours, match=f"holds {COUNT} images"):
        store.search(queries, COUNT + 1)
    with pytest.raises(DataError) as caught:
        store.fetch([1])
    assert str(caught.value) == "the image 1 is not in the store: take ids from a search"


def test_the_caller_goes_on_while_the_store_works(store: RayStore, queries: NDArray[np.float32]) -> None:
    handles = [store.neighbours_async(queries, 3) for _ in range(8)]
    # Deaf shards would leave the caller waiting here, had the call not come back at once.
    rows = store.info()
    for row in rows:
        os.kill(row["pid"], signal.SIGSTOP)
    try:
        start = time.perf_counter()
        silent = store.neighbours_async(queries, 3)
        assert time.perf_counter() - start < 0.5 and not silent.done()
    finally:
        for row in rows:
            os.kill(row["pid"], signal.SIGCONT)
    for handle in [*handles, silent]:
        assert handle.result().images.shape == (32, 3, *IMAGE)


def test_killed_shards_lose_no_query(
    store: RayStore, local: LocalStore, queries: NDArray[np.float32]
) -> None:
    before = {row["shard"]: row for row in store.info()}
    batches = [np.roll(queries, turn, axis=0) + turn for turn in range(40)]
    answers: list[Neighbours | None] = [None] * len(batches)
    begun = threading.Event()

    def ask(first: int) -> None:
        for turn in range(first, len(batches), 2):
            answers[turn] = store.neighbours(batches[turn], 3)
            begun.set()
            time.sleep(0.02)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    os.kill(before[1]["pid"], signal.SIGKILL)
    time.sleep(0.2)
    os.kill(before[2]["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    for batch, answer in zip(batches, answers, strict=True):
        assert answer is not None
        assert_equal(answer, local.neighbours(batch, 3))
    after = {row["shard"]: row for row in store.info()}
    assert [after[shard]["restarts"] - before[shard]["restarts"] for shard in range(3)] == [0, 1, 1]
    assert after[1]["pid"] != before[1]["pid"] and after[1]["started"] > before[1]["started"]
    # Connections to the new processes, after the back-off.
    shards = {(1, 0), (2, 0)}
    deadline = time.monotonic() + 20
    while sys.platform == "linux" and not all(store._pool._connections._idle.get(shard) for shard in shards):
        assert time.monotonic() < deadline
        store.search(queries, 1)
        time.sleep(0.1)


def test_a_shard_killed_during_a_call_answers_after_its_restart(
    store: RayStore, local: LocalStore, queries: NDArray[np.float32]
) -> None:
    pid = store.info()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    handle = store.neighbours_async(queries, 3)
    time.sleep(0.3)
    assert not handle.done()
    os.kill(pid, signal.SIGKILL)
    assert_equal(handle.result(), local.neighbours(queries, 3))
    assert store.info()[0]["restarts"] == 1


def test_a_silent_shard_is_named_within_the_time_out(
    store: RayStore, local: LocalStore, queries: NDArray[np.float32]
) -> None:
    impatient = RayStore.connect("faces", timeout=1.0)
    pid = impatient.info()[1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.perf_counter()
        with pytest.raises(StoreUnavailable, match="shard 1 of store faces did not answer within 1 s"):
            impatient.search(queries, 3)
        assert time.perf_counter() - start < 2.0
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_equal(store.neighbours(queries, 3), local.neighbours(queries, 3))
    impatient.close()
    assert list_stores() == {"faces": 3}


def test_another_process_connects_by_name(
    store: RayStore, local: LocalStore, queries: NDArray[np.float32]
) -> None:
    class Trainer:
        def by_name(self, batch: NDArray[np.float32]) -> Neighbours:
            with RayStore.connect("faces") as connected:
                return connected.neighbours(batch, 3)

        def sent(self, connected: RayStore, batch: NDArray[np.float32]) -> Neighbours:
            with connected:
                return connected.neighbours(batch, 3)

    trainer: Any = ray.remote(num_cpus=0.1)(Trainer).remote()
    expected = local.neighbours(queries, 3)
    assert_equal(ray.get(trainer.by_name.remote(queries)), expected)
    assert_equal(ray.get(trainer.sent.remote(store, queries)), expected)
    ray.kill(trainer)
    copy = pickle.loads(pickle.dumps(store))
    assert (copy.name, copy.timeout, copy.num_shards) == (store.name, store.timeout, 3)
    copy.close()
    assert store.search(queries, 1)[1].shape == (32, 1)


def test_a_detached_store_over_another_number_of_actors(
    snapshot: Path, local: LocalStore, queries: NDArray[np.float32]
) -> None:
    with RayStore.start(snapshot, "five", num_actors=5, detached=True) as store:
        assert store.num_shards == 5
        assert_equal(store.neighbours(queries, 3), local.neighbours(queries, 3))
        with pytest.raises(ConfigError, match="rgcluster store stop five"):
            RayStore.start(snapshot, "five")
    assert list_stores()["five"] == 5
    assert stop_store("five") == 5
    assert "five" not in list_stores()
    with pytest.raises(StoreUnavailable, match="no shard 0 of a store five"):
        RayStore.connect("five")


def test_stop_frees_the_name_and_the_client_is_told(snapshot: Path, queries: NDArray[np.float32]) -> None:
    store = RayStore.start(snapshot, "brief", num_actors=1)
    assert stop_store("brief") == 1 and stop_store("brief") == 0
    with pytest.raises(StoreUnavailable, match="shard 0 of store brief has ended"):
        store.search(queries, 1)
    with RayStore.start(snapshot, "brief", num_actors=1) as again:
        assert again.search(queries, 1)[0].shape == (32, 1)
    assert "brief" not in list_stores()


def test_changes_reach_every_replica_and_outlive_the_store(
    tmp_path: Path, queries: NDArray[np.float32]
) -> None:
    path = write(tmp_path / "live", 2)
    new = np.arange(40, dtype=np.int64)
    far = queries[:1] + 50 + np.arange(40, dtype=np.float32)[:, None]
    images = np.random.default_rng(5).integers(0, 256, (40, *IMAGE), dtype=np.uint8)
    with RayStore.start(path, "live", replicas=2, timeout=30.0) as store:
        assert store.replicas == 2 and len(store.everyone()) == 4
        assert store.add(new, far, images) == 0
        for _ in range(4):  # each replica in turn
            answer = store.neighbours(far, 1)
            np.testing.assert_array_equal(answer.ids[:, 0], new)
            np.testing.assert_array_equal(answer.images[:, 0], images)
        assert store.remove(new[:10]) == 10 and store.count == COUNT + 30
        # Killed, one replica of a shard costs no time: the other answers.
        rows = store.everyone()
        os.kill(next(row["pid"] for row in rows if row["shard"] == 0 and row["replica"] == 0), signal.SIGKILL)
        for _ in range(4):
            np.testing.assert_array_equal(store.search(far[10:], 1)[1][:, 0], new[10:])
        assert store.add(new[:10], far[:10], images[:10]) == 0  # waits for the one that keeps the journal
        # The other replica, killed: what goes to every actor waits for it.
        os.kill(next(row["pid"] for row in rows if row["shard"] == 1 and row["replica"] == 1), signal.SIGKILL)
        assert {row["replica"] for row in store.everyone()} == {0, 1}
        manifest = store.compact()
        assert (manifest.generation, manifest.count) == (1, COUNT + 40)
        assert {row["generation"] for row in store.everyone()} == {1}
        np.testing.assert_array_equal(store.search(far, 1)[1][:, 0], new)
        store.remove(new[:1])
    with RayStore.start(path, "live", num_actors=3) as again:
        assert again.count == COUNT + 39
        np.testing.assert_array_equal(again.fetch(new[1:]), images[1:])


def test_a_silent_replica_is_passed_over(tmp_path: Path, queries: NDArray[np.float32]) -> None:
    path = write(tmp_path / "deaf", 1)
    with RayStore.start(path, "deaf", replicas=2, timeout=8.0) as store:
        expected = store.search(queries, 3)[1]
        pid = store.everyone()[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                np.testing.assert_array_equal(store.search(queries, 3)[1], expected)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_running_store_is_shared_and_takes_up_a_new_snapshot(
    tmp_path: Path, queries: NDArray[np.float32]
) -> None:
    path = write(tmp_path / "shared", 2)
    with RayStore.start(path, "shared") as store:
        with RayStore.share(path, "shared") as other:
            assert other.info()[0]["pid"] == store.info()[0]["pid"]
        with SnapshotWriter(path, 2, DIMENSION, IMAGE, {"retrieval": "f00d"}, replace=True) as writer:
            writer.append(np.arange(32), queries, np.zeros((32, *IMAGE), np.uint8))
            writer.commit()
        with RayStore.share(path, "shared") as other:
            np.testing.assert_array_equal(other.search(queries, 1)[1][:, 0], np.arange(32))
        np.testing.assert_array_equal(store.search(queries, 1)[1][:, 0], np.arange(32))
    assert "shared" not in list_stores()


def test_a_cluster_without_room_says_so(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rgcluster.store.store._PLACE_SECONDS", 1.0)
    with pytest.raises(StoreUnavailable, match="no room for the store wide: 400 shards"):
        RayStore.start(snapshot, "wide", num_actors=200, replicas=2)
    assert "wide" not in list_stores()


def test_a_corrupt_snapshot_does_not_start(tmp_path: Path) -> None:
    path = write(tmp_path / "broken", 2)
    file = path / read_manifest(path).shards[1].directory / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="shard-00001-.*/vectors.npy: differs from its checksum"):
        RayStore.start(path, "broken", num_actors=1)
    assert "broken" not in list_stores()
