"""Bootstrap intervals of differences between models measured on the same inputs.

Test images are drawn with replacement, each with all its inputs, the same for every model; above them, where
several training seeds were run, the seeds are too. The real images stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["LEVEL", "Interval", "contrast", "inception", "kernel", "mean"]

LEVEL = 0.95
RESAMPLES = 1000
MOST_IMAGES = 10_000
"""KID and IS take at most so many images, of the first evaluation seeds: the work grows with the square."""
BLOCK = 1024

Array = npt.NDArray[Any]
Images = Mapping[str, Array]
Statistic = Callable[[Images, Array], Array]
"""From a model's images and weights of test rows [R, T] to values [R]."""


class Interval(NamedTuple):
    """A difference, the ends of its interval, and the difference within each training seed."""

    difference: float
    low: float
    high: float
    per_training_seed: list[float]


def contrast(
    seeds: Sequence[Sequence[tuple[float, Images]]], statistic: Statistic, num_rows: int, seed: int = 0
) -> Interval:
    """Return the interval of a sum of coefficients times a statistic of models, for each training seed's models.

    A plain difference has the coefficients 1 and -1. `num_rows` is the length of the test split.
    """
    generator = np.random.default_rng(seed)
    shares = np.full(num_rows, 1 / num_rows)
    weights = np.vstack([np.ones(num_rows), generator.multinomial(num_rows, shares, RESAMPLES)])
    values = np.stack(
        [sum(factor * statistic(images, weights) for factor, images in models) for models in seeds]
    )
    count = len(values)
    chosen = generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    drawn = (chosen * values[:, 1:].T).sum(axis=1)
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    points = values[:, 0]
    return Interval(float(points.mean()), float(low), float(high), points.tolist())


def mean(key: str) -> Statistic:
    """Return the statistic that is the mean of the images' `key`; NaN counts for nothing."""

    def statistic(images: Images, weights: Array) -> Array:
        values, rows = images[key].astype(np.float64), images["row"]
        known = ~np.isnan(values)
        length = weights.shape[1]
        sums = np.bincount(rows[known], values[known], minlength=length)
        counts = np.bincount(rows[known], minlength=length)
        with np.errstate(invalid="ignore"):
            return weights @ sums / (weights @ counts)

    return statistic


def kernel(real: Array) -> Statistic:
    """Return KID against features `real` [M, D], but for the real images' own term, which differences lose.

    The unbiased estimate over all images at once; pairs of copies of one image are left out.
    """
    real = real.astype(np.float32)

    def statistic(images: Images, weights: Array) -> Array:
        features = images["features"][:MOST_IMAGES].astype(np.float32)
        drawn = weights[:, images["row"][:MOST_IMAGES]].astype(np.float32)
        among, across = np.zeros(len(drawn)), np.empty(len(features))
        for start in range(0, len(features), BLOCK):
            part = slice(start, start + BLOCK)
            own = _cubic(features[part], features)
            own[np.arange(len(own)), np.arange(start, start + len(own))] = 0
            among += ((drawn[:, part] @ own) * drawn).sum(axis=1, dtype=np.float64)
            across[part] = _cubic(features[part], real).mean(axis=1, dtype=np.float64)
        total, squares = drawn.sum(axis=1, dtype=np.float64), (drawn.astype(np.float64) ** 2).sum(axis=1)
        return among / (total**2 - squares) - 2 * (drawn @ across) / total

    return statistic


def inception(images: Images, weights: Array) -> Array:
    """Return IS of all images at once, without splits."""
    logits = images["logits"][:MOST_IMAGES].astype(np.float64)
    drawn = weights[:, images["row"][:MOST_IMAGES]].astype(np.float64)
    drawn /= drawn.sum(axis=1, keepdims=True)
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    return np.exp(drawn @ _entropy_terms(shares) - _entropy_terms(drawn @ shares))


def _entropy_terms(shares: Array) -> Array:
    """Return the sum of p log p along the last axis; 0 log 0 is 0."""
    return (shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=-1)


def _cubic(x: Array, y: Array) -> Array:
    base = x @ y.T / np.float32(x.shape[1]) + np.float32(1)
    return base * base * base
