"""The store without Ray: index, snapshot, writer, and the client in one process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stores import DIGESTS, IMAGE, brute_force, images_of, sample, write

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, DataError, StoreMismatch, StoreUnavailable, TooFewNeighbours
from rgcluster.store import (
    ExactIndex,
    LocalStore,
    SnapshotWriter,
    client,
    copy_snapshot,
    read_manifest,
    verify,
)
from rgcluster.store.disk.snapshot import Manifest, shard_of
from rgcluster.store.index.exact import as_ids
from rgcluster.store.shard.shard import Shard


def file_of(path: Path, number: int, name: str) -> Path:
    """A file of one shard; directories bear a token."""
    return path / read_manifest(path).shards[number].directory / name


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.int64], NDArray[np.float32]]:
    ids, vectors = sample(200)
    return write(tmp_path_factory.mktemp("store") / "faces", ids, vectors), ids, vectors


# --- the index -------------------------------------------------------------


@given(
    data=st.data(),
    count=st.integers(1, 120),
    dimension=st.integers(1, 5),
    values=st.integers(1, 3),
    batch=st.integers(1, 30),
)
@settings(max_examples=150, deadline=None)
def test_index_equals_brute_force_with_ties(
    data: st.DataObject, count: int, dimension: int, values: int, batch: int
) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = generator.permutation(3 * count)[:count].astype(np.int64)
    vectors = generator.integers(0, values + 1, (count, dimension)).astype(np.float32)
    queries = generator.integers(0, values + 1, (batch, dimension)).astype(np.float32)
    k = data.draw(st.integers(1, count))
    index = ExactIndex(dimension)
    index.add(ids[: count // 2], vectors[: count // 2])
    index.add(ids[count // 2 :], vectors[count // 2 :])
    expected, winners = brute_force(ids, vectors, queries, k)
    distances, found = index.search(queries, k)
    np.testing.assert_array_equal(found, winners)
    np.testing.assert_allclose(distances, expected, rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("batch", [1, 19, 20, 64])
def test_index_is_exact_where_float32_cancels(offset: float, batch: int) -> None:
    ids, vectors = sample(3000, 100)
    vectors = (vectors * 0.01 + offset).astype(np.float32)
    index = ExactIndex(100)
    index.add(ids, vectors)
    expected, winners = brute_force(ids, vectors, vectors[:batch], 5, ids[:batch])
    distances, found = index.search(vectors[:batch], 5, ids[:batch])
    np.testing.assert_array_equal(found, winners)
    np.testing.assert_allclose(distances, expected, atol=1e-6)


def test_more_ties_than_faiss_was_asked_for() -> None:
    index = ExactIndex(2)
    index.add(np.arange(500)[::-1], np.ones((500, 2), np.float32))
    distances, found = index.search(np.zeros((3, 2), np.float32), 4, np.array([0, 2, -1]))
    np.testing.assert_array_equal(found, [[1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3]])
    np.testing.assert_allclose(distances, np.sqrt(2), rtol=1e-6)


def test_tiny_distances_are_told_apart() -> None:
    vectors = np.array([[3e-30], [2e-30], [1e-30]], np.float32)
    index = ExactIndex(1)
    index.add(np.arange(3), vectors)
    np.testing.assert_array_equal(index.search(np.zeros((1, 1), np.float32), 3)[1], [[2, 1, 0]])


def test_too_few_neighbours_says_so_in_one_line() -> None:
    index = ExactIndex(2)
    index.add(np.arange(5), np.zeros((5, 2), np.float32))
    with pytest.raises(TooFewNeighbours) as caught:
        index.search(np.zeros((1, 2), np.float32), 10, np.array([3]))
    assert str(caught.value) == (
        "asked for 10 neighbours but the store holds 4 images besides the query's own: "
        "ask for fewer or add images"
    )
    with pytest.raises(TooFewNeighbours):
        ExactIndex(2).search(np.zeros((1, 2), np.float32), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_queries_must_be_finite(bad: float) -> None:
    index = ExactIndex(2)
    index.add(np.arange(5), np.zeros((5, 2), np.float32))
    with pytest.raises(DataError, match="row 1"):
        index.search(np.array([[0, 0], [0, bad]], np.float32), 1)


def test_index_refuses_what_does_not_fit() -> None:
    index = ExactIndex(2)
    index.add(np.array([7]), np.zeros((1, 2), np.float32))
    for ids, vectors, message in [
        ([7], np.zeros((1, 2)), "id 7 is given twice"),
        ([-1], np.zeros((1, 2)), "no image"),
        ([8], np.zeros((1, 3)), r"needs \[N, 2\]"),
        ([8, 9], np.zeros((1, 2)), "2 ids for 1 vectors"),
    ]:
        with pytest.raises(DataError, match=message):
            index.add(ids, vectors)
    with pytest.raises(DataError, match=r"needs \[N, 2\]"):
        index.search(np.zeros((1, 3), np.float32), 1)
    assert len(index) == 1


# --- the client in one process -----------------------------------------------


@given(
    data=st.data(),
    count=st.integers(2, 60),
    parts=st.integers(1, 5),
    on_disk=st.integers(1, 3),
    ties=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_number_of_shards_equals_brute_force(
    data: st.DataObject, count: int, parts: int, on_disk: int, ties: bool
) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = generator.choice(2**40, count, replace=False).astype(np.int64) - 2**39
    shape = (count, 4)
    vectors = (generator.integers(0, 2, shape) if ties else generator.normal(size=shape)).astype(np.float32)
    exclude = np.where(generator.random(count) < 0.7, ids, -1)
    k = data.draw(st.integers(1, count - 1))
    with tempfile.TemporaryDirectory() as directory:
        write(Path(directory) / "s", ids, vectors, on_disk)
        with LocalStore(Path(directory) / "s", num_shards=parts) as store:
            expected, winners = brute_force(ids, vectors, vectors, k, exclude)
            answer = store.neighbours(vectors, k, exclude)
            np.testing.assert_array_equal(answer.ids, winners)
            np.testing.assert_allclose(answer.distances, expected, rtol=1e-6)
            np.testing.assert_array_equal(answer.images, images_of(winners.ravel()).reshape(count, k, *IMAGE))
            np.testing.assert_array_equal(store.vectors(ids), vectors)
            np.testing.assert_array_equal(store.ids(), np.sort(ids))


def test_the_answer_does_not_depend_on_the_batch(faces: tuple[Path, NDArray, NDArray]) -> None:
    path, ids, vectors = faces
    with LocalStore(path) as store:
        distances, found = store.search(vectors[:50], 3)
        for row in range(50):
            alone = store.search(vectors[row : row + 1], 3)
            np.testing.assert_array_equal(alone[1][0], found[row])
            np.testing.assert_array_equal(alone[0][0], distances[row])


def test_fetch_takes_any_shape(faces: tuple[Path, NDArray, NDArray]) -> None:
    path, ids, _ = faces
    with LocalStore(path) as store:
        assert store.fetch(ids[0]).shape == IMAGE
        np.testing.assert_array_equal(
            store.fetch(ids[:12].reshape(2, 3, 2))[1, 2, 1], images_of(ids[11:12])[0]
        )
        assert store.fetch(np.empty((0, 3), np.int64)).shape == (0, 3, *IMAGE)
        with pytest.raises(DataError, match="image 5 is not in the store"):
            store.fetch([5])


@given(seed=st.integers(0, 2**40), k=st.integers(1, 20), parts=st.integers(1, 5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_neighbours(faces: tuple[Path, NDArray, NDArray], seed: int, k: int, parts: int) -> None:
    path, ids, _ = faces
    batch = ids[:16]
    with LocalStore(path) as one, LocalStore(path, num_shards=parts) as other:
        drawn = one.random_async(batch, k, batch, seed=seed).result()
        turned = other.random_async(batch[::-1], k, batch[::-1], seed=seed).result()
    np.testing.assert_array_equal(drawn.ids, turned.ids[::-1])
    np.testing.assert_array_equal(drawn.images, images_of(drawn.ids.ravel()).reshape(16, k, *IMAGE))
    assert np.isnan(drawn.distances).all() and drawn.distances.shape == (16, k)
    assert np.isin(drawn.ids, ids).all() and not (drawn.ids == batch[:, None]).any()
    assert all(len(set(row)) == k for row in drawn.ids)


def test_random_neighbours_are_uniform_and_differ_by_seed(tmp_path: Path) -> None:
    ids = np.arange(10)
    with LocalStore(write(tmp_path / "s", ids, np.zeros((10, 2), np.float32))) as store:
        keys = np.arange(3000)
        drawn = store.random_async(keys, 3, np.zeros(3000, np.int64), seed=1).result().ids
        counts = np.bincount(drawn.ravel(), minlength=10)
        assert counts[0] == 0 and abs(counts[1:] - 1000).max() < 150
        assert (store.random_async(keys, 3, seed=2).result().ids != drawn).any()
        assert sorted(store.random_async([4], 9, [0], seed=0).result().ids[0]) == list(range(1, 10))
        with pytest.raises(TooFewNeighbours, match="holds 9 images besides"):
            store.random_async([4], 10, [0], seed=0).result()


def test_too_few_neighbours_is_decided_over_all_shards(faces: tuple[Path, NDArray, NDArray]) -> None:
    path, ids, vectors = faces
    with LocalStore(path, num_shards=5) as store:
        assert store.search(vectors[:2], 200)[1].shape == (2, 200)
        assert store.search(vectors[:2], 199, ids[:2])[1].shape == (2, 199)
        with pytest.raises(TooFewNeighbours, match="holds 199 images besides the query's own"):
            store.search(vectors[:2], 200, ids[:2])
        with pytest.raises(TooFewNeighbours, match="holds 200 images: "):
            store.search(vectors[:2], 201)
        with pytest.raises(DataError, match="1 or more"):
            store.search(vectors[:2], 0)


def test_a_wrong_query_is_refused_at_once(faces: tuple[Path, NDArray, NDArray]) -> None:
    path, _, vectors = faces
    with LocalStore(path) as store:
        with pytest.raises(DataError, match="NaN"):
            store.neighbours_async(np.full((1, 8), np.nan), 1)
        with pytest.raises(DataError, match=r"needs \[N, 8\]"):
            store.neighbours_async(np.zeros((1, 9)), 1)
        with pytest.raises(DataError, match="exclude for 2 rows"):
            store.neighbours_async(vectors[:2], 1, [5])


def test_the_caller_may_write_over_its_batch(faces: tuple[Path, NDArray, NDArray]) -> None:
    path, ids, vectors = faces
    batch = vectors[:4].copy()
    with LocalStore(path) as store:
        handle = store.search_async(batch, 1)
        batch[:] = 0
        np.testing.assert_array_equal(handle.result()[1][:, 0], ids[:4])
        assert handle.done()


def test_requests_in_flight_are_bounded(
    faces: tuple[Path, NDArray, NDArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, vectors = faces
    monkeypatch.setattr(client, "MAX_IN_FLIGHT", 1)
    store = LocalStore(path, timeout=0.2)
    with store._slots:
        with pytest.raises(StoreUnavailable, match="1 requests in flight"):
            store.search(vectors[:1], 1)
    for _ in range(3):
        store.search(vectors[:1], 1)


def test_mismatched_networks_are_named(faces: tuple[Path, NDArray, NDArray]) -> None:
    with LocalStore(faces[0]) as store:
        store.check(DIGESTS)
        with pytest.raises(StoreMismatch) as caught:
            store.check({**DIGESTS, "retrieval": "beef"})
        assert "retrieval" in str(caught.value) and "rebuild with `rgcluster store build`" in str(
            caught.value
        )
        with pytest.raises(StoreMismatch, match="unknown"):
            store.check({"generator": "beef"})


# --- the snapshot --------------------------------------------------------------


def test_round_trip_and_restore_on_other_numbers_of_shards(
    faces: tuple[Path, NDArray, NDArray], tmp_path: Path
) -> None:
    path, ids, vectors = faces
    manifest = verify(path)
    assert (manifest.count, manifest.num_shards, manifest.image_shape) == (200, 3, IMAGE)
    assert manifest.digests == DIGESTS and manifest.name == "faces"
    with LocalStore(path) as store:
        expected = store.neighbours(vectors[:20], 4, ids[:20])
    for num_shards in (None, 1, 7):
        target = tmp_path / f"copy-{num_shards}"
        assert copy_snapshot(path, target, num_shards).num_shards == (num_shards or 3)
        assert read_manifest(target).digests == DIGESTS
        with LocalStore(target) as store:
            answer = store.neighbours(vectors[:20], 4, ids[:20])
        np.testing.assert_array_equal(answer.ids, expected.ids)
        np.testing.assert_array_equal(answer.distances, expected.distances)
        np.testing.assert_array_equal(answer.images, expected.images)
    assert read_manifest(tmp_path / "copy-None").digest == manifest.digest
    assert read_manifest(tmp_path / "copy-7").digest != manifest.digest


def _splitmix64(value: int) -> int:
    mixed = (value + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def test_rows_go_to_the_shard_of_their_id(faces: tuple[Path, NDArray, NDArray]) -> None:
    path, ids, _ = faces
    for number in range(3):
        held = np.load(file_of(path, number, "ids.npy"), allow_pickle=False)
        assert (shard_of(held, 3) == number).all()
    # splitmix64's published first output for the seed 0, and the same steps in Python's integers.
    assert _splitmix64(0) == 0xE220A8397B1DCDAF
    for number in (0, 1, -2, 2**62 + 5):
        assert shard_of(number, 1000) == _splitmix64(number) % 1000
    assert np.bincount(shard_of(np.arange(40_000), 4)).min() > 9_500


def test_more_shards_than_rows(tmp_path: Path) -> None:
    ids, vectors = sample(2)
    with LocalStore(write(tmp_path / "s", ids, vectors, 8)) as store:
        np.testing.assert_array_equal(store.search(vectors, 1)[1][:, 0], ids)
        assert sum(row["count"] for row in store.info()) == 2


def test_an_error_or_a_missing_commit_leaves_nothing(tmp_path: Path) -> None:
    ids, vectors = sample(10)
    with pytest.raises(RuntimeError), SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS) as writer:
        writer.append(ids, vectors, images_of(ids))
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS) as writer:
        writer.append(ids, vectors, images_of(ids))
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="closed"):
        writer.commit()


def _write_and_die(path: Path) -> None:
    ids, vectors = sample(10)
    writer = SnapshotWriter(path, 2, 8, IMAGE, DIGESTS)
    writer.append(ids, vectors, images_of(ids))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_no_store_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(tmp_path / "s",))
    process.start()
    process.join(60)
    assert len(list(tmp_path.glob("s/partial-*"))) == 1
    with pytest.raises(CheckpointError, match="rgcluster store build"):
        read_manifest(tmp_path / "s")
    ids, vectors = sample(10)
    with SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS) as living:
        living.append(ids, vectors, images_of(ids))
        assert len(list(tmp_path.glob("s/partial-*"))) == 1
        SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS).abort()
        assert living.commit().count == 10
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "s").iterdir())
    assert names == ["manifest.json", "shard", "shard"]


def test_a_store_is_replaced_only_on_demand(tmp_path: Path) -> None:
    ids, vectors = sample(10)
    write(tmp_path / "s", ids, vectors)
    old = {entry.directory for entry in read_manifest(tmp_path / "s").shards}
    with pytest.raises(DataError, match="holds files already"):
        SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS)
    with SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS, replace=True) as writer:
        writer.append(ids[:4], vectors[:4], images_of(ids[:4]))
        assert read_manifest(tmp_path / "s").count == 10
        writer.commit()
    manifest: Manifest = verify(tmp_path / "s")
    assert (manifest.count, manifest.generation) == (4, 1)
    assert old <= {path.name for path in (tmp_path / "s").iterdir()}, "someone may be about to open it"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("name", ["ids.npy", "vectors.npy", "images.npy", "tags.npy"])
def test_a_corrupt_file_is_named(tmp_path: Path, name: str) -> None:
    ids, vectors = sample(30)
    path = write(tmp_path / "s", ids, vectors)
    file = file_of(path, 1, name)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    whole = read_manifest(path)
    attempts = [verify, LocalStore, lambda place: Shard(Location(place), whole, 1, 3, verify=True)]
    for attempt in attempts[: 1 if name == "images.npy" else 3]:
        with pytest.raises(CheckpointError, match=f"shard-00001-.*/{name}: differs from its checksum"):
            attempt(path)
    file.write_bytes(content[:-1])  # a start reads no images, but their size
    for attempt in attempts:
        with pytest.raises(CheckpointError, match=f"shard-00001-.*/{name}: differs from its checksum"):
            attempt(path)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"shard-00001-.*/{name}: missing"):
        verify(path)


def test_a_damaged_manifest_is_a_typed_error(tmp_path: Path) -> None:
    ids, vectors = sample(30)
    manifest = write(tmp_path / "s", ids, vectors) / "manifest.json"
    whole = json.loads(manifest.read_text())
    for content in ("{", "[]", json.dumps({**whole, "shards": [{}]}), json.dumps({**whole, "schema": 99})):
        manifest.write_text(content)
        with pytest.raises(CheckpointError, match="rgcluster store build"):
            read_manifest(tmp_path / "s")


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    ids, vectors = sample(4)
    images = images_of(ids)
    with SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS) as writer:
        wrongs: list[tuple[Any, Any, Any]] = [
            (ids, vectors[:, :7], images),
            (ids, np.full_like(vectors, np.nan), images),
            (ids, vectors, images.astype(np.float32)),
            (ids, vectors, images[:, :3]),
            (ids[:3], vectors, images),
            ([1, 2, 3, -1], vectors, images),
        ]
        for wrong in wrongs:
            with pytest.raises(DataError):
                writer.append(*wrong)
        with pytest.raises(DataError, match="1 image or more"):
            writer.commit()
    writer = SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS)
    writer.append(ids, vectors, images)
    writer.append(ids[:1], vectors[:1], images[:1])
    with pytest.raises(DataError, match=f"id {ids[0]} was appended twice"):
        writer.commit()
    assert not list(tmp_path.iterdir())


# --- ids -------------------------------------------------------------------


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), max_size=8))
def test_ids_of_64_bits_are_kept_as_they_are(values: list[int]) -> None:
    assert as_ids(values).tolist() == values
    assert as_ids(np.array(values, np.int64)).dtype == np.int64


@pytest.mark.parametrize(
    "ids",
    [
        [2**63],
        [1, 2**64],
        [-(2**70)],
        np.array([2**63], np.uint64),
        [1.0],
        [float("nan")],
        ["7"],
        [True],
        [None],
    ],
    ids=str,
)
def test_ids_that_would_change_are_refused(
    faces: tuple[Path, NDArray[np.int64], NDArray[np.float32]], tmp_path: Path, ids: Any
) -> None:
    """By everything that takes ids: nothing is stored, removed or looked up under another one."""
    _, _, vectors = faces
    copy_snapshot(faces[0], tmp_path / "copy")
    with LocalStore(tmp_path / "copy") as store:
        row, picture = vectors[: len(ids)], np.zeros((len(ids), *IMAGE), np.uint8)
        for work in (
            lambda: store.add(ids, row, picture),
            lambda: store.remove(ids),
            lambda: store.fetch(ids),
            lambda: store.vectors(ids),
            lambda: store.search(row, 1, ids),
            lambda: store.random_async(ids, 1, seed=0),
        ):
            with pytest.raises(DataError, match="whole numbers below"):
                work()
        assert store.count == len(faces[1])
    with SnapshotWriter(tmp_path / "new", 2, vectors.shape[1], IMAGE, DIGESTS) as writer:
        with pytest.raises(DataError, match="whole numbers below"):
            writer.append(ids, row, picture)
