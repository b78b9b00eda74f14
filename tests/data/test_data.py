"""Attributes and targets, images, the training order, splits and fractions."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rgcluster.base.attributes import (
    change_domain,
    domain_columns,
    one_change_each,
    parse_target,
)
from rgcluster.bench.rows import groups_read
from rgcluster.config import Config, DataConfig, load_config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.images import decode_image, encode_png, grid, prepare_image
from rgcluster.data.order import BalancedOrder, Order, ShuffledOrder, WindowedOrder, permuted
from rgcluster.data.splits import assign_splits, hash_share, row_id
from rgcluster.data.stream import StreamPlan
from rgcluster.errors import ConfigError, ContradictoryTarget, DataError
from rgcluster.translate.finished import KEEP, wanted_changes

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
        DataError, match=r"^shards: no attribute 'Blond': did you mean 'Blond_Hair'\?; the attributes are"
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


def test_a_class_is_changed_by_naming_another_one() -> None:
    """An image is of exactly one class; clearing one leaves none."""
    data = DataConfig(attributes=("cat", "dog", "fox"), exclusive=(), domains="one-hot")
    assert wanted_changes("dog", data).tolist() == [0, 1, 0]
    assert wanted_changes("-cat,dog", data).tolist() == [0, 1, 0]
    assert wanted_changes("", data).tolist() == [KEEP] * 3
    with pytest.raises(ContradictoryTarget, match="exactly one of these classes; name the one wanted"):
        wanted_changes("-cat", data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Blonde_Hair", "no attribute 'Blonde_Hair': did you mean 'Blond_Hair'?"),
        ("Male,-Male", "Male is both set and cleared"),
        ("Black_Hair,Blond_Hair", "Black_Hair and Blond_Hair exclude each other"),
        ("Smiling", f"no attribute 'Smiling'; the attributes are {', '.join(DOMAIN)}"),
        ("Male;Young", "no attribute 'Male;Young'; separate names by commas; the attributes are Black_Hair"),
    ],
)
def test_bad_targets(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        parse_target(text, [0] * 5, DOMAIN, HAIR)
    assert str(caught.value).startswith(f"--to {text}: ") and "\n" not in str(caught.value)


def test_without_attributes_none_is_listed() -> None:
    with pytest.raises(ConfigError, match="no attribute 'Male'; the images have no labels"):
        parse_target("Male", [], [], [])


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

SHUFFLED = st.builds(ShuffledOrder, num_rows=st.integers(1, 200), seed=st.integers(-(2**31), 2**64))


def windowed(sizes: list[int], seed: int, batch: int, window_groups: int = 1) -> WindowedOrder:
    """The order of row groups of these sizes."""
    return WindowedOrder(np.cumsum([0, *sizes]), seed, batch, window_groups)


WINDOWED = st.builds(
    windowed,
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    seed=st.integers(-(2**31), 2**64),
    batch=st.integers(1, 20),
    window_groups=st.integers(1, 12),
)
ORDERS = st.one_of(SHUFFLED, WINDOWED)


def epoch_of(order: ShuffledOrder | WindowedOrder, epoch: int) -> np.ndarray:
    return order.rows(epoch * order.num_rows, (epoch + 1) * order.num_rows)


def batch_of(order: Order, step: int, batch: int, rank: int, world: int) -> np.ndarray:
    """The rows of `rank` at `step`, as the stream takes them."""
    positions = np.arange(step * batch, (step + 1) * batch)
    plan = StreamPlan(step, step + 1, batch, rank, world, 0)
    return order.rows(positions[0], positions[-1] + 1)[plan.of_rank(positions)]


@given(order=ORDERS, epoch=st.integers(0, 5))
def test_an_epoch_holds_every_row_once(order: ShuffledOrder | WindowedOrder, epoch: int) -> None:
    assert sorted(epoch_of(order, epoch).tolist()) == list(range(order.num_rows))


@given(order=ORDERS, batch=st.integers(1, 50), steps=st.integers(1, 12))
def test_batches_are_the_epochs_one_after_another(
    order: ShuffledOrder | WindowedOrder, batch: int, steps: int
) -> None:
    seen = np.concatenate([batch_of(order, step, batch, 0, 1) for step in range(steps)])
    epochs = np.concatenate([epoch_of(order, epoch) for epoch in range(len(seen) // order.num_rows + 1)])
    assert np.array_equal(seen, epochs[: len(seen)])


@given(order=ORDERS, share=st.integers(1, 12), world=st.integers(1, 5), step=st.integers(0, 40))
def test_ranks_share_a_global_batch(order: Order, share: int, world: int, step: int) -> None:
    together = batch_of(order, step, share * world, 0, 1)
    ranks = [batch_of(order, step, share * world, rank, world) for rank in range(world)]
    assert all(len(rows) == share for rows in ranks)
    assert np.array_equal(np.concatenate(ranks), together)


@given(order=ORDERS, start=st.integers(0, 500), length=st.integers(0, 300))
def test_any_slice_of_the_stream_can_be_had_alone(order: Order, start: int, length: int) -> None:
    whole = order.rows(0, start + length)
    assert np.array_equal(order.rows(start, start + length), whole[start:])


@given(order=ORDERS, start=st.integers(0, 400), length=st.integers(0, 300))
def test_windows_cut_the_stream_without_a_gap(order: Order, start: int, length: int) -> None:
    windows = list(order.windows(start, start + length))
    assert [position for window in windows for position in range(window.start, window.stop)] == list(
        range(start, start + length)
    )
    for window in windows:
        assert len(order.read(window)) == window.stop - window.start


@given(count=st.integers(1, 300), seed=st.integers(-(2**31), 2**64), epoch=st.integers(0, 9))
def test_a_permutation_can_be_had_in_pieces(count: int, seed: int, epoch: int) -> None:
    whole = permuted(np.arange(count), count, seed, epoch)
    assert sorted(whole.tolist()) == list(range(count))
    assert permuted(np.arange(count // 3, count // 2), count, seed, epoch).tolist() == (
        whole[count // 3 : count // 2].tolist()
    )


@pytest.mark.parametrize("count", [5, 54])
def test_every_permutation_is_equally_likely(count: int) -> None:
    """As far as each number's place tells: chi-square over 2,000 seeds, far from its tail."""
    found = np.zeros((count, count))
    for seed in range(2000):
        found[np.arange(count), permuted(np.arange(count), count, seed, 0)] += 1
    expected, freedom = 2000 / count, (count - 1) ** 2
    chi = ((found - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_epochs_and_seeds_differ() -> None:
    orders = [
        ShuffledOrder(100, 0),
        ShuffledOrder(100, 1),
        windowed([5] * 20, 0, 4),
        windowed([5] * 20, 1, 4),
    ]
    epochs = [tuple(epoch_of(order, epoch)) for order in orders for epoch in range(2)]
    assert len(set(epochs)) == len(epochs)
    assert epochs[4] == tuple(epoch_of(windowed([5] * 20, 0, 4), 0))


# --- windows of row groups ---


def reads(order: WindowedOrder, world: int, epoch: int = 0) -> list[int]:
    """How many row groups each rank reads in an epoch, a window's groups once."""
    found = [0] * world
    start, stop = epoch * order.num_rows, (epoch + 1) * order.num_rows
    for window in order.windows(start, stop):
        groups = np.searchsorted(order.edges, order.read(window), side="right")
        positions = np.arange(window.start, window.stop)
        for rank in range(world):
            mine = StreamPlan(0, 1, order.batch, rank, world, 0).of_rank(positions)
            found[rank] += len(set(groups[mine].tolist()))
    return found


SIZES = np.random.default_rng(0).binomial(64, 0.93, 1200).tolist()
"""Row groups that lack the rows of other splits."""


@pytest.mark.parametrize("world", [1, 5, 8, 64])
@pytest.mark.parametrize("epoch", [0, 3])
def test_the_ranks_together_read_hardly_more_than_there_is(world: int, epoch: int) -> None:
    """Sixteen rows a rank; 5 does not divide the batch, and windows begin anywhere in a batch."""
    order = windowed(SIZES, 7, 1024)
    each = reads(order, world, epoch)
    assert sum(each) <= 1.13 * len(SIZES) and max(each) <= 1.2 * len(SIZES) / world + 2
    assert world > 1 or each == [len(SIZES)]


def test_a_simulated_world_counts_what_the_ranks_read() -> None:
    order = windowed(SIZES, 7, 1024)  # one window an epoch
    assert order.num_windows == 1
    for world in (1, 5, 64):
        window = next(order.windows(order.num_rows * 3 // 2, 2 * order.num_rows))
        groups = np.searchsorted(order.edges, order.read(window), side="right")
        places = np.arange(window.start, window.stop) % 1024
        each = [
            set(groups[(1024 * rank // world <= places) & (places < 1024 * (rank + 1) // world)].tolist())
            for rank in range(world)
        ]
        expected = sum(map(len, each)) / len(set.union(*each))
        assert groups_read(order, world) == pytest.approx(expected)


def test_a_world_of_one_row_a_rank_reads_groups_twice_at_most() -> None:
    assert sum(reads(windowed(SIZES, 7, 64), 64)) <= 2.1 * len(SIZES)


@pytest.mark.parametrize("batch", [2, 4, 16, 64])
def test_a_batch_draws_from_as_many_groups_as_it_can(batch: int) -> None:
    """Rows of a small batch come from any of a window's 32 groups, those of a large one from different groups."""
    order = WindowedOrder(np.cumsum([0, *SIZES]), 3, batch)
    groups = np.searchsorted(order.edges, epoch_of(order, 0), side="right")
    steps = groups[: len(groups) // batch * batch].reshape(-1, batch)
    different = np.mean([len(set(step)) for step in steps.tolist()])
    assert different > 0.97 * batch
    seen = [len(set(steps[at : at + 64].ravel().tolist())) for at in range(0, len(steps) - 64, 64)]
    assert np.mean(seen) > min(24, 64 * batch / 6)


@pytest.mark.parametrize(("rows", "batch"), [(3400, 8), (3400, 16), (40_000, 16), (40_000, 64)])
def test_batches_of_classes_in_order_are_mixed(rows: int, batch: int) -> None:
    """The first half is one class: its share of a batch varies as by chance, and drifts little over 512 images."""
    spreads, drifts = [], []
    for seed in range(5):
        order = WindowedOrder(np.append(np.arange(0, rows, 64), rows), seed, batch)
        first = epoch_of(order, 0) < rows // 2
        shares = first[: rows // batch * batch].reshape(-1, batch).mean(axis=1)
        spreads.append(shares.std() / np.sqrt(0.25 / batch))
        drifts.append(first[: rows // 512 * 512].reshape(-1, 512).mean(axis=1).std())
    assert np.mean(spreads) < 1.1 and np.mean(drifts) < 0.12


def test_neighbours_in_the_shards_are_apart_in_an_epoch() -> None:
    rows = epoch_of(WindowedOrder(np.arange(0, 4097, 64), 0, 16), 0)
    groups = rows // 64
    assert not np.array_equal(groups, np.sort(groups))
    assert (np.abs(np.diff(rows)) == 1).mean() < 0.05
    place = np.argsort(rows)
    assert np.median(np.abs(np.diff(place))) > 200


def test_windows_are_even() -> None:
    order = WindowedOrder(np.arange(0, 64 * 1000 + 1, 64), 0, 16)
    sizes = {window.stop - window.start for window in order.windows(0, order.num_rows)}
    assert order.num_windows == 31 and sizes == {64 * 32, 64 * 33}
    huge = WindowedOrder(np.arange(0, 64 * 1000 + 1, 64), 0, 10**5)
    assert huge.num_windows == 1


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    seed=st.integers(0, 50),
    start=st.integers(0, 60),
    length=st.integers(0, 80),
)
def test_a_balanced_stream_gives_each_domain_its_turn(
    sizes: list[int], seed: int, start: int, length: int
) -> None:
    edges = np.cumsum([0, *sizes])
    groups = tuple(np.arange(first, last) for first, last in zip(edges, edges[1:], strict=False))
    order = BalancedOrder(groups, seed)
    number = len(groups)
    rounds = order.rows(0, 30 * number).reshape(30, number)
    of_row = np.repeat(np.arange(number), sizes)
    assert (np.sort(of_row[rounds], axis=1) == np.arange(number)).all()  # once a round
    for group, rows in enumerate(groups):  # every row of a domain before any comes again
        seen = rounds[of_row[rounds] == group]
        for at in range(0, 30 - len(rows) + 1, len(rows)):
            assert sorted(seen[at : at + len(rows)].tolist()) == rows.tolist()
    whole = order.rows(0, start + length)
    assert np.array_equal(order.rows(start, start + length), whole[start:])


# --- ids, splits and fractions ---


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


def test_the_random_split_takes_2000_by_seed() -> None:
    ids = np.array([row_id("celeba", str(number)) for number in range(30_000)], np.int64)
    first, again, other = (assign_splits(ids, None, "auto", seed, "x") for seed in (0, 0, 1))
    assert first == again != other
    assert first.count("test") == 2000 and first.count("train") == 28_000
    assert assign_splits(ids[:100], None, "random", 0, "x").count("test") == 10


def test_a_source_that_knows_its_split_keeps_it() -> None:
    ids = np.arange(4)
    assert assign_splits(ids, ["train", "val", "test", "train"], "auto", 0, "x")[1] == "val"
    assert assign_splits(ids, ["train", "val", "val", "train"], "official", 0, "x")[1:3] == ["test"] * 2
    assert assign_splits(ids, ["train"] * 4, "random", 0, "x").count("test") == 1
    with pytest.raises(DataError, match="names no split of its own; use --split random"):
        assign_splits(ids, None, "official", 0, "faces")
