"""A store on S3: copied there and back, served from there, changed there. The server is moto's, in this process."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3 import FaultyProxy, s3_server
from s3 import place as place_of
from stores import images_of, sample, write

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, DataError, RGClusterError, WriterConflict
from rgcluster.store import LocalStore, Manifest, copy_snapshot, read_manifest
from rgcluster.store.changes import lease
from rgcluster.store.disk import orphans


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("stores") as address:
        yield address


@pytest.fixture
def bucket(server: str) -> str:
    return place_of(server, "stores/{}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def test_there_and_back_onto_other_shards(bucket: str, cache: Path, tmp_path: Path) -> None:
    ids, vectors = sample(50)
    local = write(tmp_path / "s", ids, vectors)
    place = bucket.format("faces")
    copied = copy_snapshot(local, place, 2)
    assert copied.num_shards == 2 and read_manifest(place) == copied
    assert not list(cache.glob("*/building/*"))
    with pytest.raises(DataError, match="holds files already"):
        copy_snapshot(local, place)
    back = copy_snapshot(place, tmp_path / "back", 3)
    assert (back.count, back.num_shards, back.digests) == (50, 3, copied.digests)
    with LocalStore(tmp_path / "back") as store:
        np.testing.assert_array_equal(store.fetch(ids), images_of(ids))


def test_served_and_changed_where_it_lies(bucket: str, cache: Path, tmp_path: Path) -> None:
    ids, vectors = sample(50)
    new, added = sample(4, seed=1)
    place = bucket.format("live")
    copy_snapshot(write(tmp_path / "s", ids, vectors), place)
    with LocalStore(place, num_shards=2) as store:
        np.testing.assert_array_equal(store.search(vectors, 1)[1][:, 0], ids)
        store.add(new, added, images_of(new))
        store.remove(ids[:5])
    with LocalStore(place) as store:
        assert store.count == 49
        np.testing.assert_array_equal(store.fetch(new), images_of(new))
        manifest = store.compact()
        assert (manifest.generation, manifest.count) == (1, 49)
        np.testing.assert_array_equal(store.search(added, 1)[1][:, 0], new)
    names = {name.split("-")[0] for name in Location(place).names()}
    assert names == {"manifest.json", "manifest", "shard", "changes", "versions"}
    assert {entry.directory for entry in manifest.shards} <= set(Location(place).names())


def test_a_half_copied_cache_is_mended_and_a_damaged_object_is_named(
    bucket: str, cache: Path, tmp_path: Path
) -> None:
    ids, vectors = sample(30)
    place = bucket.format("damaged")
    manifest = copy_snapshot(write(tmp_path / "s", ids, vectors), place)
    with LocalStore(place) as store:
        expected = store.fetch(ids)
    cached = next(cache.glob(f"*/cache/*/{manifest.shards[1].directory}/images.npy"))
    cached.write_bytes(cached.read_bytes()[:100])
    with LocalStore(place) as store:
        np.testing.assert_array_equal(store.fetch(ids), expected)
    (Location(place) / manifest.shards[1].directory / "images.npy").write_bytes(b"other")
    cached.unlink()
    with pytest.raises(CheckpointError, match="images.npy.*: differs from its checksum"):
        LocalStore(place)


def test_the_cache_keeps_no_old_generation(
    bucket: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, vectors = sample(30)
    place = bucket.format("cached")
    copy_snapshot(write(tmp_path / "s", ids, vectors, 1), place)
    with LocalStore(place) as store:
        store.remove(ids[:1])
        store.compact()
        assert len(list(cache.glob("*/cache/*/shard-*"))) == 2
    monkeypatch.setattr("rgcluster.store.changes.transfer.RETIRED_SECONDS", -1.0)
    with LocalStore(place) as store:
        assert store.count == 29
        assert [path.name for path in cache.glob("*/cache/*/shard-*")] == list(store.manifest.directories)


def test_a_second_writer_is_refused_on_s3(bucket: str, cache: Path, tmp_path: Path) -> None:
    ids, vectors = sample(20)
    place = bucket.format("contested")
    copy_snapshot(write(tmp_path / "s", ids, vectors, 1), place)
    with LocalStore(place) as first, LocalStore(place) as second:
        first.remove(ids[:1])
        start = time.monotonic()
        with pytest.raises(WriterConflict, match="another store .* writes to this snapshot"):
            second.remove(ids[1:2])
        assert time.monotonic() - start < 1


EVERY = int(os.environ.get("RGCLUSTER_TEST_EVERY_REQUEST", "12"))
"""One in so many requests of a compaction, which makes hundreds, fails in turn; every one takes an hour."""


@pytest.mark.parametrize(
    ("work", "fault", "stays", "every"),
    [
        ("add", "lost", False, 6),
        ("compact", "cut", True, 50),
        *(
            pytest.param(work, fault, stays, every, marks=pytest.mark.long)
            for work, every in (("add", 1), ("compact", EVERY))
            for fault, stays in (("cut", True), ("lost", False), ("lost", True))
        ),
    ],
)
def test_whichever_request_fails_the_store_opens_and_holds_what_was_acknowledged(
    server: str, bucket: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    work: str, fault: str, stays: bool, every: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)  # the next writer need not wait for the one that failed
    monkeypatch.setattr(orphans, "RETIRED_SECONDS", 0.0)  # and old files are removed amid the faults
    ids, vectors = sample(20)
    name = f"faults/{work}-{fault}-{stays}-{every}"
    place = bucket.format(name)
    copy_snapshot(write(tmp_path / "s", ids, vectors, 1), place)
    proxy = FaultyProxy(server, faults=(fault,))
    behind = place_of(proxy.address, f"stores/{name}", attempts=1)
    held, maybe, failed = set(ids.tolist()), set[int](), 0
    at = 1
    while True:
        new = np.array([at])
        if work == "compact":  # there must be something to do
            with LocalStore(place) as store:
                store.add(ids[:1], vectors[:1], images_of(ids[:1]))
        proxy.at, proxy.stays, proxy.met = 0, stays, Counter()
        store = LocalStore(behind)
        proxy.at, proxy.requests = at, 0
        try:
            if work == "add":
                store.add(new, vectors[:1] + 9, images_of(new))
                held.add(at)
            else:
                store.compact()
        except RGClusterError as error:
            assert len(str(error).splitlines()) == 1
            maybe.add(at)
            failed += 1
        reached = bool(proxy.met)
        proxy.at = 0
        store.close()
        manifest = verify_remote(place)
        with LocalStore(place) as store:
            found = set(store.ids().tolist())
            assert held <= found <= held | (maybe if work == "add" else set())
            everything = np.array(sorted(found))
            assert store.count == len(everything) and manifest == store.manifest
            np.testing.assert_array_equal(store.fetch(everything), images_of(everything))
        if not reached:
            break
        at += every
    proxy.close()
    assert not stays or failed >= (8 if work == "add" else 20) / every  # a request may be repeated unseen


def verify_remote(place: str) -> Manifest:
    """Check the size of every object that the manifest names; loading checks the rest."""
    manifest = read_manifest(place)
    for entry in manifest.shards:
        for name, file in entry.files.items():
            assert (Location(place) / entry.directory / name).size() == file.bytes
    return manifest
