"""Shards without Ray: a writer's memory, what is recognised as written, manifests that are damaged, colliding names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import picture, with_images
from plain_shards import plain_shards

from rgcluster.base.storage import Location, digest_bytes
from rgcluster.data.index import ROWS_PER_GROUP
from rgcluster.data.shard_writer import (
    ShardOptions,
    _Part,
    _plan,
    _require_distinct,
    _write_part,
    write_shards,
)
from rgcluster.data.shards import ShardSet, open_shards
from rgcluster.data.sources import FolderTree, Tree, read_images, read_source
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES
from rgcluster.data.survey import _survey_shard
from rgcluster.errors import DataError

# --- writing a file ---


class Watching:
    """Images that all look alike, and the bytes of unfinished files each time that one is read."""

    def __init__(self, target: Path) -> None:
        self.content, self.target = picture(side=64, kind="PNG"), target
        self.drafts: list[int] = []

    def __str__(self) -> str:
        return "nowhere"

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        self.drafts.append(sum(file.stat().st_size for file in self.target.glob("*.tmp")))
        return self.content


def write(
    tree: Tree | Watching, names: list[str], target: Path
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Do the work of a writing task."""
    count = len(names)
    splits = ["test" if row % 3 == 2 else "train" for row in range(count)]
    part = _Part(
        "part-00000-of-00001-a.parquet", tree, names, np.arange(count), np.zeros((count, 2), np.int8), splits,
        ("A", "B"), None,
    )  # fmt: skip
    return _write_part._function(part, str(target))  # type: ignore[no-any-return]


def test_a_writer_holds_a_row_group_at_a_time(tmp_path: Path) -> None:
    tree = Watching(tmp_path)
    entry, faults = write(tree, [str(row) for row in range(3 * ROWS_PER_GROUP + 8)], tmp_path)
    size = ROWS_PER_GROUP * len(tree.content)
    flushed = [0.9 * size * group <= tree.drafts[group * ROWS_PER_GROUP] for group in range(4)]
    assert all(flushed) and tree.drafts[0] < size and not faults
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert entry == {
        "name": file.name, "rows": 200, "splits": {"test": 66, "train": 134}, "bytes": len(content),
        "sha256": digest_bytes(content),
    }  # fmt: skip
    metadata = pq.read_metadata(file)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert rows == [ROWS_PER_GROUP] * 3 + [8]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Watching):
        def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
            if name == "70":
                raise KeyboardInterrupt
            return super().read(name, limit)

    with pytest.raises(KeyboardInterrupt):
        write(Failing(tmp_path), [str(row) for row in range(80)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_whole_files_without_faults_are_kept(tmp_path: Path) -> None:
    source, target = with_images(tmp_path / "source", "a.jpg", "b.jpg", "c.jpg"), tmp_path / "target"
    names = ["a.jpg", "b.jpg", "c.jpg"]
    whole, _ = write(FolderTree(source), names, target)
    (file,) = target.iterdir()
    content, before = file.read_bytes(), file.stat().st_mtime_ns
    assert write(FolderTree(source), names, target) == (whole, []) and file.stat().st_mtime_ns == before
    footer = int.from_bytes(content[-8:-4], "little")
    for damaged in (b"", content[:-20], content[: -8 - footer] + b"\xff" * footer + content[-8:]):
        file.write_bytes(damaged)
        assert write(FolderTree(source), names, target) == (whole, [])
        assert digest_bytes(file.read_bytes()) == whole["sha256"]
    mended = (source / "b.jpg").read_bytes()
    (source / "b.jpg").write_bytes(b"no image")
    file.unlink()
    entry, faults = write(FolderTree(source), names, target)
    assert entry["rows"] == 2 and [fault["file"] for fault in faults] == [f"{source}/b.jpg"]
    (source / "b.jpg").write_bytes(mended)
    assert write(FolderTree(source), names, target) == (whole, [])


def test_two_files_with_one_row_id_are_named(tmp_path: Path) -> None:
    """The remedy works: the names of unlabelled images begin with `unlabelled` in every data set."""
    pets = with_images(tmp_path / "pets", "cat/1.jpg", "unlabelled/x.jpg")
    more = with_images(tmp_path / "more", "a.jpg", "x.jpg")
    with pytest.raises(DataError) as caught:
        write_shards(read_source(pets), Location(tmp_path / "shards"), None, read_images(more))
    assert str(caught.value) == (
        f"{pets}/unlabelled/x.jpg and {more}/x.jpg have the same row id; rename one of them, or a folder in its name"
    )
    (pets / "unlabelled").rename(pets / "others")
    parts = _plan(read_source(pets), ShardOptions(), "pets")
    parts += _plan(read_images(more), ShardOptions(), "pets/unlabelled", ("cat", "others"))
    _require_distinct(parts)


# --- reading ---


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    """Two files, one of them of two row groups."""
    return plain_shards(tmp_path / "shards", [["train"] * 70, ["test"] * 5], picture())


def test_a_survey_holds_a_row_group_at_a_time(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = replace(shards, checksums=tuple(shards.path(number).digest() for number in range(2)))
    groups: list[list[int] | None] = []
    read = ShardSet.read

    def watching(
        self: ShardSet, number: int, columns: list[str], chosen: list[int] | None = None
    ) -> pa.Table:
        if "image" in columns:
            groups.append(chosen)
        return read(self, number, columns, chosen)

    monkeypatch.setattr(ShardSet, "read", watching)
    found = _survey_shard._function(checked, 0)
    assert (found.rows, found.sizes, found.faults) == (70, Counter({(8, 8): 70}), [])
    assert groups == [[0], [1]]
    (fault,) = _survey_shard._function(shards, 1).faults
    assert fault == (str(shards.path(1)), "differs from its checksum; write the shards again")


def test_a_survey_names_the_images_that_it_cannot_read(tmp_path: Path) -> None:
    shards = plain_shards(tmp_path / "shards", [["train"] * 66], b"no image")
    found = _survey_shard._function(replace(shards, checksums=(shards.path(0).digest(),)), 0)
    assert found.rows == 66 and [name for name, _ in found.faults] == [
        f"{shards.path(0)}: é0/{row}.jpg" for row in range(66)
    ]


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no files": lambda manifest: manifest.pop("files"),
    "files are none": lambda manifest: manifest.update(files=None),
    "files are names": lambda manifest: manifest.update(files=["a.parquet"]),
    "no bytes": lambda manifest: manifest["files"][0].pop("bytes"),
    "no splits": lambda manifest: manifest["files"][1].pop("splits"),
    "odd splits": lambda manifest: manifest["files"][1].update(splits=5),
    "no digest": lambda manifest: manifest.pop("digest"),
    "odd preparation": lambda manifest: manifest.update(prepared={"side": 3}),
    "odd faces": lambda manifest: manifest.update(faces={"side": 3}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_manifest_is_one_line(shards: ShardSet, name: str) -> None:
    file = Location(shards.location) / "manifest.json"
    manifest = json.loads(file.read_text())
    DAMAGE[name](manifest)
    file.write_json(manifest)
    with pytest.raises(DataError) as caught:
        open_shards(Location(shards.location))
    message = str(caught.value)
    assert message.startswith(f"{file}: damaged (") and "\n" not in message
    assert message.endswith("; remove it and run `rgcluster data shard` again, which keeps the files")
