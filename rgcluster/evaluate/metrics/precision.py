"""Precision of retrieval (P@10, Tables 1 and 6): the share of the nearest neighbours that have the queried labels."""

from __future__ import annotations

import numpy as np

from rgcluster.errors import DataError, TooFewNeighbours

__all__ = ["nearest", "query_shares", "random_shares"]

_DISTANCES_AT_ONCE = 16_000_000


def nearest(gallery: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the row numbers in `gallery` [G, d] of the k nearest to each of `queries` [Q, d], int64 [Q, k].

    Exact Euclidean distance, nearest first, equal distances by row number;
    TooFewNeighbours where G < k, DataError where the shapes do not fit.
    """
    import torch

    if gallery.ndim != 2 or queries.ndim != 2 or gallery.shape[1] != queries.shape[1]:
        raise DataError(
            f"embeddings are {list(gallery.shape)} and {list(queries.shape)}: expected [G, d] and [Q, d]"
        )
    if not 1 <= k <= len(gallery):
        raise TooFewNeighbours(f"{k} neighbours of {len(gallery)} images: use 1 to {len(gallery)}")
    points = torch.tensor(gallery, dtype=torch.float32)
    found = np.empty((len(queries), k), np.int64)
    step = max(1, _DISTANCES_AT_ONCE // len(gallery))
    for start in range(0, len(queries), step):
        part = torch.tensor(queries[start : start + step], dtype=torch.float32)
        # Not by a matrix product: that gives equal rows distances that differ in the last digit.
        distances = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist")
        last = distances.kthvalue(k, dim=1).values
        for row, (line, limit) in enumerate(zip(distances.numpy(), last.tolist(), strict=True), start):
            near = np.flatnonzero(line <= limit)
            found[row] = near[np.argsort(line[near], kind="stable")[:k]]
    return found


def query_shares(
    gallery_embeddings: np.ndarray,
    gallery_labels: np.ndarray,
    query_embeddings: np.ndarray,
    wanted_labels: np.ndarray,
    k: int = 10,
) -> np.ndarray:
    """Return each query's share of its k nearest whose label is the wanted one, float64 [Q, A] (section 4.1).

    Embeddings are [G, d] and [Q, d], labels 0 or 1, [G, A] and [Q, A]; the
    queried attributes give P@10 attributes, the 35 others P@10 content.
    """
    _check_labels(gallery_labels, wanted_labels)
    if len(gallery_labels) != len(gallery_embeddings) or len(wanted_labels) != len(query_embeddings):
        raise DataError("labels and embeddings differ in number: give one row of labels per embedding")
    found = gallery_labels[nearest(gallery_embeddings, query_embeddings, k)]
    return (found == wanted_labels[:, None, :]).mean(1)


def random_shares(gallery_labels: np.ndarray, wanted_labels: np.ndarray) -> np.ndarray:
    """Return each query's expected share for random neighbours, float64 [Q, A] (Tables 1 and 6).

    It is the share of the gallery that has the wanted label. Labels are 0 or 1, [G, A] and [Q, A].
    """
    _check_labels(gallery_labels, wanted_labels)
    p = gallery_labels.mean(0, dtype=np.float64)
    return np.where(wanted_labels == 1, p, 1 - p)


def _check_labels(gallery: np.ndarray, wanted: np.ndarray) -> None:
    fitting = gallery.ndim == wanted.ndim == 2 and gallery.shape[1] == wanted.shape[1]
    if not fitting or 0 in (len(gallery), len(wanted)):
        raise DataError(
            f"labels are {list(gallery.shape)} and {list(wanted.shape)}: expected [G, A] and [Q, A]"
        )
    if not (np.isin(gallery, (0, 1)).all() and np.isin(wanted, (0, 1)).all()):
        raise DataError("labels must be 0 or 1; CelebA's -1 means 0")
