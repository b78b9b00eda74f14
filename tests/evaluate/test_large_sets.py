"""Evaluation of many images: a sample of them, read piece by piece."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plain_shards import plain_shards
from tiny import tiny_config

from rgcluster.data.index import RowIndex
from rgcluster.data.stream import ImageSource
from rgcluster.evaluate.measure.inputs import LazyImages, sample_of
from rgcluster.evaluate.measure.probe import _pixel_distances
from rgcluster.evaluate.measure.protocol import make_protocol
from rgcluster.evaluate.measure.reference import _judge

SIDE = 32
IMAGE_BYTES = SIDE * SIDE * 3


def jpeg() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def source_of(folder: Path, count: int) -> ImageSource:
    shards = plain_shards(folder / str(count), [["train"] * 100] * (count // 100), jpeg())
    return ImageSource(shards, shards.index("train"), 0, SIDE)


def peak(source: ImageSource) -> int:
    """The largest size of all arrays while the judge is trained and asked about every image."""
    config = tiny_config(f"data.image_size={SIDE}", "evaluation.classifier_steps=1")
    few = dataclasses.replace(source, index=source.index.take(np.arange(64)))
    _judge(config, few, "cpu", 1, None)  # imports what it needs, which is slow while memory is traced
    tracemalloc.start()
    try:
        _judge(config, source, "cpu", 1, None)
        for start in range(0, len(source.index), 100):  # as `predict` does, without the network
            assert LazyImages(source)[start : start + 100].shape == (100, SIDE, SIDE, 3)
        _pixel_distances(source, [np.arange(0, len(source.index), 3)], LazyImages(source)[:1])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """1,500 more images are 4.6 MB decoded."""
    few, many = peak(source_of(tmp_path, 900)), peak(source_of(tmp_path, 2400))
    assert many - few < 1500 * IMAGE_BYTES / 4


def memory(count: int) -> Any:
    """Images in memory behind the interface of a source."""
    generator = np.random.default_rng(1)
    ids = generator.integers(0, 2**62, count)
    index = RowIndex(
        ids, ids[:, None] % 2, [str(row) for row in range(count)], np.zeros((count, 2), np.int64)
    )
    return ImageSource(SimpleNamespace(), index, 0, 8, cached="all images")  # type: ignore[arg-type]


def test_a_sample_is_a_fixed_set_of_rows_whatever_their_order() -> None:
    whole = memory(5000)
    sample = sample_of(whole, 700)
    assert len(sample.index) == 700 and sample.cached is None
    assert (np.diff(np.flatnonzero(np.isin(whole.index.row_ids, sample.index.row_ids))) > 0).all()
    turned = dataclasses.replace(whole, index=whole.index.take(np.arange(5000)[::-1]))
    assert set(sample_of(turned, 700).index.row_ids) == set(sample.index.row_ids)
    assert set(sample_of(whole, 300).index.row_ids) < set(sample.index.row_ids)
    assert sample_of(whole, 5000) is whole
    rows = [int(name) for name in sample.index.file_names]
    assert rows == sorted(rows) and abs(np.mean(rows) - 2500) < 250


def test_the_protocol_says_the_size_of_the_sample() -> None:
    shards: Any = SimpleNamespace(splits={"train": 10**8, "test": 10**6}, digest="d")
    found = make_protocol(tiny_config(), shards, drawn=False)
    assert found["gallery"] == found["classifier"]["images"] == found["test_images"] == 250_000
    few: Any = SimpleNamespace(splits={"train": 200_599, "test": 2000}, digest="d")
    assert make_protocol(tiny_config(), few, drawn=False)["gallery"] == 200_599


def test_lazy_images_are_an_array(tmp_path: Path) -> None:
    source = source_of(tmp_path, 500)
    lazy, whole = LazyImages(source), source.images(np.arange(500))
    assert lazy.shape == whole.shape and lazy.dtype == whole.dtype and len(lazy) == 500 and lazy.ndim == 4
    assert np.array_equal(lazy[7:9], whole[7:9]) and np.array_equal(lazy[np.array([9, 2])], whole[[9, 2]])
    assert np.array_equal(lazy[490:600], whole[490:])


def test_distances_by_pixels_are_those_of_all_members_at_once() -> None:
    generator = np.random.default_rng(2)
    pixels = generator.integers(0, 256, (600, 8, 8, 3), np.uint8)
    train: Any = SimpleNamespace(images=lambda rows: pixels[rows])
    queries = generator.integers(0, 256, (3, 8, 8, 3), np.uint8)
    members = [np.arange(0, 600, 2), np.empty(0, np.int64), np.array([3, 255, 256, 599])]
    for image, inside, found in zip(queries, members, _pixel_distances(train, members, queries), strict=True):
        expected = np.abs(pixels[inside].astype(np.int16) - image).mean(axis=(1, 2, 3))
        assert np.array_equal(found, expected)
    assert _pixel_distances(train, [], queries[:0]) == []


@pytest.mark.parametrize("count", [64, 100])
def test_a_judge_of_lazy_images_is_that_of_the_array(tmp_path: Path, count: int) -> None:
    from rgcluster.evaluate.metrics.classifier import train_classifier

    source = source_of(tmp_path, 500)
    source = dataclasses.replace(source, index=source.index.take(np.arange(count)))
    images, labels = LazyImages(source), source.index.labels
    lazy = train_classifier(images, labels, ("a", "b", "c"), steps=3, width=4)
    whole = train_classifier(images[:], labels, ("a", "b", "c"), steps=3, width=4)
    assert np.array_equal(lazy.probabilities(images), whole.probabilities(images[:]))
