"""The files of a store: names that are trusted, directories that are private, leftovers that are removed."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from stores import images_of, sample, write
from typer.testing import CliRunner

from rgcluster.base.locks.private import private_directory
from rgcluster.base.storage import Location
from rgcluster.cli.store import store_app
from rgcluster.errors import CheckpointError, StorageError
from rgcluster.store import LocalStore, read_manifest, verify
from rgcluster.store.actors import telemetry
from rgcluster.store.actors.telemetry import ShardMeter
from rgcluster.store.disk import orphans
from rgcluster.store.disk.orphans import remove_orphans
from rgcluster.store.disk.versions import Version, Versions


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write(tmp_path / "s", *sample(60), 2)


@pytest.mark.parametrize("name", ["../../home", "/etc", "shard-00000-0123abcd/..", "", "indexes"])
def test_a_manifest_names_no_directory_outside_its_own(place: Path, name: str) -> None:
    whole = json.loads((place / "manifest.json").read_text())
    shards = [{**whole["shards"][0], "directory": name}]
    for content in ({**whole, "shards": shards}, {**whole, "journal": name or "x"}):
        (place / "manifest.json").write_text(json.dumps(content))
        for attempt in (read_manifest, LocalStore, verify):
            with pytest.raises(CheckpointError, match="damaged .directory"):
                attempt(place)


def test_a_version_names_no_manifest_outside_and_a_damaged_one_is_an_error(place: Path) -> None:
    versions = Versions(Location(place))
    assert versions.follow(Version(), manifest="../manifest.json")
    with pytest.raises(CheckpointError, match=r"versions/000000000001.json: damaged"):
        LocalStore(place)
    (place / "versions" / "000000000001.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"versions/000000000001.json: damaged"):
        read_manifest(place)


def test_versions_follow_each_other(place: Path) -> None:
    first, second = Versions(Location(place)), Versions(Location(place))
    version = first.read()
    assert first.follow(version, owner="a") and not second.follow(version, owner="b")
    assert second.read().owner == "a"
    for _ in range(20):
        second.seal()
    assert len(list((place / "versions").iterdir())) < 10
    # A process that slept through all of that.
    assert first.follow(version, owner="c") is None and first.read().owner == "a"
    assert first.newest() == 21 and read_manifest(place).count == 60


def test_replaced_generations_and_leftovers_go_after_a_while(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _ = sample(60)
    (place / "shard-00000-deadbeef").mkdir()
    (place / "shard-00000-deadbeef" / "ids.npy").write_bytes(b"half")
    (place / "notes").mkdir()
    (place / "manifest-deadbeef.json").write_text("{}")
    manifests = [read_manifest(place)]
    now = time.time()
    for turn in range(3):
        with LocalStore(place) as store:
            store.remove(ids[turn : turn + 1])
            manifests.append(store.compact())

    def held() -> set[str]:
        return {path.name for path in place.iterdir()}

    assert set().union(*(manifest.directories for manifest in manifests)) <= held()
    assert len(list((place / "changes").iterdir())) == 3
    monkeypatch.setattr(orphans.time, "time", lambda: now + orphans.RETIRED_SECONDS + 600)
    remove_orphans(Location(place))
    assert not held() & set().union(*(manifest.directories for manifest in manifests[:-1]))
    assert {"shard-00000-deadbeef", "manifest-deadbeef.json"} <= held()
    assert manifests[-1].directories <= held() and not list((place / "changes").iterdir())
    assert verify(Location(place)) == read_manifest(place, "manifest.json") == manifests[-1]
    monkeypatch.setattr(orphans.time, "time", lambda: now + orphans.ORPHAN_SECONDS + 600)
    remove_orphans(Location(place))
    assert held() - manifests[-1].directories - {read_name(place), "indexes"} == {
        "manifest.json", "notes", "versions", "changes"
    }  # fmt: skip
    with LocalStore(place) as store:
        np.testing.assert_array_equal(store.fetch(ids[3:]), images_of(ids[3:]))


def read_name(place: Path) -> str:
    return Versions(Location(place)).read().manifest


def test_nothing_of_a_damaged_store_is_removed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(place.iterdir())
    (place / "manifest.json").write_text("{")
    monkeypatch.setattr(orphans.time, "time", lambda: time.monotonic() + 1e10)
    remove_orphans(Location(place))
    assert sorted(place.iterdir()) == before


def test_a_private_directory_belongs_to_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = private_directory("cache/0123")
    assert made == private_directory("cache/0123") and made.stat().st_mode & 0o777 == 0o700
    root = tmp_path / f"rgcluster-store-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "file").write_text("")
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    for name in ("linked", "linked/x", "open", "open/x", "file"):
        with pytest.raises(StorageError, match="not a directory that only this user may enter"):
            private_directory(name)
    root.chmod(0o755)
    with pytest.raises(StorageError, match=f"{root}: not a directory"):
        private_directory("cache")


def test_a_manifest_of_a_later_format_is_refused(place: Path) -> None:
    whole = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**whole, "schema": 4}))
    with pytest.raises(CheckpointError, match="schema 4, this version reads 3"):
        LocalStore(place)


def test_verify_reads_every_file(place: Path) -> None:
    ids, vectors = sample(60)
    with LocalStore(place) as store:
        store.add(ids[:2], vectors[:2], images_of(ids[:2]))
    shown = CliRunner().invoke(store_app, ["verify", "--at", str(place)])
    assert shown.exit_code == 0 and "60 images, all files match" in " ".join(shown.output.split())
    (place / "indexes").mkdir(exist_ok=True)
    (place / "indexes" / "a.faiss").write_bytes(b"damaged")
    (place / "indexes" / "a.json").write_text(json.dumps({"sha256": "0" * 64}))
    failed = CliRunner().invoke(store_app, ["verify", "--at", str(place)]).exception
    assert isinstance(failed, CheckpointError) and "a.faiss: differs from its checksum; remove it" in str(
        failed
    )
    change = next(place.glob("changes/*/*.npz"))
    content = bytearray(change.read_bytes())
    content[len(content) // 2] ^= 1
    change.write_bytes(content)
    failed = CliRunner().invoke(store_app, ["verify", "--at", str(place)]).exception
    assert isinstance(failed, CheckpointError) and f"{change.name}: damaged" in str(failed)
    image = place / read_manifest(place).shards[1].directory / "images.npy"
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="images.npy: differs from its checksum"):
        verify(place)


def test_a_storage_error_does_not_end_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_EVERY", 0.01)
    meter = ShardMeter.__new__(ShardMeter)
    reported = threading.Event()
    meter._vectors = SimpleNamespace(set=lambda count: count == 7 and reported.set())  # type: ignore[assignment]
    meter._memory = meter._restarts = SimpleNamespace(set=lambda value: None)  # type: ignore[assignment]
    meter._times_restarted = 0
    failures = [StorageError("down"), OSError("gone")]

    def info() -> dict[str, int]:
        if failures:
            raise failures.pop()
        return {"count": 7, "memory": 1}

    meter.watch(info)
    assert reported.wait(10)
