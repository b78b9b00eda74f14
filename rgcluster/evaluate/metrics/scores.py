"""Distances and scores on features and logits, whatever network made them.

KID and IS are torch-fidelity's. FID is not: torch-fidelity takes the eigenvalues of a product of two covariances, which
is slow, and inexact for few images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from rgcluster.errors import DataError

__all__ = [
    "FID_MINIMUM",
    "FID_UNBIASED",
    "Fid",
    "fid_or_reason",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "pairwise_diversity",
]

FID_MINIMUM = 2_048
"""FID is None below this number of images on either side."""

FID_UNBIASED = 10_000
"""FID comes with a warning below this number of images on either side: its bias grows as the sets shrink."""


class Fid(NamedTuple):
    """A Frechet distance, or None, with the reason for None or a warning, if any."""

    value: float | None
    note: str | None


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of Gaussians fitted to features [N, D], [M, D] (Heusel 2017)."""
    a, b = (side.astype(np.float64) for side in _pair(a, b, at_least=2))
    mean_a, mean_b = a.mean(0), b.mean(0)
    root_a, root_b = _covariance_root(a - mean_a), _covariance_root(b - mean_b)
    # With S = R^T R on either side, trace sqrt(S_a S_b) is the sum of the singular values of R_a R_b^T:
    # no square root of a matrix, and with N < D the roots are thin and the work is small.
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return max(float(distance), 0.0)


def fid_or_reason(a: np.ndarray, b: np.ndarray) -> Fid:
    """Return `frechet_distance` of features [N, D] and [M, D]; None and the reason for too small N or M."""
    smaller = min(len(a), len(b))
    if smaller < FID_MINIMUM:
        return Fid(None, f"{smaller:,} images: below {FID_MINIMUM:,} FID mostly measures their number")
    note = f"{smaller:,} images: below {FID_UNBIASED:,} FID is biased upwards; read KID first"
    return Fid(frechet_distance(a, b), note if smaller < FID_UNBIASED else None)


def kernel_distance(
    a: np.ndarray, b: np.ndarray, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return KID of features [N, D] and [M, D]: mean and deviation over subsets (Binkowski et al. 2018).

    The kernel is (x.y / D + 1)^3 and the estimate of MMD^2 the unbiased one; a
    `subset_size` of None is 1,000, or half of the smaller set where that is less.
    Raises DataError where a subset is larger than a set.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = (side.astype(np.float32) for side in _pair(a, b, at_least=4))
    smaller = min(len(a), len(b))
    size = min(1_000, smaller // 2) if subset_size is None else subset_size
    if not 2 <= size <= smaller:
        raise DataError(f"subsets of {size} from {smaller} features: choose 2 to {smaller}")
    found = kid_features_to_metric(
        torch.from_numpy(a),
        torch.from_numpy(b),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def inception_score(logits: np.ndarray, *, splits: int = 10) -> tuple[float, float]:
    """Return IS of logits [N, C]: mean and deviation over shuffled splits (Salimans et al. 2016)."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    if logits.ndim != 2 or len(logits) < splits:
        raise DataError(f"logits have shape {list(logits.shape)}, expected [N, C] with N at least {splits}")
    found = isc_features_to_metric(torch.tensor(logits), splits)
    return found["inception_score_mean"], found["inception_score_std"]


def pairwise_diversity(groups: Iterable[np.ndarray]) -> float:
    """Return the mean squared distance of two rows of a group, each [S, P], averaged over the groups.

    On the rows of a perceptual extractor this is the paper's LPIPS diversity
    (section 4.1); S must be at least 2, else DataError.
    """
    values = []
    for rows in groups:
        if rows.ndim != 2 or len(rows) < 2:
            raise DataError(f"a group has shape {list(rows.shape)}, expected [S, P] with S at least 2")
        # The mean over all pairs is twice the unbiased variance; no difference of large numbers.
        centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
        values.append(2 * (centred**2).sum() / (len(rows) - 1))
    if not values:
        raise DataError("no group of samples: diversity needs at least one")
    return float(np.mean(values))


def _pair(a: np.ndarray, b: np.ndarray, at_least: int) -> tuple[np.ndarray, np.ndarray]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < at_least:
        raise DataError(
            f"features have shapes {list(a.shape)} and {list(b.shape)}, expected [N, D] and [M, D] with at "
            f"least {at_least} rows"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("features contain NaN or infinity: check the images they were computed from")
    return a, b


def _covariance_root(centred: np.ndarray) -> np.ndarray:
    """Return R with R^T R the covariance of `centred` [N, D]; R is [min(N, D), D]."""
    count, width = centred.shape
    if count <= width:
        return centred / np.sqrt(count - 1)
    values, vectors = np.linalg.eigh(centred.T @ centred / (count - 1))
    return np.sqrt(values.clip(min=0))[:, None] * vectors.T
