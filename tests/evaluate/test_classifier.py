"""The attribute classifier learns, answers, and comes back from bytes as it went."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rgcluster.errors import CheckpointError, DataError
from rgcluster.evaluate.metrics.classifier import (
    AttributeClassifier,
    default_architecture,
    train_classifier,
)

NAMES = ("Red", "Bright")


def _coloured(count: int, seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2)).astype(np.int8)
    images = rng.normal(size=(count, side, side, 3)) * 20 + 80
    images[..., 0] += 60 * labels[:, 0, None, None]
    images += 60 * labels[:, 1, None, None, None]
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained() -> AttributeClassifier:
    return train_classifier(*_coloured(256, 0), NAMES, steps=40, width=8)


def test_it_learns_colours(trained: AttributeClassifier) -> None:
    images, labels = _coloured(128, 1)
    assert (trained.predict(images) == labels).mean(0).min() > 0.97


def test_bytes_bring_back_the_very_same_answers(trained: AttributeClassifier) -> None:
    images, _ = _coloured(16, 2)
    back = AttributeClassifier.from_bytes(trained.to_bytes())
    assert back.attribute_names == NAMES
    np.testing.assert_array_equal(back.probabilities(images), trained.probabilities(images))
    assert back.to_bytes() == trained.to_bytes()


def test_damaged_bytes_are_refused(trained: AttributeClassifier) -> None:
    from safetensors.torch import save

    whole = trained.to_bytes()
    for content in (b"", b"no tensors", whole[:-5], save({"x": torch.zeros(1)})):
        with pytest.raises(CheckpointError):
            AttributeClassifier.from_bytes(content)


def test_a_seed_gives_one_classifier_and_leaves_torchs_generator_alone() -> None:
    images, labels = _coloured(32, 3, side=16)
    before = torch.random.get_rng_state()
    first, again = (
        train_classifier(images, labels, NAMES, steps=3, width=4, seed=seed).probabilities(images)
        for seed in (5, 5)
    )
    np.testing.assert_allclose(first, again, atol=1e-6)
    other = train_classifier(images, labels, NAMES, steps=3, width=4, seed=6).probabilities(images)
    assert np.abs(first - other).max() > 1e-4
    # Whoever trains a classifier must not change what others draw.
    assert torch.equal(torch.random.get_rng_state(), before)


def test_progress_is_called_after_every_step() -> None:
    told: list[tuple[int, int]] = []
    images, labels = _coloured(20, 4, side=16)
    train_classifier(
        images,
        labels,
        NAMES,
        steps=4,
        batch_size=10,
        width=4,
        progress=lambda i, n, loss: told.append((i, n)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_invalid_images_and_labels_are_refused(trained: AttributeClassifier) -> None:
    images, labels = _coloured(8, 5, side=16)
    with pytest.raises(DataError, match="32 x 32"):
        trained.predict(images)
    with pytest.raises(DataError, match="uint8"):
        trained.predict(images.astype(np.float32))
    with pytest.raises(DataError, match="labels"):
        train_classifier(images, labels[:4], NAMES, steps=1)
    with pytest.raises(DataError, match="-1"):
        train_classifier(images, labels * 2 - 1, NAMES, steps=1)


def test_resnet50_is_for_large_images() -> None:
    assert default_architecture(32) == default_architecture(64) == "small"
    assert default_architecture(178) == "resnet50"


@pytest.mark.parametrize("side", [64, 128])
def test_the_small_network_takes_other_sizes(side: int) -> None:
    images, _ = _coloured(2, 6, side=side)
    assert AttributeClassifier(NAMES, side, width=4).probabilities(images).shape == (2, 2)
