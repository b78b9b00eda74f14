"""A store that changes: additions, removals, compaction, generations, the journal; without Ray."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stores import DIGESTS, IMAGE, brute_force, images_of, sample, write

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, DataError, StaleGeneration, StoreMismatch
from rgcluster.store import Filter, LocalStore, SnapshotWriter, copy_snapshot, read_manifest, tag_of
from rgcluster.store import client as client_module
from rgcluster.store.changes import journal
from rgcluster.store.changes.journal import Change, Journal
from rgcluster.store.shard.host import Host
from rgcluster.store.shard.requests import ShardRequest
from rgcluster.store.shard.shard import IndexSettings

TRAIN, UNLABELLED = tag_of("train"), tag_of("unlabelled")


class LiveStore(RuleBasedStateMachine):
    """Any order of changes, restarts on other numbers of shards, and searches equals a dictionary."""

    @initialize(shards=st.integers(1, 3), seed=st.integers(0, 2**31))
    def build(self, shards: int, seed: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name) / "s"
        self.random = np.random.default_rng(seed)
        ids = np.arange(0, 30, 2)
        vectors = self.vectors(len(ids))
        tags = self.random.choice([TRAIN, UNLABELLED], len(ids)).astype(np.uint8)
        write(self.place, ids, vectors, shards, tags=tags)
        self.rows = {
            int(i): (v, images_of(ids[n : n + 1])[0], int(t))
            for n, (i, v, t) in enumerate(zip(ids, vectors, tags, strict=True))
        }
        self.store = LocalStore(self.place)

    def vectors(self, count: int) -> np.ndarray:
        # Few values, so that there are ties.
        return self.random.integers(0, 3, (count, 3)).astype(np.float32)

    @rule(ids=st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True), version=st.integers(0, 9))
    def add(self, ids: list[int], version: int) -> None:
        numbers, vectors = np.array(ids), self.vectors(len(ids))
        images, tags = images_of(numbers, version), np.full(len(ids), TRAIN, np.uint8)
        assert self.store.add(numbers, vectors, images, tags) == len(set(ids) & set(self.rows))
        self.rows |= {i: (vectors[n], images[n], TRAIN) for n, i in enumerate(ids)}

    @rule(ids=st.lists(st.integers(0, 40), min_size=1, max_size=6))
    def remove(self, ids: list[int]) -> None:
        assert self.store.remove(ids) == len(set(ids) & set(self.rows))
        for number in ids:
            self.rows.pop(number, None)

    @precondition(lambda self: self.rows)
    @rule()
    def compact(self) -> None:
        origin = self.store.manifest.built_digest
        manifest = self.store.compact()
        assert manifest.count == len(self.rows) and manifest.built_digest == origin
        assert not list((self.place / manifest.journal).glob("*")) and not list(self.place.glob("next-*"))

    @rule(shards=st.integers(1, 4))
    def restart(self, shards: int) -> None:
        self.store.close()
        self.store = LocalStore(self.place, num_shards=shards)

    @invariant()
    def holds_what_it_should(self) -> None:
        if not hasattr(self, "store"):
            return
        ids = np.array(sorted(self.rows), np.int64)
        np.testing.assert_array_equal(self.store.ids(), ids)
        if len(ids):
            np.testing.assert_array_equal(self.store.fetch(ids), [self.rows[i][1] for i in ids.tolist()])

    @precondition(lambda self: len(self.rows) > 3)
    @rule(data=st.data(), filtered=st.booleans())
    def search(self, data: st.DataObject, filtered: bool) -> None:
        kept = [i for i in sorted(self.rows) if not filtered or self.rows[i][2] == TRAIN]
        if len(kept) < 3:
            return
        queries = self.vectors(4)
        exclude = self.random.choice([*kept, -1], (4, 2))
        k = data.draw(st.integers(1, len(kept) - 2))
        expected = brute_force(np.array(kept), np.stack([self.rows[i][0] for i in kept]), queries, k, exclude)
        found = self.store.search(queries, k, exclude, Filter(labelled=True) if filtered else None)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


LiveStore.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
TestLiveStore = LiveStore.TestCase


@pytest.fixture
def place(tmp_path: Path) -> Path:
    ids, vectors = sample(60)
    return write(tmp_path / "s", ids, vectors)


def test_filters_name_splits_and_labels(tmp_path: Path) -> None:
    ids, vectors = sample(40)
    tags = np.arange(40, dtype=np.uint8) % 4
    with LocalStore(write(tmp_path / "s", ids, vectors, tags=tags)) as store:
        for chosen, passing in [
            (Filter(("val",)), [1]),
            (Filter(("train", "test")), [0, 2]),
            (Filter(labelled=True), [0, 1, 2]),
            (Filter(labelled=False), [3]),
            (Filter(), [0, 1, 2, 3]),
        ]:
            mine = np.isin(tags, passing)
            expected = brute_force(ids[mine], vectors[mine], vectors[:5], 4)
            np.testing.assert_array_equal(store.search(vectors[:5], 4, filter=chosen)[1], expected[1])
    with pytest.raises(DataError, match="the store knows train, val, test, unlabelled"):
        Filter(("dev",)).tags  # noqa: B018


def test_a_wrong_addition_is_refused_and_changes_nothing(place: Path) -> None:
    ids, vectors = sample(4, seed=1)
    images = images_of(ids)
    with LocalStore(place) as store:
        for wrong in (
            (ids, vectors[:, :7], images, None),
            (ids, np.full_like(vectors, np.nan), images, None),
            (ids, vectors, images[:, :3], None),
            (ids, vectors, images.astype(np.int32), None),
            ([1, 1, 2, 3], vectors, images, None),
            ([1, 2, 3, -1], vectors, images, None),
            (ids, vectors, images, [0, 0, 0, 9]),
        ):
            with pytest.raises(DataError):
                store.add(*wrong)
        assert store.count == 60 and all(row["changes"] == 0 for row in store.info())


def test_a_damaged_change_is_named(place: Path) -> None:
    ids, vectors = sample(6, seed=1)
    with LocalStore(place) as store:
        store.add(ids, vectors, images_of(ids))
    file = sorted(place.glob("journal-*/*.npz"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file.name}: damaged"):
        LocalStore(place)


def test_what_a_dying_writer_left_of_a_change_is_not_read(place: Path) -> None:
    with LocalStore(place) as store:
        store.remove([5])
        journal = place / store.manifest.journal
    (journal / "000000000009-0000-0003.npz.0badf00d.tmp").write_bytes(b"half")
    with LocalStore(place) as store:
        assert store.count == 60


def test_a_snapshot_put_in_its_place_is_taken_up_on_demand(place: Path) -> None:
    ids, vectors = sample(20, seed=2)
    with LocalStore(place) as store:
        write(place, ids, vectors, replace=True)
        assert store.search(vectors[:1], 1)[1].shape == (1, 1) and store.count == 20
        assert store.reload().generation == 1
        np.testing.assert_array_equal(store.search(vectors, 1)[1][:, 0], ids)
        with pytest.raises(DataError, match="not in the store"):
            store.fetch(sample(60)[0][:1])


def test_networks_are_checked_again_when_the_snapshot_is_replaced(place: Path) -> None:
    ids, vectors = sample(20, seed=2)
    with LocalStore(place) as store:
        store.check(DIGESTS)
        write(place, ids, vectors, replace=True, digests={**DIGESTS, "retrieval": "beef"})
        with pytest.raises(StoreMismatch, match="retrieval beef"):
            store.reload()


def test_a_change_never_lands_in_a_snapshot_that_was_replaced(place: Path) -> None:
    ids, vectors = sample(20, seed=2)
    with LocalStore(place) as store:
        write(place, ids, vectors, replace=True)
        store.add(np.array([7]), vectors[:1], images_of(np.array([7])))
        assert store.manifest.generation == 1
    with LocalStore(place) as store:
        assert store.count == 21 and 7 in store.ids()


def test_compaction_that_fails_leaves_the_old_generation(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in place.iterdir())
    with LocalStore(place) as store:
        store.remove(store.ids()[:3])
        monkeypatch.setattr(store._hosts[1], "prepare", lambda file: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.compact()
        assert store.count == 57 and store.manifest.generation == 0
        after = [path.name for path in place.iterdir() if not path.name.startswith("journal-")]
        assert sorted(after) == before
        monkeypatch.undo()
        assert store.compact().count == 57


def test_changes_during_a_compaction_are_carried_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, vectors = sample(9, seed=3)
    with LocalStore(place) as store:
        store.remove(store.ids()[:3])
        real = store._hosts[0].hold_writes

        def late(seconds: float) -> None:
            store.add(ids, vectors, images_of(ids))  # written, and loaded by nobody yet
            real(seconds)

        monkeypatch.setattr(store._hosts[0], "hold_writes", late)
        store.compact()
        assert store.count == 66 and store.manifest.generation == 1
        np.testing.assert_array_equal(store.search(vectors, 1)[1][:, 0], ids)
    with LocalStore(place, num_shards=2) as store:
        np.testing.assert_array_equal(store.fetch(ids), images_of(ids))


def test_queries_during_compactions_see_one_whole_generation(place: Path) -> None:
    """Two marks are swapped by every change: a query that mixed generations would see both, or none."""
    marks = np.array([10**15, 10**15 + 1])
    far = np.full((1, 8), 50, np.float32)
    ids, vectors = sample(60)
    with LocalStore(place, timeout=30) as store:
        store.add(marks[:1], far, images_of(marks[:1]))
        stop, wrong = threading.Event(), []

        def ask() -> None:
            while not stop.is_set():
                near = store.neighbours(vectors[:4], 2)
                if not np.array_equal(near.ids[:, 0], ids[:4]):
                    wrong.append(near.ids)
                if not np.array_equal(near.images[:, 0], images_of(ids[:4])):
                    wrong.append(near.images)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(4):
            store.add(marks[1:], far, images_of(marks[1:], turn))
            store.remove(marks[1:])
            store.compact()
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not wrong and store.manifest.generation == 4


def test_copies_hold_the_changes_and_fit_any_number_of_shards(place: Path, tmp_path: Path) -> None:
    ids, vectors = sample(5, seed=4)
    with LocalStore(place) as store:
        store.remove(store.ids()[:10])
        store.add(ids, vectors, images_of(ids), np.full(5, UNLABELLED))
        everything, origin = store.ids(), store.manifest.built_digest
    for shards in (1, 5):
        copied = copy_snapshot(place, tmp_path / f"copy-{shards}", shards)
        assert copied.num_shards == shards and copied.built_digest == origin and copied.digest != origin
        with LocalStore(tmp_path / f"copy-{shards}") as store:
            np.testing.assert_array_equal(store.ids(), everything)
            np.testing.assert_array_equal(
                store.search(vectors, 1, filter=Filter(labelled=False))[1][:, 0], ids
            )


def test_a_writer_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    ids, vectors = sample(50)
    images = images_of(ids)

    def open_writer(key: str) -> SnapshotWriter:
        return SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS, resume=key)

    with open_writer("a") as writer:
        writer.append(ids[:20], vectors[:20], images[:20])
        writer.save()
        writer.append(ids[20:30], vectors[20:30], images[20:30])  # lost: not saved
    with pytest.raises(CheckpointError, match="no store here"):
        read_manifest(tmp_path / "s")
    with open_writer("a") as writer:
        np.testing.assert_array_equal(writer.held, np.sort(ids[:20]))
        writer.append(ids[20:], vectors[20:], images[20:])
        assert writer.commit().count == 50
    with LocalStore(tmp_path / "s") as store:
        np.testing.assert_array_equal(store.fetch(ids), images)
    # Other work does not begin with what this left.
    with SnapshotWriter(tmp_path / "t", 2, 8, IMAGE, DIGESTS, resume="a") as writer:
        writer.append(ids[:20], vectors[:20], images[:20])
        writer.save()
    with SnapshotWriter(tmp_path / "t", 2, 8, IMAGE, DIGESTS, resume="b") as writer:
        assert not len(writer.held) and not (tmp_path / "t" / "partial-a").exists()


def test_the_same_key_twice_at_once_is_refused(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS, resume="a"):
        with pytest.raises(DataError, match="another process is writing"):
            SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS, resume="a")


def test_random_draws_follow_the_changes(place: Path) -> None:
    ids, vectors = sample(3, seed=5)
    with LocalStore(place) as store:
        store.remove(store.ids()[:58])
        store.add(ids, vectors, images_of(ids))
        drawn = store.random_async(np.arange(8), 5, seed=1).result()
        assert all(set(row) == set(store.ids()) for row in drawn.ids)


def test_searches_that_meet_are_answered_as_if_alone(place: Path) -> None:
    ids, vectors = sample(60)
    asked = [
        (vectors[n : n + 1 + n % 3], 1 + n % 4, ids[n : n + 1 + n % 3] if n % 2 else None) for n in range(24)
    ]
    with LocalStore(place, max_in_flight=24) as store:
        alone = [store.search(*one) for one in asked]
        for _ in range(5):
            together = [store.search_async(*one) for one in asked]
            for pending, expected in zip(together, alone, strict=True):
                np.testing.assert_array_equal(pending.result()[1], expected[1])
                np.testing.assert_array_equal(pending.result()[0], expected[0])
    assert client_module._THREADS > 1


def test_two_stores_write_to_one_journal(place: Path) -> None:
    threads, adds = 4, 40
    ids, vectors = sample(2 * threads * adds, seed=9)
    ids = ids + 1_000_000
    shares = np.split(np.arange(len(ids)), 2 * threads)
    errors: list[BaseException] = []

    def write_share(store: LocalStore, share: np.ndarray) -> None:
        try:
            for row in share:
                one = slice(row, row + 1)
                assert store.add(ids[one], vectors[one], images_of(ids[one])) == 0
        except BaseException as error:
            errors.append(error)

    with LocalStore(place) as first, LocalStore(place) as second:
        writers = [
            threading.Thread(target=write_share, args=((first, second)[number % 2], share))
            for number, share in enumerate(shares)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    assert not errors
    with LocalStore(place) as third:
        held = third.ids()
        assert np.isin(ids, held).all() and len(held) == len(np.unique(held)) == 60 + len(ids)
        assert third.count == 60 + len(ids)
        np.testing.assert_array_equal(third.fetch(ids), images_of(ids))


def test_a_write_follows_what_another_store_wrote_before(place: Path) -> None:
    ids, vectors = sample(60)
    one, images = ids[:1], images_of(ids[:1], version=3)
    with LocalStore(place) as first, LocalStore(place) as second:
        for store in (first, second, first, second):
            store.remove(ids[5:6])
            assert store.remove(one) == 1
            assert (second if store is first else first).add(one, vectors[:1], images) == 0
    with LocalStore(place) as third:
        assert third.count == 59
        np.testing.assert_array_equal(third.fetch(one), images)


def test_stores_of_different_numbers_of_shards_write_to_one_journal(place: Path) -> None:
    ids, vectors = sample(60)
    with LocalStore(place) as first, LocalStore(place, num_shards=2) as second:
        for start in range(0, 40, 10):
            rows = slice(start, start + 10)
            assert first.remove(ids[rows]) == 10
            assert second.add(ids[rows], vectors[rows], images_of(ids[rows], version=start)) == 0
    with LocalStore(place) as third:
        assert third.count == 60
        np.testing.assert_array_equal(third.fetch(ids[:10]), images_of(ids[:10]))
        np.testing.assert_array_equal(third.fetch(ids[30:40]), images_of(ids[30:40], version=30))


@pytest.mark.parametrize("links", [True, False])
def test_a_change_file_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def link(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    if not links:
        monkeypatch.setattr("rgcluster.store.changes.journal.os.link", link)
    first, second = (Journal(Location(tmp_path), 0, 1) for _ in range(2))
    assert first.append(Change(np.array([1])))
    assert not second.append(Change(np.array([2])))
    assert [change.ids.tolist() for change in second.news()] == [[1]]
    assert second.append(Change(np.array([2])))
    assert [change.ids.tolist() for change in first.news()] == [[2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000000000-0000-0001.npz", "000000000001-0000-0001.npz"
    ]  # fmt: skip


def test_a_snapshot_that_is_replaced_while_it_is_loaded_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that restarts during a compaction reads files which the compaction removes."""
    ids, vectors = sample(40, 4)
    place = write(tmp_path / "s", ids, vectors, 1)
    read = journal.read_change
    with LocalStore(place) as store:
        store.add(np.arange(3), vectors[:3], images_of(np.arange(3)))
        pending = [store.compact]

        def replaced(directory: Location, name: str) -> journal.Change:
            if pending:
                pending.pop()()
            return read(directory, name)

        monkeypatch.setattr(journal, "read_change", replaced)
        host = Host(place, 0, 1, IndexSettings())
        manifest, _ = host.origin()
        assert manifest.generation == read_manifest(Location(place)).generation and not pending
        assert host.call(ShardRequest(manifest.generation, "ids"))[1].size == 43


def test_a_call_of_a_generation_whose_files_are_gone_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, vectors = sample(40, 4)
    place = write(tmp_path / "s", ids, vectors, 1)
    host = Host(place, 0, 1, IndexSettings())
    before = host.origin()[0].generation

    def gone(self: object, ids: np.ndarray) -> int:
        with LocalStore(place) as store:
            store.add(np.arange(3), vectors[:3], images_of(np.arange(3)))
            store.compact()
        raise FileNotFoundError("journal")

    monkeypatch.setattr("rgcluster.store.shard.shard.Shard.vectors", gone)
    with pytest.raises(StaleGeneration):
        host.call(ShardRequest(before, "vectors", (ids[:1],)))
