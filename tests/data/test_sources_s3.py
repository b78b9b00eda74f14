"""Sources in an object store, read in place; each against its copy on a disk."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from files import csv, pack, picture, with_images
from s3 import FaultyProxy, place, s3_server
from tiny import ATTRIBUTES

from rgcluster.base.storage import Location
from rgcluster.cli import sharding
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.shards import QUARANTINE
from rgcluster.data.sources import read_images, read_source
from rgcluster.data.sources.trees.remote import RemoteTree
from rgcluster.errors import DataError, StorageError


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server("sources") as address:
        yield address


def upload(folder: Path, server: str) -> str:
    """Copy a folder into the bucket, below its own name; return its address."""
    address = place(server, f"sources/{folder.name}")
    for path in folder.rglob("*"):
        if path.is_file():
            (Location(address) / str(path.relative_to(folder))).write_bytes(path.read_bytes())
    return address


def classes(folder: Path) -> Path:
    names = [
        f"photos/{split}/{kind}/{n}.jpg" for split in ("train", "val") for kind in "ab" for n in range(3)
    ]
    with_images(folder, *names, "photos/train/a/camera")  # an image without a suffix
    (folder / "photos" / "notes.txt").write_text("no image")
    return folder


def plain_classes(folder: Path) -> Path:
    return with_images(folder, *(f"{kind}/{n}.jpg" for kind in ("cat", "dog") for n in range(6)))


def celeba(folder: Path) -> Path:
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    with_images(folder / "img_align_celeba", *names)
    signs = [["1" if (row >> column) & 1 else "-1" for column in range(7)] for row in range(6)]
    rows = [" ".join([name, *row]) for name, row in zip(names, signs, strict=True)]
    csv(folder / "list_attr_celeba.txt", "6", " ".join(ATTRIBUTES), *rows)
    csv(folder / "list_eval_partition.txt", *(f"{name} {row % 3}" for row, name in enumerate(names)))
    return folder


def table(folder: Path) -> Path:
    names = [f"sub/{number}.png" for number in range(5)]
    with_images(folder, *names)
    csv(
        folder / "metadata.csv",
        "file_name,Male,Young",
        *(f"{name},{n % 2},1" for n, name in enumerate(names)),
    )
    return folder


SOURCES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "classes": (classes, "e2df88c059eef6b9"),
    "plain_classes": (plain_classes, "435d9bc962961d6c"),
    "celeba": (celeba, "a3087cade533761c"),
    "table": (table, "b038fb15b727f151"),
}
"""Sources, and the digests of their plans in every version: shards written by an earlier one are recognised."""


@pytest.mark.parametrize("name", SOURCES)
def test_shards_are_those_of_a_copy_on_a_disk(
    ray_session: None, server: str, tmp_path: Path, name: str
) -> None:
    make, digest = SOURCES[name]
    folder = make(tmp_path / name)
    broken = sorted(folder.rglob("*.[jp][pn]g"))[2]
    broken.write_bytes(b"no image")
    with_images(folder, "@eaDir/thumbnail.jpg", ".hidden/deep/x.jpg", "._x.jpg")
    address = upload(folder, server)
    options = ShardOptions("x", max_unreadable=0.5)
    local, remote = read_source(folder), read_source(address)
    there = write_shards(remote, Location(tmp_path / "there"), options)
    here = write_shards(local, Location(tmp_path / "here"), options)
    assert there.plan_digest == here.plan_digest == digest
    assert there.digest == here.digest  # of the same bytes
    assert remote.left_out == local.left_out and remote.layout == local.layout and remote.name == local.name
    assert there.index().file_names == here.index().file_names
    assert np.array_equal(there.index().labels, here.index().labels)
    (fault,) = (Location(tmp_path / "there") / QUARANTINE).read_json()
    assert fault["file"] == f"s3://sources/{name}/{broken.relative_to(folder)}"
    assert "cannot identify image file" in fault["reason"]


def test_the_commands_read_from_an_object_store(ray_session: None, server: str, tmp_path: Path) -> None:
    folder = plain_classes(tmp_path / "pets")
    address = upload(folder, server)
    (line,) = sharding.shard(address, str(tmp_path / "shards"), ShardOptions(), unlabelled=address)
    assert "24 images in 2 shards" in line and "layout classes, 2 classes (cat, dog)" in line
    (Location(address) / "cat/3.jpg").write_bytes(b"")
    survey = sharding.check(address, "auto", None, None, None)
    assert survey.faults == [("cat/3.jpg", "an empty file; fetch it again")]
    assert survey.layout == "classes" and len(survey.labels) == 12 and survey.sizes == {(8, 8): 11}


def test_a_table_and_its_images_in_an_object_store(server: str, tmp_path: Path) -> None:
    folder = with_images(tmp_path / "shop", "photos/a.jpg", "photos/b.jpg")
    csv(folder / "labels.csv", "file,A,B", "a.jpg,1,0", "b.jpg,0,1")
    address = Location(upload(folder, server))
    beside = read_source(str(address / "labels.csv"))
    assert beside.file_names == ["photos/a.jpg", "photos/b.jpg"] and beside.name == "labels"
    for where in (str(address / "photos"), folder / "photos"):
        apart = read_source(str(address / "labels.csv"), images=where)
        assert apart.file_names == ["a.jpg", "b.jpg"] and apart.labels.tolist() == [[1, 0], [0, 1]]
        assert apart.tree.read("a.jpg") == (folder / "photos" / "a.jpg").read_bytes()
    plain = read_images(str(address / "photos"))
    assert plain.layout == "images" and plain.file_names == ["a.jpg", "b.jpg"]


def test_files_are_listed_once_and_read_in_part(server: str, tmp_path: Path) -> None:
    upload(with_images(tmp_path / "tree", "b.jpg", "a/@eaDir/x/1.jpg", "a/@eaDir/2.jpg", "a/1.jpg"), server)
    proxy = FaultyProxy(server)
    tree = RemoteTree(Location(place(proxy.address, "sources/tree", attempts=1)))
    assert tree.names() == ["a/1.jpg", "a/@eaDir/", "b.jpg"] and proxy.requests == 1
    copy = pickle.loads(pickle.dumps(tree))
    assert copy.read("b.jpg") == picture() and copy.head("b.jpg", 3) == b"\xff\xd8\xff"
    with pytest.raises(FileNotFoundError):
        tree.read("c.jpg")
    with pytest.raises(OSError, match="more than 0 MiB"):
        tree.read("b.jpg", 8)
    proxy.down = True  # which says nothing about the image
    with pytest.raises(StorageError, match=r"s3://sources/tree/b.jpg\S*: the store does not answer"):
        tree.read("b.jpg")
    proxy.close()


def test_what_cannot_be_read_there_is_one_line(server: str, tmp_path: Path) -> None:
    folder = csv(tmp_path / "archives" / "notes.txt", "nothing").parent
    pack(plain_classes(tmp_path / "pets"), folder / "pets.zip")
    archives = Location(upload(folder, server))
    packed = celeba(tmp_path / "packed")
    pack(packed / "img_align_celeba", packed / "img_align_celeba.zip", below="img_align_celeba/")
    shutil.rmtree(packed / "img_align_celeba")
    for address, words in (
        (place(server, "nowhere/x"), "s3://nowhere/x?.*: no such bucket or folder; correct the address"),
        (place(server, "sources/nowhere"), "s3://sources/nowhere?.*: no such bucket or folder"),
        (place(server, "sources/nowhere.csv"), "s3://sources/nowhere.csv?.*: no such file"),
        (
            str(archives / "pets.zip"),
            "pets.zip?.*: archives in an object store cannot be read in place; unpack",
        ),
        (str(archives / "notes.txt"), "notes.txt?.*: expected a folder of images or a table"),
        (str(archives), "archives?.*: no images there, but archives; unpack pets.zip$"),
        (
            upload(packed, server),
            "packed/img_align_celeba.zip?.*: archives in an object store cannot be read",
        ),
    ):
        with pytest.raises(DataError) as caught:
            read_source(address)
        message = str(caught.value)
        assert re.search(words, message) and "\n" not in message, message
