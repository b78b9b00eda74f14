"""Reading sources: CelebA, class folders, tables, plain folders; from folders and from zip archives."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import csv, image_file, pack, picture, with_images
from PIL import Image
from tiny import ATTRIBUTES, write_celeba

from rgcluster.data.images import UNREADABLE, UInt8Array, load_image, reason, upright_rgb
from rgcluster.data.sources import Columns, FolderTree, ZipTree, guess_layout, read_celeba, read_source
from rgcluster.data.sources.files import files_of
from rgcluster.data.sources.trees.archives import _open_zip
from rgcluster.errors import ConfigError, DataError

# --- CelebA's layout ---


def test_a_celeba_folder(tmp_path: Path) -> None:
    folder = read_celeba(write_celeba(tmp_path / "celeba"))
    assert folder.attributes == ATTRIBUTES
    assert folder.file_names == [f"{number:06d}.jpg" for number in range(1, 7)]
    assert folder.splits == ["train"] * 4 + ["test", "train"]
    assert folder.labels.dtype == np.int8 and set(folder.labels.ravel()) == {0, 1}
    assert folder.tree.read(folder.file_names[2])[:2] == b"\xff\xd8"
    lines = (tmp_path / "celeba" / "list_attr_celeba.txt").read_text().splitlines()[2:]
    signs = [[int(value) for value in line.split()[1:]] for line in lines]
    assert np.array_equal(folder.labels, np.array(signs) > 0)


def test_zero_one_labels_blank_lines_and_no_partition(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "celeba", 2, partition=False)
    table = "2\n A  B \n\n000001.jpg 0 1\n\n000002.jpg -1  1\n\n"
    (folder / "list_attr_celeba.txt").write_text(table)
    read = read_celeba(folder)
    assert read.attributes == ("A", "B") and read.labels.tolist() == [[0, 1], [0, 1]] and read.splits is None


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(change((folder / name).read_text()))

    return apply


def empty_images(folder: Path) -> None:
    for item in (folder / "img_align_celeba").iterdir():
        item.unlink()


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


LIST, PARTITION = "list_attr_celeba.txt", "list_eval_partition.txt"

FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no image": (empty_images, r"img_align_celeba: no images there; expected CelebA's layout"),
    "no list": (remove(LIST), r"list_attr_celeba.txt: missing; it comes with CelebA"),
    "binary list": (
        lambda folder: (folder / LIST).write_bytes(b"\xff\xfe\x00"),
        r"list_attr_celeba.txt: not a text file in UTF-8; save it as one, or fetch it again",
    ),
    "empty list": (edit(LIST, lambda text: ""), r"line 1 must be the number of rows and line 2"),
    "no count": (edit(LIST, lambda text: text.split("\n", 1)[1]), r"line 1 must be the number of rows"),
    "odd count": (edit(LIST, lambda text: "²" + text[1:]), r"line 1 must be the number of rows"),
    "same name twice": (
        edit(LIST, lambda text: text.replace("Male", "Young")),
        r"line 2 names an attribute twice",
    ),
    "wrong count": (
        edit(LIST, lambda text: "7" + text[1:]),
        r"line 1 says 7 rows, the file holds 6; fetch it again",
    ),
    "truncated": (
        edit(LIST, lambda text: text[:-12]),
        r"line 8 \(000006.jpg\) has \d values for 7 names; repair",
    ),
    "wrong value": (
        edit(LIST, lambda text: re.sub(r"(000003.jpg) +-?1", r"\1 2", text)),
        r"line 5 \(000003.jpg\) holds '2'; expected -1, 0 or 1",
    ),
    "after a blank line": (
        edit(LIST, lambda text: re.sub(r"(000003.jpg) +-?1", r"\n\1 x", text)),
        r"line 6 \(000003.jpg\) holds 'x'; expected -1, 0 or 1",
    ),
    "duplicate": (
        edit(LIST, lambda text: text.replace("000005", "000002")),
        r"list_attr_celeba.txt: line 7 lists 000002.jpg again, after line 4; remove one",
    ),
    "row without file": (
        remove("img_align_celeba/000004.jpg"),
        r"line 6 lists '000004.jpg', which is not in .*img_align_celeba; remove the row or add the file",
    ),
    "partition value": (
        edit(PARTITION, lambda text: text.replace("000002.jpg 0", "000002.jpg 3")),
        r"list_eval_partition.txt: line 2 must be a file name and 0, 1 or 2",
    ),
    "partition columns": (
        edit(PARTITION, lambda text: text.replace("000002.jpg 0", "000002.jpg")),
        r"list_eval_partition.txt: line 2 must be",
    ),
    "partition duplicate": (
        edit(PARTITION, lambda text: text.replace("000003", "000002")),
        r"list_eval_partition.txt: line 3 lists 000002.jpg again; remove one row",
    ),
    "partition row missing": (
        edit(PARTITION, lambda text: text.replace("000006.jpg 0\n", "")),
        r"list_eval_partition.txt: no row for 000006.jpg; add it, or remove the file to split at random",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_folder_is_one_line(tmp_path: Path, name: str) -> None:
    spoil, expected = FAULTS[name]
    folder = write_celeba(tmp_path / "celeba")
    spoil(folder)
    with pytest.raises(DataError) as caught:
        read_celeba(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message
    assert re.search(expected, message), message


def test_a_missing_folder_names_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; draw one with `rgcluster data faces"):
        read_celeba(tmp_path / "nowhere")


def test_a_late_duplicate_among_many_rows_is_found_in_time(tmp_path: Path) -> None:
    count = 30_000
    folder = write_celeba(tmp_path / "celeba", 1, partition=False)
    rows = [f"{number}.jpg 1" for number in range(count - 1)] + ["7.jpg 1"]
    (folder / LIST).write_text("\n".join([str(count), "A", *rows]))
    with pytest.raises(DataError, match=f"line {count + 2} lists 7.jpg again, after line 10"):
        read_celeba(folder)


# --- folders and archives ---


def same_rows(first, second) -> None:  # type: ignore[no-untyped-def]
    assert first.file_names == second.file_names and first.splits == second.splits
    assert np.array_equal(first.labels, second.labels)
    assert [first.tree.read(name) for name in first.file_names] == [
        second.tree.read(name) for name in second.file_names
    ]


def test_celeba_as_downloaded(tmp_path: Path) -> None:
    """The published folders with the images still packed; the archive alone; everything in one archive."""
    plain = write_celeba(tmp_path / "celeba")
    expected = read_celeba(plain)
    published = tmp_path / "CelebA"
    for folder in ("Img", "Anno", "Eval"):
        (published / folder).mkdir(parents=True)
    pack(plain / "img_align_celeba", published / "Img" / "img_align_celeba.zip", below="img_align_celeba/")
    shutil.copy(plain / LIST, published / "Anno")
    shutil.copy(plain / PARTITION, published / "Eval")
    same_rows(read_source(published), expected)
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(published / "Img" / "img_align_celeba.zip", beside)
    shutil.copy(plain / LIST, beside)
    shutil.copy(plain / PARTITION, beside)
    same_rows(read_source(beside), expected)
    same_rows(read_source(beside / "img_align_celeba.zip"), expected)
    same_rows(read_source(pack(plain, tmp_path / "all.zip")), expected)
    same_rows(read_source(pack(plain, tmp_path / "nested.zip", below="archive/img_align_celeba/")), expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../out.jpg", "points outside the archive"),
        ("/etc/x.jpg", "points outside the archive"),
        ("a/../../x.jpg", "points outside the archive"),
        ("C:\\x.jpg", "has backslashes"),
        ("C:/x.jpg", "points outside the archive"),
    ],
)
def test_archives_that_reach_outside_are_refused(tmp_path: Path, name: str, words: str) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, b"")
    with pytest.raises(DataError, match=words):
        ZipTree(archive).names()


def test_archives_that_are_none_or_hold_a_name_twice(tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not a readable zip archive"):
        read_source(bad)
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("a.jpg", b"1")
        file.writestr("a.jpg", b"2")
    with pytest.raises(DataError, match="holds 'a.jpg' twice"):
        ZipTree(twice).names()


def test_a_large_file_is_read_no_further_than_allowed(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", b"\0" * (8 << 20))
    with pytest.raises(OSError, match="more than 1 MiB"):
        ZipTree(bomb).read("a.jpg", 1 << 20)
    with open(tmp_path / "large.jpg", "wb") as large:
        large.truncate(65 << 20)
    with pytest.raises(OSError, match="65 MiB, the limit is 64"):
        FolderTree(tmp_path).read("large.jpg")


def test_a_damaged_entry_is_an_unreadable_image(tmp_path: Path) -> None:
    archive = pack(write_celeba(tmp_path / "celeba") / "img_align_celeba", tmp_path / "x.zip")
    content = bytearray(archive.read_bytes())
    at = content.index(b"\xff\xd8") + 40
    content[at : at + 20] = bytes(20)
    archive.write_bytes(bytes(content))
    with pytest.raises(OSError, match="damaged in x.zip"):
        ZipTree(archive).read("000001.jpg")


@pytest.mark.parametrize("method", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_damaged_entry_of_any_compression_is_an_unreadable_file(tmp_path: Path, method: str) -> None:
    """Wherever the damage lies: each decompressor has errors of its own."""
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", getattr(zipfile, method)) as file:
        file.writestr("photo", picture(kind="BMP", side=16))
        file.writestr("next", b"")
    content = archive.read_bytes()
    refused = 0
    for at in range(content.index(b"next") - 30):
        archive.write_bytes(
            content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 4]) + content[at + 4 :]
        )
        _open_zip.cache_clear()
        assert files_of(ZipTree(archive)).images in (["photo"], [])
        try:
            ZipTree(archive).read("photo")
        except OSError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("at", [6, 46], ids=["version", "name"])
def test_a_zip_archive_with_an_odd_directory_is_one_line(tmp_path: Path, at: int) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("é.jpg", b"")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + at] = 0xFF
    archive.write_bytes(bytes(content))
    with pytest.raises(DataError, match="x.zip: not a readable zip archive .*; fetch it again"):
        read_source(archive)


def test_a_link_to_a_folder_above_is_refused_and_others_are_followed(tmp_path: Path) -> None:
    real = write_celeba(tmp_path / "celeba") / "img_align_celeba"
    (tmp_path / "linked").symlink_to(real)
    assert len(FolderTree(tmp_path / "linked").names()) == 6
    loop = tmp_path / "loop"
    (loop / "below").mkdir(parents=True)
    (loop / "below" / "again").symlink_to(loop)
    with pytest.raises(DataError, match="again: a symbolic link to a folder above it; remove the link"):
        FolderTree(loop).names()
    (tmp_path / "selfish").mkdir()
    (tmp_path / "selfish" / "a.jpg").symlink_to(tmp_path / "selfish" / "a.jpg")
    assert FolderTree(tmp_path / "selfish").names() == ["a.jpg"]
    with pytest.raises(OSError):
        FolderTree(tmp_path / "selfish").read("a.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        with pytest.raises(DataError, match=r"closed: cannot be listed .*give read permission"):
            FolderTree(tmp_path).names()
    finally:
        closed.chmod(0o700)


def test_a_file_without_a_row_is_named(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "celeba")
    (folder / "img_align_celeba" / "notes.txt").write_text("x")
    assert read_celeba(folder).left_out == {"no images": ("notes.txt",)}
    shutil.copy(folder / "img_align_celeba" / "000001.jpg", folder / "img_align_celeba" / "extra.jpg")
    with pytest.raises(DataError, match=r"extra.jpg: has no row in .*list_attr_celeba.txt; add the row"):
        read_celeba(folder)


# --- class folders and images without labels ---


def test_class_folders(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/deep/2.png", "dog/1.jpg", "wild/1.webp"):
        image_file(tmp_path / "afhq" / name)
    (tmp_path / "afhq" / "cat" / "README.txt").write_text("x")
    table = read_source(tmp_path / "afhq")
    assert table.layout == "classes" and table.one_hot and table.attributes == ("cat", "dog", "wild")
    assert table.file_names == ["cat/1.jpg", "cat/deep/2.png", "dog/1.jpg", "wild/1.webp"]
    assert table.labels.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert table.splits is None and table.left_out == {"no images": ("cat/README.txt",)}
    same_rows(read_source(pack(tmp_path / "afhq", tmp_path / "afhq.zip")), table)


def test_class_folders_with_splits(tmp_path: Path) -> None:
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/2.jpg"):
        image_file(tmp_path / name)
    table = read_source(tmp_path)
    assert table.attributes == ("cat", "dog") and table.splits == ["train", "train", "val", "val"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/1.jpg", "b/1.jpg", "2.jpg"], r"2.jpg: lies in no class folder; move it into one"),
        (["a/1.jpg", "a/2.jpg"], r"one class alone, 'a'; a translator needs two"),
        (["a/1.txt"], r"no images there; expected a folder of images for each class"),
    ],
)
def test_faulty_class_folders(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        if name.endswith(".txt"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text("x")
        else:
            image_file(tmp_path / name)
    with pytest.raises(DataError, match=words):
        read_source(tmp_path, "classes")


def test_a_plain_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("1.jpg", "below/2.jpg"):
        image_file(tmp_path / "photos" / name)
    table = read_source(tmp_path / "photos")
    assert table.layout == "images" and table.attributes == () and table.splits == ["unlabelled"] * 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images there"):
        read_source(tmp_path / "empty")


# --- tables ---


def test_a_csv_beside_its_images(tmp_path: Path) -> None:
    with_images(tmp_path, "a.jpg", "sub/b.png")
    path = csv(tmp_path / "t.csv", "Old,image_id,split,Happy", "1,a.jpg,train,-1", "0,sub/b.png,test,1")
    table = read_source(path)
    assert guess_layout(path) == "table" and table.attributes == ("Old", "Happy")
    assert table.file_names == ["a.jpg", "sub/b.png"] and table.splits == ["train", "test"]
    assert table.labels.tolist() == [[1, 0], [0, 1]] and table.name == "t"


def test_a_parquet_with_its_images_elsewhere_and_columns_chosen(tmp_path: Path) -> None:
    images = with_images(tmp_path / "images", "a.jpg", "b.jpg")
    columns = {
        "picture": ["b.jpg", "a.jpg"],
        "note": ["x", "y"],
        "A": [True, False],
        "B": [0, 1],
        "part": [2, 0],
    }
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), path)
    table = read_source(path, images=images, columns=Columns("picture", "part", ("B", "A")))
    assert table.attributes == ("B", "A") and table.labels.tolist() == [[0, 1], [1, 0]]
    assert table.splits == ["test", "train"]
    packed = pack(images, tmp_path / "images.zip")
    same_rows(read_source(path, images=packed, columns=Columns("picture", "part", ("B", "A"))), table)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            ["x,A", "a.jpg,1"],
            r"no column file or file_name or .*; name the column of files with --file-column",
        ),
        (["file,A", "a.jpg,2"], r"line 2, column 'A' holds '2'; expected -1, 0 or 1"),
        (["file,A", "a.jpg,1", "b.jpg,"], r"line 3, column 'A' holds ''; expected -1, 0 or 1"),
        (
            ["file,A", "a.jpg,yes"],
            r"line 2, column 'A' holds 'yes'; expected -1, 0 or 1; choose columns .* one of class names with "
            "--class-column",
        ),
        (
            ["file,A", "c.jpg,1"],
            r"line 2 lists 'c.jpg', which is not in .*; remove the row, add the file, or say",
        ),
        (["file,A", "a.jpg,1", "b.jpg,1", "a.jpg,0"], r"line 4 lists a.jpg again, after line 2; remove one"),
        (
            ["file,split", "a.jpg,train"],
            r"no column of attributes; for images without labels use --layout images",
        ),
        (
            ["file,A,split", "a.jpg,1,maybe"],
            r"line 2, column 'split' holds 'maybe'; expected train, val, test",
        ),
        (["file,A,A", "a.jpg,1,1"], r"the column 'A' comes twice; remove one"),
        (["file,A"], r"no rows"),
        (["file,A", "a.jpg,1,1,1"], r"cannot be read as a table"),
    ],
)
def test_faulty_tables_are_one_line(tmp_path: Path, rows: list[str], words: str) -> None:
    with_images(tmp_path, "a.jpg", "b.jpg")
    path = csv(tmp_path / "t.csv", *rows)
    with pytest.raises(DataError, match=words) as caught:
        read_source(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_misspelt_column_is_named(tmp_path: Path) -> None:
    path = csv(with_images(tmp_path, "a.jpg") / "t.csv", "file,Smiling", "a.jpg,1")
    with pytest.raises(DataError, match="no column 'Smilling': did you mean 'Smiling'"):
        read_source(path, columns=Columns(attributes=("Smilling",)))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="broken.parquet: cannot be read as a table"):
        read_source(tmp_path / "broken.parquet")


def test_layouts_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--layout faces: expected auto, celeba, classes, table, webdataset, images"
    ):
        read_source(tmp_path, "faces")
    with pytest.raises(ConfigError, match="belong to a table"):
        read_source(with_images(tmp_path, "a.jpg"), "images", images=tmp_path)


# --- every kind of image ---


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def loaded(content: bytes) -> UInt8Array:
    image = load_image(content)
    assert image.mode == "RGB"
    return np.asarray(image)


RED = np.tile(np.array([200, 40, 10], np.uint8), (16, 16, 1))


@pytest.mark.parametrize(
    ("content", "expected", "within"),
    [
        (encode(Image.new("L", (16, 16), 90), "JPEG"), (90, 90, 90), 2),
        (encode(Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), (200, 40, 10), 2),
        (encode(Image.fromarray(RED).convert("CMYK"), "JPEG", quality=100), (200, 40, 10), 4),
        (encode(Image.fromarray(np.full((16, 16), 40_000, np.uint16)), "PNG"), (156, 156, 156), 1),
        (encode(Image.new("RGBA", (16, 16), (200, 40, 10, 255)), "PNG"), (200, 40, 10), 0),
        (encode(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG"), (255, 255, 255), 0),
        (encode(Image.new("LA", (16, 16), (0, 128)), "PNG"), (127, 127, 127), 1),
        (encode(Image.new("1", (16, 16), 1), "PNG"), (255, 255, 255), 0),
        (encode(Image.fromarray(RED), "GIF"), (200, 40, 10), 2),
    ],
    ids=["grey", "palette", "cmyk", "16 bit", "opaque", "transparent", "half", "black and white", "gif"],
)
def test_every_kind_becomes_rgb(content: bytes, expected: tuple[int, ...], within: int) -> None:
    assert np.abs(loaded(content).reshape(-1, 3).mean(axis=0) - expected).max() <= within + 0.01


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int) -> None:
    """A camera notes how it was held; the picture must come out alike, however it lies in the file."""
    upright = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    lay = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    lying = upright.transpose(lay[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(loaded(encode(lying, "PNG", exif=exif)), np.asarray(upright))


def entries(*fields: tuple[int, int, bytes]) -> bytes:
    """EXIF of single values: tag, type and the four bytes of the value."""
    body = b"".join(struct.pack("<HHI4s", tag, kind, 1, value) for tag, kind, value in fields)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(fields)) + body + bytes(4)


TURNED = (0x0112, 3, b"\6\0\0\0")


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (entries(TURNED), True),
        (entries(TURNED, (0x0100, 2, b"a\0\0\0")), True),  # a width that is text: Pillow cannot write it
        (entries(TURNED, (0x011A, 5, b"\xff\xff\xff\xff")), True),
        (entries(TURNED, (0x8769, 4, b"\xff\xff\xff\xff")), True),
        (b"Exif\0\0no TIFF at all", False),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
    ],
    ids=["plain", "text", "beyond the end", "no folder", "words", "nowhere"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_costs_no_image(kind: str, exif: bytes, turned: bool) -> None:
    lying = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    plain = loaded(encode(lying, kind))
    expected = np.rot90(plain, -1) if turned else plain
    assert np.array_equal(loaded(encode(lying, kind, exif=exif)), expected)


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
@pytest.mark.parametrize("kind", [None, "PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_eight(mode: str, kind: str | None) -> None:
    generator = np.random.default_rng(len(mode))
    image = Image.frombytes(mode, (37, 53), generator.bytes(37 * 53 * (4 if mode == "I" else 2)))
    if kind is not None:
        image = Image.open(io.BytesIO(encode(Image.fromarray(np.asarray(image).astype(np.uint16)), kind)))
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    assert np.array_equal(
        np.asarray(upright_rgb(image)), (values >> 8).astype(np.uint8)[..., None].repeat(3, 2)
    )


def test_sixteen_bits_are_converted_in_little_memory() -> None:
    image = Image.new("I;16", (2000, 2000))
    tracemalloc.start()
    upright_rgb(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2000 * 2000  # bytes a pixel


DDS = bytearray(encode(Image.fromarray(RED), "DDS"))
DDS[80:84] = bytes(4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file; fetch it again"),
        (b"not an image at all", "cannot identify image file"),
        (encode(Image.fromarray(RED), "JPEG")[:300], "Truncated|truncated|broken"),
        (encode(Image.new("L", (9000, 9000)), "PNG"), "9000 x 9000 pixels, the limit is 64 million"),
        (encode(Image.new("L", (20000, 20000)), "PNG"), "exceeds limit|the limit is 64 million"),
        (encode(Image.new("F", (8, 8)), "TIFF"), "floating-point pixels"),
        (encode(Image.fromarray(RED), "AVIF").replace(b"iloc", b"xxxx"), "Failed to decode image"),
        (bytes(DDS), "Unknown pixel format flags 0"),
    ],
    ids=["zero bytes", "text", "truncated", "large", "bomb", "float", "avif", "dds"],
)
def test_unreadable_images_say_why(content: bytes, words: str) -> None:
    with pytest.raises(UNREADABLE) as caught:
        load_image(content)
    assert re.search(words, reason(caught.value)) and "0x" not in reason(caught.value)


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(Image.fromarray(RED), "PNG"))
    assert np.array_equal(loaded(FolderTree(tmp_path).read("a.jpg")), RED)
