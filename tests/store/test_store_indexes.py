"""Approximate indexes and the plan that chooses them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import ArrayRows, brute_force, clustered, images_of, write

from rgcluster.base.storage import Location
from rgcluster.errors import DataError
from rgcluster.store import Filter, IndexSettings, LocalStore, read_manifest, tag_of
from rgcluster.store.disk.indexes import make_index
from rgcluster.store.index.approximate import ApproximateIndex
from rgcluster.store.index.exact import ExactIndex, Index
from rgcluster.store.index.plan import EXACT_LIMIT, choose, plan_of
from rgcluster.store.index.rows import FileRows
from rgcluster.store.shard.shard import Shard

KINDS = ("ivf", "hnsw", "ivfpq")
COUNT = 6000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(COUNT + 64)


def build(
    kind: str, vectors: np.ndarray, tags: np.ndarray | None = None, *, count: int = COUNT
) -> ApproximateIndex:
    plan = choose(kind, count, 16, None, 0.95)  # type: ignore[arg-type]
    tags = np.zeros(count, np.uint8) if tags is None else tags
    return ApproximateIndex.build(plan, np.arange(count) * 3, tags, ArrayRows(vectors[:count]))


def made(kind: str, vectors: np.ndarray, file: Path, *, verify: bool = False) -> ApproximateIndex:
    plan = choose(kind, COUNT, 16, None, 0.95)  # type: ignore[arg-type]
    rows = np.arange(COUNT) * 3, np.zeros(COUNT, np.uint8), ArrayRows(vectors[:COUNT])
    index = make_index(plan, *rows, file, verify=verify)
    assert isinstance(index, ApproximateIndex)
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_the_wanted_recall_is_reached_and_distances_are_exact(kind: str, vectors: np.ndarray) -> None:
    index = build(kind, vectors)
    queries = vectors[COUNT:]
    expected = brute_force(np.arange(COUNT) * 3, vectors[:COUNT], queries, 3)
    squared, found = index.nearest(queries, 3)
    recall = np.mean([np.isin(row, own).mean() for row, own in zip(expected[1], found, strict=True)])
    assert recall >= 0.9 and index.measured_recall >= 0.9
    true = np.square(vectors[found // 3].astype(np.float64) - queries[:, None]).sum(-1)
    np.testing.assert_allclose(squared, true, rtol=1e-9)
    assert (np.diff(squared, axis=1) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_never_short(kind: str, vectors: np.ndarray) -> None:
    """Nearly everything removed or filtered away: what is left is found, wherever it lies."""
    index = build(kind, vectors)
    left = np.arange(0, COUNT, 600)
    index.remove(np.setdiff1d(np.arange(COUNT), left))
    assert len(index) == len(left)
    expected = brute_force(left * 3, vectors[left], vectors[COUNT:], 9, left[np.arange(64) % len(left)] * 3)
    squared, found = index.nearest(vectors[COUNT:], 9, (left[np.arange(64) % len(left)] * 3)[:, None])
    np.testing.assert_array_equal(found, expected[1])
    assert np.isinf(index.nearest(vectors[COUNT:], 11)[0][:, -1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_exclusions_of_other_rows_and_images_take_nothing_from_an_answer(
    kind: str, vectors: np.ndarray
) -> None:
    """A search of many clients is as wide as the longest list of exclusions among them."""
    few, tags = np.arange(0, COUNT, 300), np.zeros(COUNT, np.uint8)
    tags[few] = tag_of("test")
    index, queries = build(kind, vectors, tags), vectors[COUNT:]
    exclude = np.full((len(queries), 50), -1)
    exclude[0] = np.setdiff1d(np.arange(COUNT), few)[:50] * 3  # none of a test image
    exclude[1, :2] = few[:2] * 3
    expected = brute_force(few * 3, vectors[few], queries, len(few), exclude)
    squared, found = index.nearest(queries, len(few), exclude, (tag_of("test"),))
    np.testing.assert_array_equal(found, np.where(np.isinf(expected[0]), -1, expected[1]))
    np.testing.assert_allclose(np.sqrt(squared), expected[0], rtol=1e-6)
    assert np.isfinite(squared).sum(axis=1).tolist() == [20, 18] + [20] * 62


@pytest.mark.parametrize("kind", KINDS)
def test_more_neighbours_than_rows_are_padded(kind: str, vectors: np.ndarray) -> None:
    index, queries = build(kind, vectors, count=300), vectors[COUNT:]
    expected = brute_force(np.arange(300) * 3, vectors[:300], queries, 300)
    squared, found = index.nearest(queries, 310)
    np.testing.assert_array_equal(found[:, :300], expected[1])
    assert (found[:, 300:] == -1).all() and np.isinf(squared[:, 300:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_kept_and_a_damaged_one_is_made_again(
    kind: str, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    file, queries = tmp_path / "indexes" / "a.faiss", vectors[COUNT:]
    first = made(kind, vectors, file)
    expected = build(kind, vectors).nearest(queries, 3)
    with monkeypatch.context() as patched:
        patched.setattr(ApproximateIndex, "build", lambda *args, **options: pytest.fail("it was not read"))
        again = made(kind, vectors, file, verify=True)
    for index in (first, again):
        np.testing.assert_array_equal(index.nearest(queries, 3)[1], expected[1])
        np.testing.assert_array_equal(index.nearest(queries, 3)[0], expected[0])
    assert again.measured_recall == first.measured_recall and mapped(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    del first, again
    for damage, found_by in ((bytes(content), True), (bytes(content[:1000]), False), (b"", False)):
        file.unlink()
        file.write_bytes(damage)
        caplog.clear()
        rebuilt = made(kind, vectors, file, verify=found_by)
        assert "differs from its checksum; rebuilding the index" in caplog.text
        np.testing.assert_array_equal(rebuilt.nearest(queries, 3)[1], expected[1])
    assert {path.suffix for path in file.parent.iterdir()} == {".faiss", ".json", ".lock"}


def mapped(file: Path) -> bool:
    return any(line.endswith(str(file)) for line in Path("/proc/self/maps").read_text().splitlines())


def test_an_index_is_built_once_and_kept_with_a_remote_snapshot(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build_once = ApproximateIndex.build

    def count(*args: Any, **options: Any) -> ApproximateIndex:
        built.append(1)
        return build_once(*args, **options)

    monkeypatch.setattr(ApproximateIndex, "build", count)
    plan = choose("ivf", COUNT, 16, None, 0.95)
    rows = np.arange(COUNT) * 3, np.zeros(COUNT, np.uint8), ArrayRows(vectors[:COUNT])
    remote = Location(tmp_path / "snapshot" / "indexes")

    def serve(machine: str) -> Index:
        return make_index(plan, *rows, tmp_path / machine / "a.faiss", remote=remote)

    replicas = [threading.Thread(target=serve, args=("first",)) for _ in range(3)]
    for replica in replicas:
        replica.start()
    for replica in replicas:
        replica.join()
    held = serve("second")
    assert len(built) == 1 and mapped(tmp_path / "second" / "a.faiss") and len(held) == COUNT
    (tmp_path / "snapshot" / "indexes" / "a.faiss").write_bytes(b"damaged")
    serve("third")
    assert len(built) == 2
    serve("fourth")
    assert len(built) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_over_an_approximate_index_lives(kind: str, tmp_path: Path, vectors: np.ndarray) -> None:
    ids, rows = np.arange(2000), vectors[:2000]
    tags = np.where(ids % 5 == 0, tag_of("unlabelled"), 0).astype(np.uint8)
    write(tmp_path / "s", ids, rows, 2, tags=tags)
    settings = IndexSettings(kind, recall=0.99)  # type: ignore[arg-type]
    with LocalStore(tmp_path / "s", index=settings) as store:
        new = np.array([5000, 5001])
        store.add(new, vectors[-2:], images_of(new))
        np.testing.assert_array_equal(store.search(vectors[-2:], 1)[1][:, 0], new)
        store.remove([5000, 3])
        assert not np.isin(store.search(rows[:50], 5)[1], [5000, 3]).any()
        assert (store.search(rows[:50], 5, filter=Filter(labelled=False))[1] % 5 == 0).all()
        assert {row["index"] for row in store.info()} == {kind}
        with pytest.raises(DataError, match="NaN"):
            store.search(np.full((1, 16), np.nan), 1)
        store.compact()
        np.testing.assert_array_equal(store.search(vectors[-1:], 1)[1], [[5001]])


def test_the_exact_index_forgets_what_is_removed() -> None:
    index = ExactIndex(2)
    index.add(np.arange(10), np.arange(20).reshape(10, 2))
    index.remove(np.array([3, 4]))
    index.remove(np.array([4]))
    assert len(index) == 8
    np.testing.assert_array_equal(index.search([[6, 7]], 2)[1], [[2, 1]])
    index.add([3], [[6, 7]])
    np.testing.assert_array_equal(index.search([[6, 7]], 1)[1], [[3]])


def test_auto_chooses_by_number_memory_and_recall() -> None:
    gib = 2**30
    assert choose("auto", 50_000, 100, None, 0.95).kind == "exact"
    assert choose("auto", EXACT_LIMIT + 1, 100, None, 0.95).kind == "ivf"
    assert choose("auto", 2_000_000, 100, gib, 0.95).kind == "ivf"
    assert choose("auto", 10_000_000, 100, gib, 0.95).kind == "ivfpq"
    assert choose("auto", 2_000_000, 100, None, 1.0).kind == "exact"
    for kind, count in (("auto", 100_000_000), ("hnsw", 10_000_000)):
        with pytest.raises(DataError, match="store.memory_mib allows 1,024: raise it, or spread"):
            choose(kind, count, 100, gib, 0.95)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["exact", *KINDS])
def test_the_reckoned_memory_is_that_of_the_index(kind: str, vectors: np.ndarray, tmp_path: Path) -> None:
    plan = plan_of(kind, COUNT, 16, 0.95)  # type: ignore[arg-type]
    if kind == "exact":
        assert plan.bytes_per_vector == 68 + 9
        return
    index = build(kind, vectors)
    index.write(tmp_path / "index")
    written = (tmp_path / "index").stat().st_size
    codebook = 256 * 16 * 4 if kind == "ivfpq" else 0
    # On disk the ids and tags, 9 bytes a row, are elsewhere.
    assert abs(written - codebook - (plan.bytes - 9 * COUNT)) / written < 0.15
    assert "about" in plan.describe() and f"{COUNT:,} vectors x 16: {kind}" in plan.describe()


@pytest.mark.parametrize("kind", ["exact", *KINDS])
def test_rows_removed_from_among_the_nearest_are_passed_over(kind: str, vectors: np.ndarray) -> None:
    queries = vectors[:32]
    index: Index = build(kind, vectors) if kind != "exact" else ExactIndex(16)
    if isinstance(index, ExactIndex):
        index.add(np.arange(COUNT) * 3, vectors[:COUNT])
    for _ in range(6):
        _, near = index.nearest(queries, 8)
        assert (near >= 0).all()
        index.remove(np.unique(near // 3))
        assert not np.isin(index.nearest(queries, 8)[1], near).any()
        assert not np.isin(index.nearest(queries, 8, tags=(0,))[1], near).any()
    assert (index.nearest(queries[:1], 2, tags=(1,))[1] == -1).all()


@pytest.mark.parametrize("kind", ["exact", *KINDS])
def test_a_restart_reads_no_images_and_maps_a_kept_index(
    kind: str, vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Location(write(tmp_path / "s", np.arange(2000), vectors[:2000], 1))
    manifest, settings = read_manifest(place), IndexSettings(kind)  # type: ignore[arg-type]
    expected = Shard(place, manifest, settings=settings).search(vectors[:4], 3)
    read, read_rows = [], FileRows.read

    def noted(file: FileRows, rows: np.ndarray) -> np.ndarray:
        read.append(file._path.name)
        return read_rows(file, rows)

    monkeypatch.setattr(FileRows, "read", noted)
    shard = Shard(place, manifest, settings=settings)
    assert read == (["vectors.npy"] if kind == "exact" else [])
    np.testing.assert_array_equal(shard.search(vectors[:4], 3)[1], expected[1])
    assert "images.npy" not in read
