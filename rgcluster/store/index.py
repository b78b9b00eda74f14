"""Exact nearest neighbours of one shard: FAISS proposes, float64 decides.

FAISS computes |q|^2 - 2 q.x + |x|^2 in float32, which cancels: its order of
near neighbours, and so the answer, would depend on the batch and on the other
rows of the shard. Every candidate is therefore measured again as |q - x| in
float64, and a row whose candidates might miss a neighbour searches again
within a radius that cannot.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.errors import DataError, TooFewNeighbours

__all__ = ["NO_ID", "ExactIndex", "as_vectors", "nearest_first", "require_neighbours", "too_few"]

NO_ID = -1

_SPARE = 12
_MAX_SQUARED_NORM = 1e36
_FLOAT32_ROUNDING = 2.0**-24


class ExactIndex:
    """Vectors [N, d] under their int64 ids, searched exactly."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._flat = faiss.IndexFlatL2(dimension)
        self._ids = np.empty(0, np.int64)
        self._largest_norm = 0.0

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows [N], [N, d]; DataError for ids twice, the id -1, NaN, infinity or another dimension."""
        new = np.asarray(ids, np.int64)
        rows = as_vectors(vectors, self.dimension)
        if new.shape != (len(rows),):
            raise DataError(f"{new.size} ids for {len(rows)} vectors: give one id per vector")
        if (new == NO_ID).any():
            raise DataError(f"the id {NO_ID} means 'no image': give the image another id")
        together = np.concatenate([self._ids, new])
        unique, counts = np.unique(together, return_counts=True)
        if len(unique) != len(together):
            raise DataError(f"the id {unique[counts > 1][0]} is given twice: remove one of the two images")
        if len(rows):
            self._flat.add(rows)
            self._largest_norm = max(self._largest_norm, float(_norms(rows).max()))
        self._ids = together

    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors [n, d] at positions [n], in the order of adding."""
        if not len(positions):
            return np.empty((0, self.dimension), np.float32)
        return self._flat.reconstruct_batch(np.ascontiguousarray(positions, np.int64))

    def search(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return distances [B, k] and ids [B, k], by distance, then id; TooFewNeighbours if k is too many."""
        squared, found = self.nearest(queries, k, exclude)
        require_neighbours(squared, k, excluding=exclude is not None)
        return np.sqrt(squared).astype(np.float32), found

    def nearest(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return squared distances [B, k] and ids [B, k] as `search` does, padded with infinity and -1."""
        rows = as_vectors(queries, self.dimension)
        out = np.full((len(rows), k), np.inf), np.full((len(rows), k), NO_ID, np.int64)
        if not len(rows) or not len(self):
            return out
        barred = np.full(len(rows), NO_ID) if exclude is None else np.asarray(exclude, np.int64)
        _configure_faiss()
        width = min(len(self), k + (exclude is not None) + _SPARE)
        rough, positions = self._flat.search(rows, width)
        squared = self._measure(rows, positions, barred)
        ids = self._ids[positions]
        out[0][:, :width], out[1][:, :width] = nearest_first(squared, ids, k)
        if width < len(self):
            reach = out[0][:, -1] + self._rounding(rows)
            for row in np.flatnonzero(rough[:, -1] <= reach):
                out[0][row], out[1][row] = self._within(rows[row], reach[row], k, barred[row])
        return out

    def _within(
        self, query: NDArray[np.float32], reach: float, k: int, barred: int
    ) -> tuple[NDArray, NDArray]:
        _, _, positions = self._flat.range_search(
            query[None], np.nextafter(np.float32(reach), np.float32(np.inf))
        )
        squared = self._measure(query[None], positions[None], np.array([barred]))
        best, ids = nearest_first(squared, self._ids[positions][None], k)
        return best[0], ids[0]

    def _measure(
        self, queries: NDArray[np.float32], positions: NDArray[np.int64], barred: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return |q - x|^2 [B, n] in float64, infinity for the barred ids."""
        number = positions.shape[1]
        candidates = self.vectors(positions.ravel()).astype(np.float64)
        difference = candidates - np.repeat(queries.astype(np.float64), number, axis=0)
        squared = np.square(difference).sum(axis=1).reshape(-1, number)
        banned = (self._ids[positions] == barred[:, None]) & (barred[:, None] != NO_ID)
        return np.where(banned, np.inf, squared)

    def _rounding(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return by how much [B] FAISS's float32 |q - x|^2 may err (twice the bound for a dot product)."""
        relative = 2 * (self.dimension + 4) * _FLOAT32_ROUNDING
        return relative * np.square(_norms(queries) + self._largest_norm) + self.dimension * 1e-37


def as_vectors(values: ArrayLike, dimension: int) -> NDArray[np.float32]:
    """Return values as contiguous float32 [N, dimension]; DataError for another shape, NaN or infinity."""
    rows = np.ascontiguousarray(values, np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise DataError(f"vectors of shape {list(rows.shape)}: this store needs [N, {dimension}]")
    bad = np.flatnonzero(~(np.square(_norms(rows)) < _MAX_SQUARED_NORM))
    if bad.size:
        raise DataError(
            f"row {bad[0]} of the vectors is NaN, infinite or too large: check the network behind it"
        )
    return rows


def nearest_first(
    squared: NDArray[np.float64], ids: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the first k of candidates [B, n] by distance, then id; -1 where the distance is infinite."""
    order = np.lexsort((ids, squared), axis=-1)[:, :k]
    best = np.take_along_axis(squared, order, axis=1)
    return best, np.where(np.isinf(best), NO_ID, np.take_along_axis(ids, order, axis=1))


def require_neighbours(squared: NDArray[np.float64], k: int, excluding: bool) -> None:
    """Raise TooFewNeighbours where a row of squared distances [B, k] is padded."""
    found = np.isfinite(squared).sum(axis=1)
    if len(found) and found.min() < k:
        raise too_few(k, int(found.min()), excluding)


def too_few(k: int, held: int, excluding: bool) -> TooFewNeighbours:
    """Return the error for k neighbours out of `held` images."""
    besides = " besides the query's own" if excluding else ""
    return TooFewNeighbours(
        f"asked for {k} neighbours but the store holds {held} images{besides}: ask for fewer or add images"
    )


def _norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))


def _configure_faiss() -> None:
    # Before every search, since OpenMP keeps its number of threads per thread.
    faiss.omp_set_num_threads(1)
    # The default, 128,000, leaves BLAS unused on batches of a training step.
    faiss.cvar.distance_compute_blas_threshold = 20
