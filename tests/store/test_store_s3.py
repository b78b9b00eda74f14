"""A store on S3: copied there and back, served from there, changed there. The server is moto's, in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3 import place as place_of
from s3 import s3_server
from stores import images_of, sample, write

from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, DataError
from rgcluster.store import LocalStore, copy_snapshot, read_manifest


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("stores") as address:
        yield place_of(address, "stores/{}")


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
    assert not [
        path for path in cache.iterdir() if path.name.startswith("rgcluster-store-") and any(path.iterdir())
    ]
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
    assert names <= {"manifest.json", "shard", "journal"}
    assert {entry.directory for entry in manifest.shards} <= set(Location(place).names())


def test_a_half_copied_cache_is_mended_and_a_damaged_object_is_named(
    bucket: str, cache: Path, tmp_path: Path
) -> None:
    ids, vectors = sample(30)
    place = bucket.format("damaged")
    manifest = copy_snapshot(write(tmp_path / "s", ids, vectors), place)
    with LocalStore(place) as store:
        expected = store.fetch(ids)
    cached = cache / "rgcluster-store" / manifest.digest / manifest.shards[1].directory / "images.npy"
    cached.write_bytes(cached.read_bytes()[:100])
    with LocalStore(place) as store:
        np.testing.assert_array_equal(store.fetch(ids), expected)
    (Location(place) / manifest.shards[1].directory / "images.npy").write_bytes(b"other")
    cached.unlink()
    with pytest.raises(CheckpointError, match="images.npy: differs from its checksum"):
        LocalStore(place)
