"""The index of the rows: the same in memory and mapped, written once, passed on by its origin."""

from __future__ import annotations

import pickle
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from plain_shards import plain_shards

from rgcluster.base.storage import Location
from rgcluster.bench.rows import synthetic_index
from rgcluster.data import shards as module
from rgcluster.data.index import ROWS_PER_GROUP, FileNames, RowIndex
from rgcluster.data.order import WindowedOrder
from rgcluster.data.shards import ShardSet, open_shards
from rgcluster.errors import StorageError

FILES, ROWS = 5, 140


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """650 rows in three splits; the last file holds no training rows."""
    generator = np.random.default_rng(0)
    splits = [
        generator.choice(["train", "test"] if number < FILES - 1 else ["test", "val"], ROWS).tolist()
        for number in range(FILES)
    ]
    return plain_shards(tmp_path_factory.mktemp("shards"), splits)


@pytest.fixture
def always_mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every index is mapped, below the path that is returned."""
    monkeypatch.setattr(module, "MAPPED_ROWS", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def assert_same(found: RowIndex, expected: RowIndex) -> None:
    for name in ("row_ids", "labels", "places", "group_edges"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert list(found.file_names) == list(expected.file_names)


@pytest.mark.parametrize(("split", "fraction"), [("train", 1.0), ("train", 0.3), (None, 1.0), ("none", 1.0)])
def test_an_index_is_the_same_in_memory_and_mapped(
    shards: ShardSet, split: str | None, fraction: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shards.index(split, fraction)
    monkeypatch.setattr(module, "MAPPED_ROWS", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = shards.index(split, fraction)
    assert_same(found, expected)
    passed_on = pickle.dumps(found)
    assert_same(pickle.loads(passed_on), expected)
    assert len(passed_on) < 1000
    assert_same(found.take(np.arange(len(found))), expected)
    assert_same(pickle.loads(pickle.dumps(expected)), expected)


def test_row_groups_without_rows_are_left_out(shards: ShardSet) -> None:
    index = shards.index("train")
    groups = [
        {tuple(place) for place in (index.places[first:last] // (1, ROWS_PER_GROUP)).tolist()}
        for first, last in zip(index.group_edges, index.group_edges[1:], strict=False)
    ]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == len(groups) == 12
    assert index.group_edges[-1] == len(index)


def test_columns_are_labels_of_the_rows_that_are_read(shards: ShardSet) -> None:
    index = shards.index()
    columns = index.columns([2, 0])
    assert len(columns) == len(index)
    rows = np.array([[3, 5], [600, 3]])
    assert np.array_equal(columns[rows], index.labels[rows][..., [2, 0]])
    assert np.array_equal(columns[:], index.labels[:, [2, 0]])


def test_names_are_a_sequence(shards: ShardSet) -> None:
    names = shards.index().file_names
    assert names[0] == "é0/0.jpg" and names[-1] == "é4/139.jpg" and names[1:3] == ["é0/1.jpg", "é0/2.jpg"]
    assert names == list(names) and names != list(names)[1:] and "é2/7.jpg" in names
    with pytest.raises(IndexError):
        names[len(names)]
    assert isinstance(names, FileNames) and list(names.take(np.array([9, 1]))) == ["é0/9.jpg", "é0/1.jpg"]


def test_an_index_is_written_once(
    shards: ShardSet, always_mapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of several processes that open it at once; the others wait for it. Leftovers of killed ones go."""
    read, started = ShardSet._rows, threading.Barrier(4)
    calls: list[int] = []

    def counted(self: ShardSet, number: int, split: str | None, fraction: float) -> RowIndex:
        calls.append(number)
        return read(self, number, split, fraction)

    def open_index() -> None:
        started.wait()
        opened.append(shards.index("test"))

    monkeypatch.setattr(ShardSet, "_rows", counted)
    opened: list[RowIndex] = []
    threads = [threading.Thread(target=open_index) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == list(range(FILES))
    for index in opened[1:]:
        assert_same(index, opened[0])
    (directory,) = (path for path in always_mapped.glob("*/index/*") if path.is_dir())
    directory.rename(directory.with_suffix(".tmp"))
    assert_same(shards.index("test"), opened[0])
    assert directory.exists() and not directory.with_suffix(".tmp").exists()


def test_a_full_disk_is_said_and_leaves_nothing(shards: ShardSet, always_mapped: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            StorageError, match=r"index/.*cannot write the index of the rows \(File too large\)"
        ):
            shards.index("test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in always_mapped.glob("*/index/*") if path.is_dir()]
    assert len(shards.index("test")) == shards.splits["test"]


def test_sizes_come_from_one_listing(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are."""
    asked: list[str] = []
    monkeypatch.setattr(Location, "size", lambda self: asked.append(str(self)))
    assert open_shards(Location(shards.location)) == shards and not asked


@pytest.mark.parametrize("rows", [10, 2048, 20_000])
def test_of_a_file_no_more_than_its_metadata_is_read_to_open_it(tmp_path: Path, rows: int) -> None:
    """In one piece up to 24 KiB, in two where they are longer."""
    shards = plain_shards(tmp_path, [["train"] * rows])
    asked: list[int] = []

    class Counted:
        def __init__(self) -> None:
            self.file = shards.path(0).open_file()

        def size(self) -> int:
            return self.file.size()

        def read_at(self, count: int, offset: int) -> bytes:
            asked.append(count)
            return self.file.read_at(count, offset)

    found, expected = module._footer(Counted()), pq.read_metadata(str(shards.path(0)))  # type: ignore[arg-type]
    assert found is not None and found.equals(expected)
    size = shards.path(0).size()
    assert asked[0] == min(size, 24 << 10) and sum(asked[1:]) < expected.serialized_size + 4096
    assert len(asked) == (2 if rows == 20_000 else 1)
    assert len(shards.read(0, ["row_id"])) == rows


@pytest.fixture
def many(tmp_path: Path) -> Iterator[RowIndex]:
    yield synthetic_index(tmp_path, 300_000)


def test_memory_does_not_grow_with_the_rows(many: RowIndex) -> None:
    """Of 300,000 rows, 22 MB mapped, hardly anything is in the process's own memory."""

    def private() -> int:
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)

    before = private()
    again = pickle.loads(pickle.dumps(many))
    order = WindowedOrder(again.group_edges, 0, 32)
    for window in list(order.windows(0, len(again)))[:20]:
        rows = order.read(window)
        assert len(np.unique(again.row_ids[rows])) == len(rows)
        assert again.columns([8, 9])[rows].shape == (len(rows), 2) and (again.places[rows] >= 0).all()
    assert private() - before < 6 << 20
