"""A store that changes: additions, removals, compaction, generations, the journal; without Ray."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stores import DIGESTS, brute_force, images_of, sample, write

from rgcluster.base.storage import Location
from rgcluster.errors import (
    CheckpointError,
    DataError,
    StaleGeneration,
    StorageError,
    StoreMismatch,
    StoreUnavailable,
    UnknownId,
    WriterConflict,
)
from rgcluster.store import Filter, LocalStore, copy_snapshot, read_manifest, tag_of
from rgcluster.store import client as client_module
from rgcluster.store.changes import compaction, lease
from rgcluster.store.changes.journal import Change, ChangeFile, Journal, change_files
from rgcluster.store.changes.lease import Writer
from rgcluster.store.disk.versions import Versions
from rgcluster.store.shard import host as host_module
from rgcluster.store.shard.host import Host
from rgcluster.store.shard.requests import ShardRequest
from rgcluster.store.shard.shard import IndexSettings, Shard
from rgcluster.store.view import View

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
        assert read_manifest(self.place) == manifest
        assert not change_files(Location(self.place), manifest)

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
    file = sorted(place.glob("changes/*/*.npz"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file.name}: damaged"):
        LocalStore(place)


def test_what_a_dying_writer_left_of_a_change_is_not_read(place: Path) -> None:
    with LocalStore(place) as store:
        store.remove([5])
    (next(place.glob("changes/*")) / "000000000009-0000-0003.npz.0badf00d.tmp").write_bytes(b"half")
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
        after = [path.name for path in place.iterdir()]
        assert set(after) - {"changes", "versions"} == set(before)
        assert held_snapshots(store) == [1, 1, 1]
        monkeypatch.undo()
        assert store.compact().count == 57


def test_a_compaction_that_was_overtaken_leaves_nothing_behind(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, vectors = sample(20, seed=2)
    with LocalStore(place) as store:
        store.remove(store.ids()[:3])
        publish = compaction.publish

        def overtaken(*given: str) -> bool:
            write(place, ids, vectors, replace=True)
            return publish(*given)

        monkeypatch.setattr(compaction, "publish", overtaken)
        with pytest.raises(StorageError, match="replaced by another process"):
            store.compact()
        assert held_snapshots(store) == [1, 1, 1] and store.reload().count == store.count == 20


def test_a_snapshot_that_was_prepared_and_never_published_is_not_served(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compacting client dies, and what is built next gets the number of its generation."""
    ids, vectors = sample(60)
    with LocalStore(place) as store:
        store.remove(ids[:1])
        with monkeypatch.context() as dying:
            dying.setattr(compaction, "publish", lambda *given: _full())
            with pytest.raises(StorageError):
                store.compact()
        assert held_snapshots(store) == [2, 2, 2]
        built = read_manifest(write(place, ids, -vectors, replace=True))
        store.manifest = store._hosts[0].origin()[0]  # a client that connects asks one shard
        assert store.manifest == built and built.generation == 1
        near = store.neighbours(-vectors, 1)
        np.testing.assert_array_equal(near.ids[:, 0], ids)
        np.testing.assert_array_equal(near.distances, np.zeros((60, 1)))
        assert held_snapshots(store) == [1, 1, 1]


def test_a_directory_that_is_removed_and_built_anew_is_taken_up(place: Path) -> None:
    ids, vectors = sample(60)
    new, row = np.arange(40), np.array([99])
    with LocalStore(place) as store:
        store.add(row, vectors[:1], images_of(row))
        store.compact()
        for generation in (1, 0):  # in place of what was compacted, and of the same generation
            assert store.manifest.generation == generation
            shutil.rmtree(place)
            new = new + 1
            built = read_manifest(write(place, new, vectors[:40]))
            assert store.reload() == store.manifest == built and built.generation == 0
            np.testing.assert_array_equal(store.ids(), new)
            np.testing.assert_array_equal(store.search(vectors[:40], 1)[1][:, 0], new)
            np.testing.assert_array_equal(store.fetch(new), images_of(new))


def test_requests_tell_snapshots_of_the_same_generation_apart(place: Path) -> None:
    """One shard restarts and loads what was built anew, while the others still hold what was there before."""
    ids, vectors = sample(60)
    with LocalStore(place) as store:
        for turn in (1, 2):
            shutil.rmtree(place)
            write(place, ids + turn, -turn * vectors)
            store._hosts[1].origin()
            if turn == 1:
                assert store.remove(ids) == 0 and store.count == 60
            else:
                np.testing.assert_array_equal(store.search(-turn * vectors, 1)[1][:, 0], ids + turn)


def test_a_replica_that_was_not_told_yet_serves_every_acknowledged_change(place: Path) -> None:
    """The next snapshot is published after a change, and a client that knows of it asks before `adopt`."""
    ids, _ = sample(60)
    first, second = (Host(str(place), 0, 1, IndexSettings(), "store") for _ in range(2))

    def everyone(method: str, args: tuple[str, ...], deadline: float) -> list[object]:
        if method == "adopt":
            return []
        prepared = [getattr(host, method)(*args) for host in (first, second)]
        current = first.origin()[0].token
        first.call(ShardRequest(current, "write", (Change(ids[1:2]),)))
        second.call(ShardRequest(current, "catch_up"))
        return prepared

    first.call(ShardRequest(first.origin()[0].token, "write", (Change(ids[:1]),)))
    compaction.compact(Location(place), everyone)
    current = read_manifest(place).token
    for host in (first, second):
        assert host.call(ShardRequest(current, "ids"))[1].size == 58


@pytest.mark.parametrize("moment", ["write_compacted", "publish"])
def test_changes_during_a_compaction_are_carried_over(
    place: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    ids, vectors = sample(9, seed=3)
    with LocalStore(place) as store:
        store.remove(store.ids()[:3])
        real = getattr(compaction, moment)

        def late(*given: object) -> object:
            store.add(ids, vectors, images_of(ids))
            return real(*given)

        monkeypatch.setattr(compaction, moment, late)
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


def test_random_draws_follow_the_changes(place: Path) -> None:
    ids, vectors = sample(3, seed=5)
    with LocalStore(place) as store:
        store.remove(store.ids()[:58])
        store.add(ids, vectors, images_of(ids))
        drawn = store.random_async(np.arange(8), 5, seed=1).result()
        assert all(set(row) == set(store.ids()) for row in drawn.ids)


def test_searches_that_meet_are_answered_as_if_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_IN_FLIGHT", 24)
    ids, vectors = sample(60)
    asked = [
        (vectors[n : n + 1 + n % 3], 1 + n % 4, ids[n : n + 1 + n % 3] if n % 2 else None) for n in range(24)
    ]
    with LocalStore(place) as store:
        alone = [store.search(*one) for one in asked]
        for _ in range(5):
            together = [store.search_async(*one) for one in asked]
            for pending, expected in zip(together, alone, strict=True):
                np.testing.assert_array_equal(pending.result()[1], expected[1])
                np.testing.assert_array_equal(pending.result()[0], expected[0])
    assert client_module._THREADS > 1


def test_a_second_writer_is_refused_at_once(place: Path) -> None:
    ids, vectors = sample(60)
    with LocalStore(place) as second:
        with LocalStore(place) as first:
            assert first.remove(ids[:1]) == 1
            start = time.monotonic()
            for _ in range(2):
                with pytest.raises(WriterConflict, match=f"process {os.getpid()}.*writes to this snapshot"):
                    second.remove(ids[1:2])
            assert time.monotonic() - start < 1
            assert second.count == 60 and first.remove(ids[1:2]) == 1
        # Closed, a store leaves the right to write to others, which read what it wrote.
        assert second.remove(ids[:3]) == 1
    with LocalStore(place, num_shards=2) as third:
        assert third.count == 57 and third.remove(ids[3:4]) == 1


def test_a_writer_that_lost_its_right_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, vectors = sample(60)
    with LocalStore(place, num_shards=1) as first, LocalStore(place) as second:
        first.remove(ids[:1])
        with monkeypatch.context() as later:
            later.setattr(lease.time, "time", lambda now=time.time: now() + lease.LEASE_SECONDS)
            assert second.add(ids[:1], vectors[:1], images_of(ids[:1])) == 0
            with pytest.raises(WriterConflict):
                first.remove(ids[1:2])
            assert second.add(ids[1:2], vectors[1:2], images_of(ids[1:2], version=7)) == 1
        assert first.count == 59
    with LocalStore(place) as third:
        assert third.count == 60
        np.testing.assert_array_equal(third.fetch(ids[1:2]), images_of(ids[1:2], version=7))


def test_a_writer_reads_what_others_wrote_even_if_it_fails_at_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _ = sample(60)
    with LocalStore(place, num_shards=1) as second:
        with LocalStore(place) as first:
            first.remove(ids[:4])
        for failing in ((Journal, "news"), (Writer, "append"), (Location, "create"), (Shard, "apply")):
            with monkeypatch.context() as broken:
                broken.setattr(*failing, lambda *given: _full())
                with pytest.raises(StorageError, match="no room"):
                    second.remove(ids[:1])
        assert second.remove(ids[:5]) == 1 and second.remove(ids[5:6]) == 1 and second.count == 54
    with LocalStore(place) as third:
        assert third.count == 54


def test_a_change_that_comes_too_late_is_written_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seal falls between the write and its acknowledgement: the sealed file does not count."""
    ids, vectors = sample(3, seed=4)
    with LocalStore(place, num_shards=1) as store:
        store.remove(ids)
        real, sealed = Location.create, []

        def sealing(self: Location, content: bytes) -> bool:
            created = real(self, content)
            if self.name.endswith(".npz") and not sealed:
                sealed.append(Versions(Location(place)).seal())
            return created

        monkeypatch.setattr(Location, "create", sealing)
        assert store.add(ids, vectors, images_of(ids)) == 0 and store.remove(ids[:1]) == 1
        files = change_files(Location(place), store.manifest)
        assert [file.directory.name < f"{sealed[0].number:012d}" for file in files] == [True] * 2 + [
            False
        ] * 2
    with LocalStore(place) as store:
        assert store.count == 62


def test_a_replaced_process_of_a_shard_may_not_write(place: Path) -> None:
    """A shard that was cut off from its cluster and started elsewhere."""
    ids, _ = sample(60)
    old = Host(str(place), 0, 1, IndexSettings(), "store")
    sibling = Host(str(place), 0, 1, IndexSettings(), "store", restarts=1)

    def remove(host: Host, number: int) -> int:
        change = Change(ids[number : number + 1])
        return host.call(ShardRequest(host.origin()[0].token, "write", (change,)))[0]

    assert (old.origin()[1], remove(old, 0), remove(old, 1)) == (1, 1, 1)
    assert sibling.origin() and remove(sibling, 0) == 0 and remove(sibling, 2) == 1
    with pytest.raises(WriterConflict, match="process of shard 0 has been replaced"):
        remove(old, 3)


def test_a_store_of_the_earlier_format_is_read_and_raised(place: Path) -> None:
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["changes_from"]
    (place / "manifest.json").write_text(json.dumps({**manifest, "schema": 2, "journal": "journal-0123abcd"}))
    ids, vectors = sample(4, seed=6)
    (place / "journal-0123abcd").mkdir()
    with (place / "journal-0123abcd" / "000000000000-0000-0001.npz").open("wb") as file:
        np.savez(file, ids=ids, vectors=vectors, images=images_of(ids), tags=np.zeros(4, np.uint8))
    with LocalStore(place) as store:
        digest = store.manifest.built_digest
        assert store.count == 64 and json.loads((place / "manifest.json").read_text())["schema"] == 2
        store.remove(ids[:1])
    assert json.loads((place / "manifest.json").read_text())["schema"] == 3
    with LocalStore(place) as store:
        assert store.count == 63 and store.compact().count == 63
        assert store.manifest.built_digest == digest
        np.testing.assert_array_equal(store.fetch(ids[1:]), images_of(ids[1:]))


def test_a_snapshot_that_is_replaced_while_it_is_loaded_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that restarts during a compaction reads files which the compaction removes."""
    ids, vectors = sample(40, 4)
    place = write(tmp_path / "s", ids, vectors, 1)
    read = ChangeFile.read
    with LocalStore(place) as store:
        store.add(np.arange(3), vectors[:3], images_of(np.arange(3)))
        pending = [store.compact]

        def replaced(file: ChangeFile) -> list[Change]:
            if pending:
                pending.pop()()
                shutil.rmtree(place / "changes")
            return read(file)

        monkeypatch.setattr(ChangeFile, "read", replaced)
        host = Host(str(place), 0, 1, IndexSettings(), "other")
        manifest, _ = host.origin()
        assert manifest.generation == read_manifest(Location(place)).generation and not pending
        assert host.call(ShardRequest(manifest.token, "ids"))[1].size == 43


def test_a_call_of_a_generation_whose_files_are_gone_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, vectors = sample(40, 4)
    place = write(tmp_path / "s", ids, vectors, 1)
    host = Host(str(place), 0, 1, IndexSettings(), "other")
    before = host.origin()[0].token

    def gone(self: object, ids: np.ndarray) -> int:
        with LocalStore(place) as store:
            store.add(np.arange(3), vectors[:3], images_of(np.arange(3)))
            store.compact()
        raise FileNotFoundError("journal")

    monkeypatch.setattr("rgcluster.store.shard.shard.Shard.vectors", gone)
    with pytest.raises(StaleGeneration):
        host.call(ShardRequest(before, "vectors", (ids[:1],)))


def test_a_store_that_changed_much_is_compacted_by_itself(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_module, "COMPACT_ROWS", 12)
    monkeypatch.setattr(host_module, "_COMPACT_SECONDS", 0.0)
    ids, vectors = sample(60)

    def compactions() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "store-compaction"]

    with LocalStore(place, num_shards=1) as store:
        store.remove(ids[:29])
        assert not compactions() and store.manifest.generation == 0
        with monkeypatch.context() as full:
            full.setattr(compaction, "write_compacted", lambda *given: _full())
            store.add(ids[:1], vectors[:1], images_of(ids[:1]))
            for thread in compactions():
                thread.join(30)
        assert "was not compacted: no room" in caplog.text and store.count == 32
        store.remove(ids[:1])
        for thread in compactions():
            thread.join(30)
        assert store.reload().generation == 1 and store.count == 31
        assert store._hosts[0]._load_current().changed == 0


def held_snapshots(store: LocalStore) -> list[int]:
    """How many snapshots each shard holds in memory."""
    return [len(host._shards) for host in store._hosts]


def _full() -> str:
    raise StorageError("no room")


def test_rows_may_be_removed_between_search_and_fetch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, vectors = sample(60)
    with LocalStore(place, timeout=1) as store:
        fetch, removed, token = View.fetch, list[int](), store.manifest.token

        def late(view: View, wanted: np.ndarray) -> np.ndarray:
            if len(removed) < 3:
                removed.append(int(wanted.flat[0]))
                for host in store._hosts:
                    owned = np.array([removed[-1]])
                    if removed[-1] in host.call(ShardRequest(token, "ids"))[1]:
                        host.call(ShardRequest(token, "write", (Change(owned),)))
            return fetch(view, wanted)

        monkeypatch.setattr(View, "fetch", late)
        near = store.neighbours(vectors[:2], 4)
        assert len(set(removed)) == 3 and not np.isin(removed, near.ids).any()
        np.testing.assert_array_equal(near.images, images_of(near.ids.ravel()).reshape(near.images.shape))
        removed.clear()
        drawn = store.random_async(ids[:2], 50, seed=0).result()
        assert len(removed) == 3 and not np.isin(removed, drawn.ids).any()
        monkeypatch.setattr(View, "fetch", lambda view, wanted: fetch(view, np.array([1])))
        with pytest.raises(StoreUnavailable, match="removed faster than their images could be read"):
            store.neighbours(vectors[:2], 4)
        with pytest.raises(UnknownId):
            store.fetch([1])


def test_clients_ask_for_rows_that_are_removed_and_added_again(place: Path) -> None:
    """`tests/train/test_store_that_changes.py` does so for a minute, with a training beside the clients."""
    ids, vectors = sample(60)
    errors: list[BaseException] = []
    answers, stop = [0] * 8, threading.Event()
    with LocalStore(place) as store:

        def ask(number: int) -> None:
            try:
                while not stop.is_set():
                    if number % 4:
                        near = store.neighbours(vectors[:8], 3)
                    else:
                        near = store.random_async(ids[:4], 5, seed=answers[number]).result()
                    np.testing.assert_array_equal(
                        near.images, images_of(near.ids.ravel()).reshape(near.images.shape)
                    )
                    answers[number] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            store.remove(ids[:20])
            store.add(ids[:20], vectors[:20], images_of(ids[:20]))
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not errors and min(answers) > 0
