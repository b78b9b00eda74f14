"""Intervals and p-values of differences between models measured on the same inputs.

With several training seeds, both come from Student's t over the seeds' differences on the same test images. With
one, they come from a bootstrap: test images are resampled, each with all its inputs and the same for every model.
The real images are never resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats takes longer to import than many commands take to run

__all__ = ["LEVEL", "Interval", "contrast", "holm", "inception", "kernel", "mean"]

LEVEL = 0.95
RESAMPLES = 1000
MOST_IMAGES = 10_000
"""Largest number of images for KID and IS, of the first evaluation seeds: the work grows with the square."""
BLOCK = 1024

Array = npt.NDArray[Any]
Images = Mapping[str, Array]
Statistic = Callable[[Images, Array], Array]
"""From a model's images and weights of test rows [R, T] to values [R]."""


class Interval(NamedTuple):
    """A difference, the ends of its interval, each training seed's difference, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    per_training_seed: list[float]
    p: float


def contrast(
    seeds: Sequence[Sequence[tuple[float, Images]]], statistic: Statistic, num_rows: int
) -> Interval:
    """Return the interval of a sum of coefficients times a statistic of models; `seeds` has each training seed's.

    A plain difference has the coefficients 1 and -1. `num_rows` is the length of the test split.
    """
    weights = np.ones((1, num_rows))
    if len(seeds) == 1:
        shares = np.full(num_rows, 1 / num_rows)
        drawn = np.random.default_rng(0).multinomial(num_rows, shares, RESAMPLES)
        weights = np.vstack([weights, drawn])
    values = np.stack(
        [sum(factor * statistic(images, weights) for factor, images in models) for models in seeds]
    )
    points = values[:, 0]
    difference = float(points.mean())
    if len(seeds) > 1:
        error = float(points.std(ddof=1)) / np.sqrt(len(points))
        reach = float(special.stdtrit(len(points) - 1, (1 + LEVEL) / 2)) * error
        low, high = difference - reach, difference + reach
        p = _two_sided(difference, error, lambda ratio: special.stdtr(len(points) - 1, -ratio))
    else:
        low, high = np.nanquantile(values[0, 1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        # A normal tail: the share of 1,000 resamples beyond zero is too coarse for Holm's correction.
        p = _two_sided(
            difference, float(np.nanstd(values[0, 1:], ddof=1)), lambda ratio: special.ndtr(-ratio)
        )
    return Interval(difference, float(low), float(high), points.tolist(), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: rejecting those below a level keeps the family's error rate at the level."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * factors))
    return adjusted.tolist()


def _two_sided(difference: float, error: float, tail: Callable[[float], float]) -> float:
    """Return the two-sided p-value of a difference; with a standard error of 0, any other difference is certain."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return 2 * float(tail(abs(difference) / error))


def mean(key: str) -> Statistic:
    """Return the mean of the images' `key` as a statistic; NaN is left out."""

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
    """Return KID against features `real` [M, D] as a statistic, without the term of the real images alone, which
    cancels in differences.

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
