"""Errors of a translation against the true counterfactual, and how much of the other attributes it kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rgcluster.errors import DataError
from rgcluster.evaluate.metrics.images import check_images

__all__ = ["EDITED", "content_kept", "edit_and_keep_errors", "edit_region", "mean_absolute_difference"]

EDITED = 10
"""A pixel belongs to the edit region where it changes by more than this, of 255, averaged over the channels."""


def edit_region(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return where images uint8 [N, H, W, 3] differ by more than `EDITED`, bool [N, H, W]."""
    return np.abs(before.astype(np.int16) - after).mean(axis=3) > EDITED


def edit_and_keep_errors(
    inputs: np.ndarray, made: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's mean absolute error to the truth where the truth changes the input, and elsewhere.

    Both are float64 [N] on the scale 0 to 1, NaN where an image has no such pixel. A translation that changes
    nothing has a keep error near 0 and the whole edit error; one that repaints everything has both.
    """
    region = edit_region(inputs, truth)
    errors = np.abs(made.astype(np.int16) - truth).mean(axis=3) / 255
    return _mean_where(errors, region), _mean_where(errors, ~region)


def _mean_where(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    counts = region.sum(axis=(1, 2))
    sums = np.where(region, values, 0).sum(axis=(1, 2))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def mean_absolute_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference per image, float64 [N], of images uint8 [N, H, W, 3].

    On the scale 0 to 1, where 1 is black against white. Only drawn faces have a true
    counterfactual to compare with.
    """
    check_images(a)
    check_images(b)
    if a.shape != b.shape:
        raise DataError(f"images have shapes {list(a.shape)} and {list(b.shape)}: they must be equal")
    result = np.empty(len(a))
    for i, (left, right) in enumerate(zip(a, b, strict=True)):
        result[i] = np.abs(left.astype(np.int16) - right).mean() / 255
    return result


def content_kept(before: np.ndarray, after: np.ndarray, columns: Sequence[int]) -> np.ndarray | None:
    """Return the share of `columns` on which two predictions, bool [N, A], agree, float64 [N].

    `before` is the classifier's answer on the inputs and `after` on their
    translations; `columns` are the attributes that define no domain. None
    where there are no such columns.
    """
    if before.shape != after.shape or before.ndim != 2:
        raise DataError(f"predictions are {list(before.shape)} and {list(after.shape)}: both must be [N, A]")
    if len(columns) == 0:
        return None
    chosen = list(columns)
    return (before[:, chosen] == after[:, chosen]).mean(1)
