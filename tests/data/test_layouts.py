"""Layouts as people's files have them: recognised without doubt, or refused with the option that resolves it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import unicodedata
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import csv, image_file, pack, picture, tar, with_images
from tiny import write_celeba

from rgcluster.base.attributes import parse_target
from rgcluster.cli import sharding
from rgcluster.data.shard_writer import ShardOptions
from rgcluster.data.shards import ShardSet
from rgcluster.data.sources import (
    Columns,
    ImageTable,
    TarTree,
    guess_layout,
    read_celeba,
    read_images,
    read_source,
)
from rgcluster.data.splits import assign_splits, row_id
from rgcluster.data.summary import describe_shards
from rgcluster.data.survey import Survey
from rgcluster.errors import ConfigError, DataError

ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"


def same_labels(first: ImageTable, second: ImageTable) -> None:
    assert first.attributes == second.attributes and first.splits == second.splits
    assert np.array_equal(first.labels, second.labels)
    assert [first.tree.read(name) for name in first.file_names] == [
        second.tree.read(name) for name in second.file_names
    ]


def counts(table: ImageTable) -> dict[str, int]:
    return dict(Counter(table.splits or []))


# --- releases of CelebA ---


def kaggle(plain: Path, folder: Path) -> Path:
    """CelebA as Kaggle hands it out: the image folder doubled, tables as .csv, and tables of other things."""
    shutil.copytree(plain / "img_align_celeba", folder / "img_align_celeba" / "img_align_celeba")
    lines = [line.split() for line in (plain / f"{ATTRIBUTES}.txt").read_text().splitlines()[1:]]
    csv(
        folder / f"{ATTRIBUTES}.csv", ",".join(["image_id", *lines[0]]), *(",".join(row) for row in lines[1:])
    )
    rows = [line.split() for line in (plain / f"{PARTITION}.txt").read_text().splitlines()]
    csv(folder / f"{PARTITION}.csv", "image_id,partition", *(",".join(row) for row in rows))
    csv(folder / "list_bbox_celeba.csv", "image_id,x_1", "000001.jpg,95")
    return folder


def test_celeba_from_kaggle(tmp_path: Path) -> None:
    expected = read_celeba(write_celeba(tmp_path / "plain", 10))
    folder = kaggle(tmp_path / "plain", tmp_path / "kaggle")
    for path in (
        folder,
        pack(folder, tmp_path / "archive.zip"),
        pack(folder, tmp_path / "b.zip", below="a/b/"),
    ):
        table = read_source(path)
        assert table.layout == "celeba" and table.file_names == expected.file_names
        same_labels(table, expected)
        assert [name.rsplit("/")[-1] for name in table.left_out["no images"]] == ["list_bbox_celeba.csv"]


def test_celebamask_hq_with_its_masks(tmp_path: Path) -> None:
    folder = tmp_path / "CelebAMask-HQ"
    with_images(folder / "CelebA-HQ-img", "0.jpg", "1.jpg", "10.jpg")
    with_images(folder / "CelebAMask-HQ-mask-anno" / "0", "00000_hair.png", "00001_nose.png")
    table = "3\nSmiling Male \n0.jpg  -1  1\n1.jpg  1 -1\n10.jpg  1  1\n"
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text(table)
    for path in (folder, tmp_path, pack(tmp_path / "CelebAMask-HQ", tmp_path / "x.zip")):
        read = read_source(path)
        assert read.layout == "celeba" and read.attributes == ("Smiling", "Male")
        assert read.file_names == ["0.jpg", "1.jpg", "10.jpg"] and read.labels.tolist() == [
            [0, 1],
            [1, 0],
            [1, 1],
        ]
        assert any("mask-anno" in name for names in read.left_out.values() for name in names)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "celeba")
    expected = read_celeba(folder)
    for name in (f"{ATTRIBUTES}.txt", f"{PARTITION}.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    same_labels(read_source(folder), expected)
    for encoding in ("utf-8-sig", "utf-16"):
        path = folder / "img_align_celeba" / "labels.csv"
        path.write_text("file,Alt\n000001.jpg,1\n000002.jpg,-1\n", encoding=encoding)
        table = read_source(path)
        assert table.attributes == ("Alt",) and table.labels.tolist() == [[1], [0]]


def test_a_class_archive_beside_celebas_tables_is_no_celeba(tmp_path: Path) -> None:
    write_celeba(tmp_path / "celeba")
    shutil.copy(tmp_path / "celeba" / f"{ATTRIBUTES}.txt", tmp_path)
    pets = with_images(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    assert read_source(pack(pets, tmp_path / "pets.zip")).attributes == ("cat", "dog")


# --- folders of classes ---


@pytest.mark.parametrize(
    ("names", "classes", "splits"),
    [
        ("x/pets/cat/1 x/pets/dog/1", "cat dog", ""),
        ("pets/Train/cat/1 pets/TEST/dog/1", "cat dog", "test train"),
        ("training_set/cat/1 validation/dog/1 Test-Set/cat/2", "cat dog", "test train val"),
        ("train/train/cat/1 train/train/dog/1 test/test/dog/2", "cat dog", "test train train"),
        ("trainA/1 trainB/1 testA/2 testB/2", "A B", "test test train train"),
        ("h2z/train_A/1 h2z/train_B/1 h2z/val_A/2", "A B", "train train val"),
        ("cat/train/1 cat/test/2 dog/train/1 dog/test/2", "cat dog", "test train test train"),
        ("cat/2019/1 dog/2020/1", "cat dog", ""),
        ("train/cat/1 train/dog/1", "cat dog", "train train"),
        ("train/images/cat/1 train/images/dog/1 test/Images/cat/2", "cat dog", "test train train"),
    ],
    ids=[
        "wrapped", "any case", "long names", "doubled", "unpaired", "unpaired below", "inside", "deep",
        "train alone", "idle folders",
    ],
)  # fmt: skip
def test_classes_and_splits_as_people_name_them(
    tmp_path: Path, names: str, classes: str, splits: str
) -> None:
    folder = with_images(tmp_path / "data", *(f"{name}.jpg" for name in names.split()))
    image_names = ("README.md", "__MACOSX/._cat", ".DS_Store")
    for name in image_names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for path in (
        folder,
        pack(folder, tmp_path / "data.zip"),
        pack(folder, tmp_path / "again.zip", below="one/"),
    ):
        table = read_source(path)
        assert (table.layout, table.attributes) == ("classes", tuple(classes.split()))
        assert table.splits == (splits.split() or None)
        assert table.one_hot and (table.labels.sum(axis=1) == 1).all()
        assert len(table.left_out["leftovers of other programs"]) == 2
        assert len(table.left_out["no images"]) == 1
        for name, label in zip(table.file_names, table.labels, strict=True):
            assert table.attributes[int(label.argmax())] in name.replace("train", "").replace("test", "")


LEFTOVERS = (
    "__MACOSX/cat/._1.jpg", "cat/._1.jpg", ".DS_Store", "cat/.DS_Store", "Thumbs.db", "cat/desktop.ini",
    "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "dog/.ipynb_checkpoints/1-checkpoint.jpg", "#recycle/old.jpg",
    ".git/HEAD", "cat/.thumbnails/1.jpg", "lost+found/x.jpg", "$RECYCLE.BIN/y.jpg",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_leftovers_of_other_programs_are_no_classes_and_no_images(tmp_path: Path, kind: str) -> None:
    folder = with_images(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    for name in LEFTOVERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(3))
    source = folder
    if kind == "zip":
        source = pack(folder, tmp_path / "pets.zip")
    elif kind == "tar":
        files = [
            (str(path.relative_to(folder)), path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        source = tar(tmp_path / "pets.tar", files)
    table = read_source(source)
    assert table.file_names == ["cat/1.jpg", "dog/1.jpg"] and table.attributes == ("cat", "dog")
    left = table.left_out["leftovers of other programs"]
    assert list(table.left_out) == ["leftovers of other programs"] and len(left) == len(LEFTOVERS)
    assert {name.split("/")[0] for name in left} >= {"__MACOSX", "#recycle", ".git", "lost+found"}


def test_an_accent_is_the_same_class_however_it_is_written(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("test", "NFD")):
        for name in ("Züge", "Bäume"):
            image_file(tmp_path / "data" / split / unicodedata.normalize(form, name) / f"{split}.jpg")
    table = read_source(tmp_path / "data")
    assert table.attributes == ("Bäume", "Züge") and counts(table) == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["train/a/1.jpg", "test/a/1.jpg", "extra/b/1.jpg"], r"names a split and extra does not; .* --layout classes"),
        (["bus/1.jpg", "car/1.jpg", "train/1.jpg"], r"train names a split and bus does not; .* --layout classes"),
        (["cat/1.jpg", "dog/1.jpg", "cover.jpg"], r"cover.jpg lies beside the folders cat and dog; .* --layout images"),
        (["train/1.jpg", "test/2.jpg"], r"lies in the folder of a split, but in no class folder; .* --layout images"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/2.jpg"], r"2.jpg: lies in the folder of a split, but in no class"),
        (["a,b/1.jpg", "c/1.jpg"], r"'a,b' cannot name an attribute or class: no commas"),
        (["-young/1.jpg", "old/1.jpg"], r"'-young' cannot name an attribute or class"),
        (["train_horse/1.jpg", "train_zebra/1.jpg", "test_horse/2.jpg"], r"test_horse and train_horse could name spl"),
        (["traina/1.jpg", "trainb/1.jpg", "testa/2.jpg"], r"could name splits; rename them .* --layout classes"),
        (["A_train/1.jpg", "B_train/1.jpg", "A_test/2.jpg"], r"A_test and A_train could name splits"),
        (["train2017/1.jpg", "val2017/1.jpg"], r"train2017 and val2017 could name splits"),
        (["train/1.jpg", "trainA/1.jpg"], r"train and trainA could name splits"),
        (["images/1.jpg", "masks/1.png"], r"images hardly names a class, so masks beside it .* --layout classes"),
        (["photos/Img/1.jpg", "photos/depth/1.png"], r"Img hardly names a class, so depth beside it"),
        (["fold1/cat/1.jpg", "fold1/dog/1.jpg", "fold2/cat/1.jpg", "fold2/dog/1.jpg"],
         r"cat and dog lie in each of fold1 and fold2; give --layout classes if fold1 and fold2 are the classes, or"),
        (["train/Cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg"], r"the classes 'Cat' and 'cat' differ in case alone"),
    ],
)  # fmt: skip
def test_what_is_open_to_doubt_is_refused_with_what_resolves_it(
    tmp_path: Path, names: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_source(with_images(tmp_path / "data", *names))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    "names",
    [
        ["train_station/1.jpg", "bus_station/1.jpg"], ["trains/1.jpg", "buses/1.jpg"], ["a/1.jpg", "A/1.jpg"],
        ["cat/indoors/1.jpg", "dog/outdoors/1.jpg"], ["images/1.jpg", "images/2.jpg"],
    ],
    ids=lambda names: names[0],
)  # fmt: skip
def test_what_only_resembles_a_doubt_is_read(tmp_path: Path, names: list[str]) -> None:
    table = read_source(with_images(tmp_path / "data", *names))
    assert len(table.attributes) == len(
        {name.split("/")[0] for name in names if not name.startswith("images")}
    )


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["train2017/1.jpg", "val2017/1.jpg"], ("train2017", "val2017")),
        (["images/1.jpg", "masks/1.png"], ("images", "masks")),
        (["2019/cat/1.jpg", "2019/dog/1.jpg", "2020/cat/1.jpg", "2020/dog/1.jpg"], ("2019", "2020")),
    ],
)
def test_the_layout_that_is_named_is_taken(
    tmp_path: Path, names: list[str], classes: tuple[str, ...]
) -> None:
    folder = with_images(tmp_path / "data", *names)
    assert read_source(folder, "classes").attributes == classes
    assert len(read_source(folder, "images")) == len(names)


def test_a_class_without_an_image_is_said(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    (folder / "bird").mkdir()
    table = read_source(folder)
    assert table.attributes == ("cat", "dog") and table.left_out == {"empty folders": ("bird/",)}
    (folder / "bird" / "1.txt").write_text("")
    assert read_source(folder).left_out == {"no images": ("bird/1.txt",)}


def test_the_option_resolves_it(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert read_source(folder, "classes").attributes == ("bus", "car", "train")
    assert read_source(folder, "images").layout == "images"


# --- tables beside images ---


@pytest.mark.parametrize(
    ("table", "images"),
    [
        ("labels.csv", "{}"), ("labels.csv", "images/{}"), ("x/labels.csv", "x/{}"), ("x/y/l.csv", "x/y/photos/{}"),
        ("labels/l.csv", "images/{}"), ("metadata.csv", "{}"),
    ],
)  # fmt: skip
def test_a_table_beside_the_images_is_read(tmp_path: Path, table: str, images: str) -> None:
    folder = with_images(tmp_path / "photos", *(images.format(f"{number}.jpg") for number in range(3)))
    csv(folder / table, "file_name,Old,split", "0.jpg,1,train", "1.jpg,0,test", "2.jpg,-1,train")
    for path in (folder, pack(folder, tmp_path / "photos.zip")):
        read = read_source(path)
        assert (read.layout, read.attributes, read.splits) == ("table", ("Old",), ["train", "test", "train"])
        assert read.labels.tolist() == [[1], [0], [0]] and not read.left_out
        assert [read.tree.read(name) for name in read.file_names]


def test_metadata_of_each_split(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "train/a.jpg", "train/b.jpg", "test/c.jpg")
    csv(folder / "train" / "metadata.csv", "file_name,Old", "a.jpg,1", "b.jpg,0")
    csv(folder / "test" / "metadata.csv", "file_name,Old", "c.jpg,1")
    table = read_source(folder)
    assert table.file_names == ["test/c.jpg", "train/a.jpg", "train/b.jpg"]
    assert table.splits == ["test", "train", "train"] and table.labels.tolist() == [[1], [1], [0]]


def test_metadata_as_json_lines(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "000001", "b.jpg")
    lines = [{"file_name": "000001", "Old": True}, {"file_name": "b.jpg", "Old": False}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = read_source(folder)
    assert table.file_names == ["000001", "b.jpg"] and table.labels.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("tables", "names", "words"),
    [
        (["train.csv", "test.csv"], ["a.jpg"], r"the tables test.csv, train.csv lie beside its images; give the one"),
        (["labels.csv"], ["cat/a.jpg", "dog/b.jpg"], r"could be classes; give --layout table .* or --layout classes"),
        (["labels.csv"], ["a.jpg", "b.jpg"], r"b.jpg: has no row in .*labels.csv; .* or give the table itself"),
    ],
)  # fmt: skip
def test_tables_that_leave_doubt(tmp_path: Path, tables: list[str], names: list[str], words: str) -> None:
    folder = with_images(tmp_path / "data", *names)
    for name in tables:
        csv(folder / name, "file,A", "a.jpg,1")
    with pytest.raises(DataError, match=words):
        read_source(folder)
    if len(tables) > 1:
        with pytest.raises(DataError, match="unpack the one to read and give it, with --images"):
            read_source(pack(folder, tmp_path / "data.zip"))


def test_a_table_decides_what_folders_leave_open(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "2019/a.jpg", "2020/b.jpg", "c.jpg")
    csv(folder / "labels.csv", "file,A", "2019/a.jpg,1", "2020/b.jpg,0", "c.jpg,1")
    assert read_source(folder).labels.tolist() == [[1], [0], [1]]
    (folder / "c.jpg").unlink()
    csv(folder / "labels.csv", "file,A", "2019/a.jpg,1", "2020/b.jpg,0")
    assert read_source(folder, "table").labels.tolist() == [[1], [0]]
    assert read_source(folder, "classes").attributes == ("2019", "2020")


def test_folders_of_splits_count_where_the_table_names_none(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "photos/train/a.jpg", "photos/Test/b.jpg")
    rows = ["file_name,A", "photos/train/a.jpg,1", "photos/Test/b.jpg,0"]
    csv(folder / "metadata.csv", *rows)
    assert read_source(folder).splits == ["train", "test"]
    csv(folder / "metadata.csv", "file_name,A,split", f"{rows[1]},val", f"{rows[2]},train")
    assert read_source(folder).splits == ["val", "train"]
    image_file(folder / "more" / "c.jpg")
    csv(folder / "metadata.csv", *rows, "more/c.jpg,0")
    with pytest.raises(
        DataError, match=r"in photos/Test/, which names a split, and in more/, .* column `split`"
    ):
        read_source(folder)


def test_one_folder_of_a_split_says_nothing(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "train/a.jpg", "train/b.jpg")
    assert read_source(csv(folder / "t.csv", "file,A", "train/a.jpg,1", "train/b.jpg,0")).splits is None


def test_the_command_for_one_of_several_tables_works(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "images/a.jpg", "images/b.jpg")
    for name in ("train", "test"):
        csv(folder / f"{name}.csv", "file,A", "images/a.jpg,1")
    with pytest.raises(DataError, match=r"give the one to read, `rgcluster data shard .*/test.csv ...`"):
        read_source(folder)
    table = read_source(folder / "test.csv")
    assert len(table) == 1 and table.left_out["images without a row"] == ("images/b.jpg",)
    (folder / "tables").mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.csv").rename(folder / "tables" / f"{name}.csv")
    with pytest.raises(DataError, match=rf"/tables/test.csv ... --images {folder}`"):
        read_source(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a.jpg,1\n", r"its first line names the file 'a.jpg', not columns; add a line of their names"),
        ("file,A\na.jpg,1\n".encode("utf-16-le"), "not a text file in UTF-8"),
        (b"file,A\n\0a.jpg,1\n", "not a text file in UTF-8"),
        (b"file,fold,A\na.jpg,train,1\n", r"column 'fold' holds 'train'; .* add --split-column 'fold'"),
    ],
    ids=["no header", "utf-16 without its mark", "zero bytes", "split by another name"],
)
def test_tables_that_are_not_what_they_seem(tmp_path: Path, content: bytes, words: str) -> None:
    folder = with_images(tmp_path / "data", "a.jpg")
    (folder / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_source(folder)


def test_a_workbook_is_named(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg")
    (folder / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"labels.xlsx: a workbook cannot be read as a table; save it as .csv"
    ):
        read_source(folder)
    assert read_source(folder, "images").left_out == {"no images": ("labels.xlsx",)}


def test_a_table_given_alone_leaves_out_what_it_does_not_list(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg", "b.jpg", "c.jpg")
    table = read_source(csv(folder / "labels.csv", "file,A", "a.jpg,1", "c.jpg,0"))
    assert table.left_out == {"images without a row": ("b.jpg",)}


# --- what tables hold ---


def test_names_of_files_stay_the_text_that_they_are(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "000001", "1e5", "007.jpg", "true")
    path = csv(folder / "t.csv", "image_id;Old", "000001;1", "1e5;-1", "007.jpg;True", " true ;0")
    table = read_source(path)
    assert table.file_names == ["000001", "1e5", "007.jpg", "true"]
    assert table.labels.tolist() == [[1], [0], [1], [0]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators(tmp_path: Path, separator: str) -> None:
    folder = with_images(tmp_path / "data", "a.jpg", "b.jpg")
    rows = ["file,Old, Young", "a.jpg,1,0", "b.jpg,0,1"]
    table = read_source(csv(folder / "t.csv", *(row.replace(",", separator) for row in rows)))
    assert table.attributes == ("Old", "Young") and table.labels.tolist() == [[1, 0], [0, 1]]


def test_a_separator_at_the_end_of_every_line_is_no_attribute(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg", "b.jpg")
    csv(folder / "l.csv", "file;Old;", "a.jpg;1;", "b.jpg;0;")
    assert read_source(folder).attributes == ("Old",)


def test_row_numbers_of_pandas_are_no_attribute(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg", "b.jpg")
    assert read_source(csv(folder / "t.csv", ",file,Old", "0,a.jpg,1", "1,b.jpg,0")).attributes == ("Old",)


def test_a_column_of_classes(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg", "b.jpg", "c.jpg")
    path = csv(folder / "t.csv", "file,breed,note", "a.jpg,cat,x", "b.jpg,dog,y", "c.jpg,cat,z")
    with pytest.raises(
        DataError, match=r"column 'breed' holds 'cat'; .* one of class names with --class-column"
    ):
        read_source(path)
    table = read_source(path, columns=Columns(classes="breed"))
    assert table.one_hot and table.attributes == ("cat", "dog")
    assert table.labels.tolist() == [[1, 0], [0, 1], [1, 0]]
    with pytest.raises(DataError, match="no column 'bread': did you mean 'breed'"):
        read_source(path, columns=Columns(classes="bread"))


def test_accents_and_slashes_mean_the_same_file(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "été.jpg"), unicodedata.normalize("NFD", "été.jpg")
    folder = with_images(tmp_path / "data", f"a/{apart}", "a/b.jpg")
    table = read_source(csv(folder / "t.csv", "file,Old", f"a\\{composed},1", "./a/b.jpg,0"))
    assert table.file_names == [f"a/{apart}", "a/b.jpg"] and table.tree.read(f"a/{apart}")


def test_columns_are_named_alike_however_their_accents_are_written(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg")
    path = csv(folder / "t.csv", unicodedata.normalize("NFD", "file,Fröhlich,Müde"), "a.jpg,1,0")
    chosen = Columns(attributes=(unicodedata.normalize("NFC", "Müde"),))
    assert read_source(path, columns=chosen).labels.tolist() == [[0]]
    names = read_source(path).attributes
    assert names == tuple(unicodedata.normalize("NFC", name) for name in ("Fröhlich", "Müde"))
    assert parse_target(unicodedata.normalize("NFD", "-Fröhlich,Müde"), [1, 0], names, ()) == [0, 1]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("000001.jpg", r"line 2 lists '000001.jpg', which is not in .*; 000001.png is: correct the name"),
        ("000001", r"000001.png is: correct the name"),
        ("ONE.JPG", r"one.jpg is: correct the name"),
        ("x/one.jpg", r"one.jpg is: correct the name"),
        ("1", r"000001.png is: correct the name"),
        ("nothing.jpg", r"remove the row, add the file, or say with --images"),
        ("n" * 5000, r"\.\.\. \(5002 characters\), which is not in"),
    ],
)
def test_a_missing_file_is_told_what_is_there(tmp_path: Path, listed: str, words: str) -> None:
    folder = with_images(tmp_path / "data", "000001.png", "one.jpg")
    with pytest.raises(DataError, match=words) as caught:
        read_source(csv(folder / "t.csv", "file,Old", f"{listed},1"))
    assert len(str(caught.value)) < 1000


def test_the_same_file_under_two_names_is_refused(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg")
    with pytest.raises(DataError, match="lists a.jpg again, after line 2"):
        read_source(csv(folder / "t.csv", "file,Old", "a.jpg,1", "./a.jpg,0"))


def test_long_values_are_cut(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "a.jpg")
    with pytest.raises(DataError) as caught:
        read_source(csv(folder / "t.csv", "file,Caption", f"a.jpg,{'word ' * 2000}"))
    assert len(str(caught.value)) < 500 and "10002 characters" in str(caught.value)


# --- images within Parquet and tar ---


def embedded(path: Path, numbers: range, label: pa.Array, **columns: pa.Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in numbers]
    table = pa.table({"image": images, "label": label, **columns})
    features = {
        "label": {"names": ["cat", "dog", "wild"], "_type": "ClassLabel"},
        "image": {"_type": "Image"},
    }
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(about), path, row_group_size=2)


def test_parquet_with_the_images_inside(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    embedded(folder / "data" / "train-00000-of-00001.parquet", range(5), pa.array([0, 1, 2, 0, 1]))
    embedded(folder / "data" / "validation-00000-of-00001.parquet", range(5, 7), pa.array([2, 0]))
    (folder / "README.md").write_text("x")
    table = read_source(folder)
    assert guess_layout(folder) == table.layout == "table" and table.one_hot
    assert table.attributes == ("cat", "dog", "wild") and counts(table) == {"train": 5, "val": 2}
    assert [table.tree.read(name) for name in table.file_names] == [picture(number) for number in range(7)]
    assert table.file_names[1] == "data/train-00000-of-00001.parquet/1/1.jpg"
    assert table.labels.argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert table.left_out == {"no images": ("README.md",)}
    alone = read_source(folder / "data" / "train-00000-of-00001.parquet")
    assert len(alone) == 5 and alone.splits is None
    with pytest.raises(DataError, match="column 'label' holds 2; expected"):
        read_source(folder, columns=Columns(attributes=("label",)))


def test_parquet_of_bytes_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    pq.write_table(
        pa.table(
            {
                "image": pa.array([picture(1), picture(2)], pa.binary()),
                "Male": [1.0, -1.0],
                "Old": [True, False],
            }
        ),
        path,
    )
    table = read_source(path)
    assert table.attributes == ("Male", "Old") and table.labels.tolist() == [[1, 1], [0, 0]]
    assert table.tree.read(table.file_names[1]) == picture(2) and not table.one_hot


@pytest.mark.parametrize(
    "name", ["pets.parquet/part-0.parquet", "pets.parquet/2024/part-0.PARQUET", "A.Parquet"]
)
def test_parquet_files_lie_and_are_called_as_they_like(tmp_path: Path, name: str) -> None:
    """Spark writes a directory `pets.parquet`; images may be called anything, too."""
    folder = tmp_path / "data"
    names = ["x.parquet/7", "a/0.jpg", None, ""]
    images = [{"bytes": picture(row), "path": path} for row, path in enumerate(names)]
    (folder / name).parent.mkdir(parents=True)
    pq.write_table(pa.table({"image": images, "A": [0, 1, 0, 1]}), folder / name)
    table = read_source(folder)
    assert table.file_names[:3] == [f"{name}/0/x.parquet/7", f"{name}/1/a/0.jpg", f"{name}/2"]
    for tree in (table.tree, pickle.loads(pickle.dumps(table.tree))):
        assert [tree.read(file) for file in table.file_names] == [picture(row) for row in range(4)]
    with pytest.raises(OSError, match="0 MiB, the limit is 0"):
        table.tree.read(table.file_names[0], 10)


def test_webdataset(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        files = [
            (f"{n:04d}.{end}", body)
            for n in numbers
            for end, body in (("jpg", picture(n)), ("cls", b"%d" % (n % 2)))
        ]
        tar(folder / f"{split}-000000.tar", files)
    table = read_source(folder)
    assert table.layout == "webdataset" and table.one_hot and table.attributes == ("0", "1")
    assert counts(table) == {"train": 4, "val": 2}
    assert table.labels.argmax(axis=1).tolist() == [0, 1, 0, 1, 0, 1]
    assert [table.tree.read(name) for name in table.file_names] == [picture(number) for number in range(6)]
    alone = read_source(folder / "train-000000.tar")
    assert alone.layout == "webdataset" and len(alone) == 4 and not alone.left_out


def test_tar_archives_lie_and_are_called_as_they_like(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    files = [("x.tar/1.jpg", picture(1)), ("x.tar/1.cls", b"cat"), ("2.jpg", picture(2)), ("2.cls", b"dog")]
    tar(folder / "all.tar" / "train.TAR", files)
    tar(folder / "all.tar" / "test.tar", [("3.jpg", picture(3)), ("3.cls", b"dog")])
    table = read_source(folder)
    assert table.layout == "webdataset" and table.splits == ["test", "train", "train"]
    assert table.file_names == [
        "all.tar/test.tar/3.jpg", "all.tar/train.TAR/2.jpg", "all.tar/train.TAR/x.tar/1.jpg",
    ]  # fmt: skip
    tree = pickle.loads(pickle.dumps(table.tree))
    assert [tree.read(name) for name in table.file_names] == [picture(3), picture(2), picture(1)]


def test_webdataset_with_attributes_in_json(tmp_path: Path) -> None:
    def sample(number: int, values: object) -> list[tuple[str, bytes]]:
        return [
            (f"a/{number}.png", picture(number, "PNG")),
            (f"a/{number}.json", json.dumps(values).encode()),
            (f"a/{number}.txt", b"x"),
        ]

    path = tar(
        tmp_path / "x.tar", [*sample(0, {"Old": 1, "Male": True}), *sample(1, {"Old": -1, "Male": False})]
    )
    table = read_source(path)
    assert table.attributes == ("Old", "Male") and table.labels.tolist() == [[1, 1], [0, 0]]
    assert table.left_out == {"no images": ("a/0.txt", "a/1.txt")}
    faulty = tar(tmp_path / "y.tar", [*sample(0, {"Old": 1}), ("a/1.png", picture(1))])
    with pytest.raises(DataError, match="a/1.png: its sample has no .json; add it or remove the sample"):
        read_source(faulty)
    with pytest.raises(DataError, match=r"0.json: holds \[1\]; expected an object"):
        read_source(tar(tmp_path / "z.tar", sample(0, [1])))


def test_sidecars_in_a_folder_are_no_webdataset(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "cat/1.jpg", "dog/1.jpg")
    (folder / "cat" / "1.json").write_text("{}")
    assert read_source(folder).layout == "classes"
    packed = tmp_path / "parquet.zip"
    embedded(tmp_path / "p" / "train.parquet", range(2), pa.array([0, 1]))
    with pytest.raises(DataError, match="Parquet files that hold images are read from a folder; unpack"):
        read_source(pack(tmp_path / "p", packed))
    with pytest.raises(DataError, match=r"expected a folder, an archive .* or a table"):
        read_source(folder / "cat" / "1.jpg")


def test_tar_of_class_folders_and_archives_that_are_none(tmp_path: Path) -> None:
    path = tar(tmp_path / "pets.tar", [("./pets/cat/1.jpg", picture(1)), ("./pets/dog/1.jpg", picture(2))])
    table = read_source(path)
    assert table.attributes == ("cat", "dog") and table.tree.read("dog/1.jpg") == picture(2)
    for name, content, words in (
        ("x.tar.gz", b"nothing", "cannot be read in place; unpack it"),
        ("x.7z", b"7z", "cannot be read in place"),
        ("x.tar", b"\x1f\x8b compressed", "cannot be read in place"),
        ("x.tar", b"nothing", "not a readable tar archive without compression"),
        ("x.xlsx", b"PK\x03\x04", "expected a folder, an archive"),
        ("x.rst", b"nothing", "expected a folder, an archive"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_source(tmp_path / name)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(path.read_bytes()[:700])
    with pytest.raises((DataError, OSError)):
        TarTree(cut).read("pets/cat/1.jpg")


def test_links_in_an_archive_are_the_files_that_they_name(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    files = [("pets/cat/1.jpg", picture(1)), ("pets/dog/2.jpg", picture(2))]
    tar(path, files)
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (
            ("pets/dog/3.jpg", tarfile.LNKTYPE, "pets/cat/1.jpg"),
            ("pets/cat/4.jpg", tarfile.SYMTYPE, "../dog/2.jpg"),
            ("pets/cat/5.jpg", tarfile.SYMTYPE, "/elsewhere/5.jpg"),
            ("pets/cat/6.jpg", tarfile.SYMTYPE, "../../../secret.jpg"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    table = read_source(path)
    assert table.file_names == [f"cat/{n}.jpg" for n in (1, 4, 5, 6)] + [f"dog/{n}.jpg" for n in (2, 3)]
    assert table.tree.read("dog/3.jpg") == picture(1) and table.tree.read("cat/4.jpg") == picture(2)
    for name in ("cat/5.jpg", "cat/6.jpg"):  # unreadable images, which sharding lists
        with pytest.raises(OSError, match="a link to a file that is not in pets.tar"):
            table.tree.read(name)


# --- contents decide ---


@pytest.mark.parametrize("name", ["download", "pets.tar", "pets.zip.part"])
def test_an_archive_is_what_its_content_says(tmp_path: Path, name: str) -> None:
    folder = with_images(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    files = [("cat/1.jpg", picture(1)), ("dog/1.jpg", picture(2))]
    for path in (pack(folder, tmp_path / "some.zip"), tar(tmp_path / "some.tar", files)):
        path.rename(tmp_path / name)
        assert read_source(tmp_path / name).attributes == ("cat", "dog")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_name_in_another_encoding_is_refused(tmp_path: Path, kind: str) -> None:
    name = os.fsdecode(b"\xe9t\xe9.jpg")  # Latin-1
    folder = with_images(tmp_path / "pets", "cat/1.jpg", f"dog/{name}")
    source = folder
    if kind == "tar":
        source = tmp_path / "pets.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(folder, ".")
    with pytest.raises(
        DataError, match=r"the name 'dog/\\udce9t\\udce9.jpg' is not valid UTF-8; rename the file"
    ):
        read_source(source)
    (folder / "dog" / name).rename(folder / "dog" / os.fsdecode(b"\xe9.txt"))
    image_file(folder / "dog" / "\u00e9.jpg")
    assert read_source(folder).attributes == ("cat", "dog")


def test_archives_among_which_there_are_no_images_are_named(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "both").mkdir()
    pack(folder, tmp_path / "both" / "pets.zip")
    for path in (tmp_path / "both", pack(tmp_path / "both", tmp_path / "outer.zip")):
        with pytest.raises(
            DataError, match="no images there, but archives; unpack pets.zip or give it alone"
        ):
            read_source(path)


def test_suffixes_do_not_decide(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name, kind in (
        ("cat/1.jfif", "JPEG"),
        ("cat/2", "PNG"),
        ("dog/3.JPG_large", "JPEG"),
        ("dog/4.img", "WEBP"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(1, kind))
    (folder / "dog" / "notes.doc").write_bytes(b"words")
    (folder / "cat" / "movie.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(80))
    table = read_source(folder)
    assert table.file_names == ["cat/1.jfif", "cat/2", "dog/3.JPG_large", "dog/4.img"]
    assert table.left_out == {"no images": ("cat/movie.mp4", "dog/notes.doc")}
    same_labels(read_source(pack(folder, tmp_path / "data.zip")), table)


def test_splits_of_a_source_that_tests_nothing_are_drawn() -> None:
    ids = np.array([row_id("x", str(number)) for number in range(40)])
    assert Counter(assign_splits(ids, ["train"] * 40, "auto", 0, "x")) == {"train": 36, "test": 4}
    assert Counter(assign_splits(ids, ["train"] * 40, "official", 0, "x")) == {"train": 40}
    with pytest.raises(DataError, match="leaves no image to train on; use --split random"):
        assign_splits(ids, ["test"] * 40, "auto", 0, "x")


def test_options_that_belong_to_something_else(tmp_path: Path) -> None:
    folder = with_images(tmp_path / "data", "cat/a.jpg", "dog/b.jpg")
    path = csv(folder / "cat" / "t.csv", "file,A", "a.jpg,1")
    with pytest.raises(ConfigError, match="is a table; give the folder, or leave --layout out"):
        read_source(path, "classes")
    with pytest.raises(ConfigError, match="--images and the columns belong to a table"):
        read_source(folder, columns=Columns(attributes=("A",)))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "part-00000-of-00001-0a1b2c.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="holds shards already; train with `--data"):
        read_source(tmp_path / "shards")


# --- what is said of it ---


def shards_of(table: ImageTable, quarantined: int = 0) -> ShardSet:
    return ShardSet(
        "shards", "x", "x", table.attributes, table.one_hot, None, {"train": 3, "test": 1}, 4, quarantined,
        ("a", "b"), (), "0123", "4567",
    )  # fmt: skip


def test_the_last_line_says_layout_classes_splits_and_what_was_left_out(tmp_path: Path) -> None:
    folder = with_images(
        tmp_path / "data", "train/cat/1.jpg", "train/dog/2.jpg", "train/dog/3.jpg", "test/cat/4.jpg"
    )
    for name in ("README.md", "a.pdf", "b.pdf", "c.pdf", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    table = read_source(folder)
    assert describe_shards(shards_of(table), table, "auto") == (
        "4 images in 2 shards (test 1, train 3), layout classes, 2 classes (cat, dog); left out: "
        "1 leftovers of other programs (.DS_Store), 4 no images (README.md, a.pdf, b.pdf, ...); digest 0123"
    )
    plain = with_images(tmp_path / "photos", "9.jpg")
    (plain / "z.txt").write_bytes(b"x")
    said = describe_shards(shards_of(table), table, "random", read_images(plain))
    assert "(test 1, train 3, split at random)" in said and "5 no images" in said


def test_many_attributes_are_counted_and_nothing_is_left_out(tmp_path: Path) -> None:
    table = read_celeba(write_celeba(tmp_path / "c", 4, attributes=[f"A{number}" for number in range(40)]))
    assert "layout celeba, 40 attributes; left out: nothing; digest" in describe_shards(
        shards_of(table), table, "auto"
    )


@pytest.mark.parametrize("act", ["check", "shard"])
def test_images_without_labels_are_refused_before_ray_starts(
    tmp_path: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "ray_session", lambda **needs: pytest.fail("Ray was started"))
    folder = with_images(tmp_path / "data", "a.jpg", "b.jpg")
    (folder / "labels.txt").write_text("file,A\na.jpg,1\n")
    words = (
        r"no labels there: .* \(labels.txt would have to be .csv, .tsv or .jsonl\); give .* --layout images"
    )
    with pytest.raises(DataError, match=words):
        if act == "check":
            sharding.check(str(folder), "auto", None, None, None)
        else:
            sharding.shard(folder, str(tmp_path / "shards"), ShardOptions())
    assert not (tmp_path / "shards").exists()


def test_a_manifest_of_another_program_makes_no_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ImageTable] = []
    monkeypatch.setattr(sharding, "ray_session", lambda **needs: nullcontext())
    monkeypatch.setattr(
        sharding,
        "survey_table",
        lambda table, update: seen.append(table) or Survey((), np.empty((0, 0), np.int8), {}),
    )
    folder = with_images(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    (folder / "manifest.json").write_text('{"files": []}')
    sharding.check(str(folder), "auto", None, None, None)
    assert seen[0].layout == "classes"
    (folder / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(DataError, match="shards of schema 1, expected"):
        sharding.check(str(folder), "auto", None, None, None)
