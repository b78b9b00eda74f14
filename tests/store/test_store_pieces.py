"""Writing shards in pieces: what an interrupted writer saved is continued, and the digest is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stores import DIGESTS, IMAGE, images_of, sample, write

from rgcluster.errors import CheckpointError, DataError, StorageError
from rgcluster.store import LocalStore, Manifest, SnapshotWriter, copy_snapshot, read_manifest, verify
from rgcluster.store.disk import growing, shard_writer
from rgcluster.store.disk.shard_writer import ShardWriter
from rgcluster.store.disk.snapshot import shard_of

MOMENTS = ["append", "finish", "move", "commit"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_writers_of_shards_go_on_where_they_were_saved(tmp_path: Path, moment: str) -> None:
    """The digest does not depend on where the first of two writers stopped."""
    ids, vectors = sample(50)
    calm = write(tmp_path / "calm", ids, vectors, 2)
    pieces = [slice(start, start + 10) for start in range(0, 50, 10)]

    def build(stop: str | None) -> Manifest:
        with SnapshotWriter(
            tmp_path / "s", 2, 8, IMAGE, DIGESTS, name="s", resume="a", expected=expected.tolist()
        ) as writer:
            shards = [ShardWriter(plan) for plan in writer.plans]
            begun.append(min(shard.pieces() for shard in shards))
            try:
                for number, piece in enumerate(pieces):
                    owners = shard_of(ids[piece], 2)
                    for owner, shard in enumerate(shards):
                        mine = [each[piece][owners == owner] for each in (ids, vectors, images_of(ids), tags)]
                        shard.append(mine, number)
                        if (stop, number, owner) == ("append", 2, 0):
                            raise KeyboardInterrupt
                for method in MOMENTS[1:3]:
                    getattr(shards[0], method)()
                    if stop == method:
                        raise KeyboardInterrupt
                    getattr(shards[1], method)()
                if stop == "commit":
                    raise KeyboardInterrupt
                return writer.commit(each=lambda method: [getattr(shard, method)() for shard in shards])
            finally:
                for shard in shards:
                    shard.close()

    begun, tags = list[int](), np.zeros(50, np.uint8)
    expected = np.bincount(shard_of(ids, 2))
    with pytest.raises(KeyboardInterrupt):
        build(moment)
    with pytest.raises(CheckpointError, match="no store here"):
        read_manifest(tmp_path / "s")
    assert build(None).digest == read_manifest(calm).digest
    assert begun == [0, 2 if moment == "append" else 5]
    verify(tmp_path / "s")
    assert {path.name.split("-")[0] for path in (tmp_path / "s").iterdir()} == {"manifest.json", "shard"}
    with LocalStore(tmp_path / "s") as store:
        np.testing.assert_array_equal(store.fetch(ids), images_of(ids))


def test_other_work_does_not_begin_with_what_was_left(tmp_path: Path) -> None:
    ids, vectors = sample(20)
    for key in ("a", "b"):
        with SnapshotWriter(tmp_path / "t", 1, 8, IMAGE, DIGESTS, resume=key) as writer:
            shard = ShardWriter(writer.plans[0])
            assert shard.pieces() == 0
            columns = [ids, vectors, images_of(ids), np.zeros(20, np.uint8)]
            with pytest.raises(StorageError, match="piece 1 came after 0"):
                shard.append(columns, 1)
            shard.append(columns, 0)
            shard.close()
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["partial-b"]


def test_the_same_key_twice_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "_LOCK_SECONDS", 0.3)
    with SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS, resume="a") as writer:
        with pytest.raises(DataError, match="another process is writing"):
            SnapshotWriter(tmp_path / "s", 2, 8, IMAGE, DIGESTS, resume="a")
        held = ShardWriter(writer.plans[0])
        with pytest.raises(DataError, match="another process is writing"):
            ShardWriter(writer.plans[0])
        held.close()
        ShardWriter(writer.plans[0]).close()


def test_files_are_hashed_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and compactions know the number of rows beforehand, and read nothing twice."""
    ids, vectors = sample(50)
    place = write(tmp_path / "s", ids, vectors, 2)
    monkeypatch.setattr(growing, "file_digest", lambda path: pytest.fail(f"{path} was read again"))
    with LocalStore(place) as store:
        store.add(ids[:4], vectors[4:8], images_of(ids[:4], 1))
        store.remove(ids[10:20])
        store.add([1, 2], vectors[:2], images_of(np.array([1, 2])))
        store.remove([2])
        assert copy_snapshot(place, tmp_path / "copy", 3).count == store.compact().count == 41
    for each in (place, tmp_path / "copy"):
        verify(each)
