"""Reading CelebA's layout, attributes and targets, images, the training order, fractions."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import ATTRIBUTES, write_celeba

from rgcluster.config import Config, load_config
from rgcluster.data.attributes import (
    CELEBA_ATTRIBUTES,
    change_domain,
    domain_columns,
    one_change_each,
    parse_target,
)
from rgcluster.data.folder import read_celeba
from rgcluster.data.images import decode_image, encode_png, grid, prepare_image
from rgcluster.data.order import Order
from rgcluster.data.shards import hash_share, row_id
from rgcluster.errors import ConfigError, DataError

# --- CelebA's layout ---


def test_a_celeba_folder(tmp_path: Path) -> None:
    folder = read_celeba(write_celeba(tmp_path / "celeba"))
    assert folder.attributes == ATTRIBUTES
    assert folder.file_names == [f"{number:06d}.jpg" for number in range(1, 7)]
    assert folder.splits == ["train"] * 4 + ["test", "train"]
    assert folder.labels.dtype == np.int8 and set(folder.labels.ravel()) == {0, 1}
    assert folder.image_path(2).read_bytes()[:2] == b"\xff\xd8"
    lines = (tmp_path / "celeba" / "list_attr_celeba.txt").read_text().splitlines()[2:]
    signs = [[int(value) for value in line.split()[1:]] for line in lines]
    assert np.array_equal(folder.labels, np.array(signs) > 0)


def test_zero_one_labels_blank_lines_and_no_partition(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "celeba", 2, partition=False)
    table = "2\n A  B \n\n000001.jpg 0 1\n\n000002.jpg -1  1\n\n"
    (folder / "list_attr_celeba.txt").write_text(table)
    read = read_celeba(folder)
    assert read.attributes == ("A", "B") and read.labels.tolist() == [[0, 1], [0, 1]] and read.splits == []


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
        r"list_attr_celeba.txt: not a text file; fetch it again",
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
        r"lists 000004.jpg, which is not in .*img_align_celeba; remove the row or add the file",
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
        r"list_eval_partition.txt: no row for 000006.jpg; add it, or remove the file to split by hash",
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


# --- attributes ---

DOMAIN = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
HAIR = (DOMAIN[:3],)


def test_celeba_has_forty_attributes_in_its_order() -> None:
    assert len(set(CELEBA_ATTRIBUTES)) == 40
    assert sorted(CELEBA_ATTRIBUTES, key=str.lower) == list(CELEBA_ATTRIBUTES)
    assert set(DOMAIN) <= set(CELEBA_ATTRIBUTES)


def test_domain_columns() -> None:
    assert domain_columns(CELEBA_ATTRIBUTES, DOMAIN, "here") == [8, 9, 11, 20, 39]
    with pytest.raises(
        DataError, match=r"^shards: no attribute 'Blond': did you mean 'Blond_Hair'\?; it has"
    ) as caught:
        domain_columns(CELEBA_ATTRIBUTES, ["Male", "Blond"], "shards")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "current", "expected"),
    [
        ("Blond_Hair", [1, 0, 0, 1, 1], [0, 1, 0, 1, 1]),
        ("Blond_Hair,-Male", [1, 0, 0, 1, 1], [0, 1, 0, 0, 1]),
        (" +Male , Young ", [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]),
        ("-Black_Hair", [1, 0, 0, 1, 1], [0, 0, 0, 1, 1]),
        ("Brown_Hair,-Black_Hair", [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]),
        ("Male,Male", [0, 0, 0, 0, 0], [0, 0, 0, 1, 0]),
        ("", [1, 0, 0, 1, 1], [1, 0, 0, 1, 1]),
    ],
)
def test_targets(text: str, current: list[int], expected: list[int]) -> None:
    assert parse_target(text, current, DOMAIN, HAIR) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Blonde_Hair", "no attribute 'Blonde_Hair': did you mean 'Blond_Hair'?"),
        ("Male,-Male", "Male is both set and cleared"),
        ("Black_Hair,Blond_Hair", "Black_Hair and Blond_Hair exclude each other"),
        ("Smiling", "no attribute 'Smiling'"),
    ],
)
def test_bad_targets(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        parse_target(text, [0] * 5, DOMAIN, HAIR)
    assert str(caught.value).startswith(f"--to {text}: ") and "\n" not in str(caught.value)


@given(st.lists(st.integers(0, 1), min_size=5, max_size=5), st.sampled_from(DOMAIN), st.booleans())
def test_a_target_changes_what_it_says_and_its_exclusive_group_alone(
    current: list[int], name: str, clear: bool
) -> None:
    target = dict(
        zip(DOMAIN, parse_target(f"-{name}" if clear else name, current, DOMAIN, HAIR), strict=True)
    )
    assert target[name] == (0 if clear else 1)
    for other, before in zip(DOMAIN, current, strict=True):
        if other == name:
            continue
        excluded = not clear and name in HAIR[0] and other in HAIR[0]
        assert target[other] == (0 if excluded else before)


def test_changed_domains() -> None:
    config = Config().data
    domains = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]], np.int8)
    assert change_domain(domains, "Male", config).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert change_domain(domains, "Brown_Hair", config).tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 1]]
    assert domains.tolist() == [[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    every = one_change_each(domains, config)
    assert [change.tolist() for change in every] == [
        change_domain(domains, name, config).tolist() for name in config.attributes
    ]


def test_changed_one_hot_domains_stay_one_hot() -> None:
    config = load_config("smoke", ["data.domains=one-hot"]).data
    domains = np.eye(5, dtype=np.int8)
    for name in config.attributes:
        changed = change_domain(domains, name, config)
        assert (changed.sum(axis=1) == 1).all()
        assert (changed[:, config.attributes.index(name)] == 1).all()


# --- images ---


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None, :], np.arange(height)[:, None]
    return Image.fromarray(pixels)


def test_crop_takes_celebas_centre() -> None:
    image = prepare_image(coordinates(178, 218), crop=178, size=178)
    assert image.shape == (178, 178, 3) and image.dtype == np.uint8
    assert np.array_equal(image[..., 0], np.broadcast_to(np.arange(178), (178, 178)))
    assert np.array_equal(image[..., 1], np.broadcast_to(np.arange(20, 198)[:, None], (178, 178)))


@pytest.mark.parametrize(
    ("size", "crop", "left", "top", "side"),
    [
        ((60, 40), 20, 20, 10, 20),
        ((60, 40), 0, 10, 0, 40),
        ((40, 61), 500, 0, 10, 40),
        ((50, 50), 50, 0, 0, 50),
    ],
)
def test_crops(size: tuple[int, int], crop: int, left: int, top: int, side: int) -> None:
    image = prepare_image(coordinates(*size), crop, side)
    assert image[0, 0].tolist() == [left, top, 0]
    assert image[-1, -1].tolist() == [left + side - 1, top + side - 1, 0]


def test_resizing_averages() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small = prepare_image(Image.fromarray(stripes), 0, 32)
    assert small.shape == (32, 32, 3) and np.abs(small[:, 2:-2].astype(int) - 100).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert prepare_image(coordinates(20, 20).convert(mode), 0, 32).shape == (32, 32, 3)


def test_png_round_trip() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(decode_image(encode_png(pixels), 0, 32, "x"), pixels)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    coordinates(24, 24).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_images_are_data_errors_that_name_them(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        assert decode_image(bytes(content[:cut]), 0, 32, "part/7.jpg").shape == (32, 32, 3)
    except DataError as error:
        assert str(error).startswith("part/7.jpg: not a readable image (") and "\n" not in str(error)


def test_a_broken_png_chunk_is_a_data_error() -> None:
    content = encoded("PNG")
    at = content.index(b"IDAT")
    with pytest.raises(DataError, match="not a readable image"):
        decode_image(content[:at] + b"\xe9\x9f\xae\x98" + content[at + 4 :], 0, 32, "x.png")


def test_grid_places_images_by_row_and_column() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1).repeat(4, 2).repeat(5, 3).repeat(3, 4)
    sheet = grid(images, gap=2)
    assert sheet.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    assert (sheet[:4, :5] == 0).all() and (sheet[6:, 14:] == 5).all() and (sheet[:4, 7:12] == 1).all()
    assert (sheet[4:6] == 255).all() and (sheet[:, 5:7] == 255).all()


# --- the training order ---

ORDERS = st.builds(
    Order,
    num_rows=st.integers(1, 200),
    seed=st.integers(-(2**31), 2**64),
    group_rows=st.integers(1, 40),
    window_groups=st.integers(0, 4),
)


@given(order=ORDERS, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_row_once(order: Order, epoch: int) -> None:
    assert sorted(order.epoch(epoch).tolist()) == list(range(order.num_rows))


@given(order=ORDERS, batch=st.integers(1, 50), steps=st.integers(1, 12))
def test_batches_are_the_epochs_one_after_another(order: Order, batch: int, steps: int) -> None:
    seen = np.concatenate([order.batch(step, batch, 0, 1) for step in range(steps)])
    epochs = np.concatenate([order.epoch(epoch) for epoch in range(len(seen) // order.num_rows + 1)])
    assert np.array_equal(seen, epochs[: len(seen)])


@given(order=ORDERS, share=st.integers(1, 12), world=st.integers(1, 5), step=st.integers(0, 40))
def test_ranks_share_a_global_batch(order: Order, share: int, world: int, step: int) -> None:
    together = order.batch(step, share * world, 0, 1)
    ranks = [order.batch(step, share * world, rank, world) for rank in range(world)]
    assert all(len(rows) == share for rows in ranks)
    assert np.array_equal(np.concatenate(ranks), together)


@given(order=ORDERS, start=st.integers(0, 500), length=st.integers(0, 300))
def test_any_slice_of_the_stream_can_be_had_alone(order: Order, start: int, length: int) -> None:
    whole = order.rows(0, start + length)
    assert np.array_equal(order.rows(start, start + length), whole[start:])


@given(order=ORDERS)
def test_epochs_and_seeds_differ(order: Order) -> None:
    again = Order(order.num_rows, order.seed, order.group_rows, order.window_groups)
    assert np.array_equal(order.epoch(1), again.epoch(1))
    if order.num_rows >= 40:
        assert not np.array_equal(order.epoch(0), order.epoch(1))
        assert not np.array_equal(order.epoch(0), Order(order.num_rows, order.seed + 1).epoch(0))


@given(num_groups=st.integers(1, 30), window=st.integers(1, 6), seed=st.integers(0, 100))
def test_a_window_reads_few_groups(num_groups: int, window: int, seed: int) -> None:
    size = 16
    order = Order(num_groups * size, seed, group_rows=size, window_groups=window)
    rows = order.epoch(0)
    for start in range(0, len(rows), window * size):
        groups = set((rows[start : start + window * size] // size).tolist())
        assert len(groups) == min(window, num_groups - start // size)


def test_windows_shuffle_groups_and_rows() -> None:
    rows = Order(4096, seed=0, window_groups=2).epoch(0)
    assert not np.array_equal(rows // 256, np.sort(rows // 256))
    assert (np.abs(np.diff(rows)) == 1).mean() < 0.05


# --- ids and fractions ---


def test_row_ids_depend_on_both_names_and_fit_int64() -> None:
    ids = {row_id(data, f"{number:06d}.jpg") for data in ("a", "b") for number in range(5000)}
    assert len(ids) == 10_000 and min(ids) >= 0 and max(ids) < 2**63
    assert row_id("a", "000001.jpg") == row_id("a", "000001.jpg")


def test_fractions_are_nested_and_of_the_size_they_say() -> None:
    ids = np.array([row_id("faces", str(number)) for number in range(20_000)], np.int64)
    share = hash_share(ids, salt=1)
    assert 0 <= share.min() and share.max() < 1
    for fraction in (0.1, 0.25, 0.5):
        assert abs((share < fraction).mean() - fraction) < 0.015
    assert np.array_equal(hash_share(ids[::-1], salt=1), share[::-1])  # of the id alone
    assert abs(np.corrcoef(share, hash_share(ids, salt=0))[0, 1]) < 0.03  # independent of the test split
