"""Approximate indexes over the rows of a snapshot: IVF-Flat, HNSW, IVF-PQ.

The index finds candidates, whose distances are computed again in float64 from the vectors on disk. Rows removed
after the build stay in it, without appearing in results, until the next compaction. A query with fewer than k
results reads all vectors instead, so a result is never short.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from rgcluster.errors import CheckpointError
from rgcluster.store.index.exact import (
    NO_ID,
    Found64,
    as_vectors,
    configure_faiss,
    measure,
    nearest_first,
    on_gpu,
)
from rgcluster.store.index.plan import HNSW_LINKS, Plan
from rgcluster.store.index.rows import SPLITS, Rows

__all__ = ["ApproximateIndex"]

_TRAIN_PER_LIST = 40
_PIECE = 65_536
_PROBES = 256
"""Number of queries for tuning, and of other queries for measuring the recall."""
_RECALL_AT = 3
_MARGIN = 0.01
_SEED = 7
log = logging.getLogger(__name__)


class _Live:
    """The rows that were not removed: a bit for each, and the number of each tag. A removal costs O(its rows)."""

    def __init__(self, tags: NDArray[np.uint8]) -> None:
        self._tags = tags
        self._bits = np.packbits(np.ones(len(tags), bool), bitorder="little")
        self._counts = np.bincount(tags, minlength=len(SPLITS))
        self._tagged: dict[tuple[int, ...], NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return int(self._counts.sum())

    def has(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (self._bits[positions >> 3] >> (positions & 7) & 1).astype(bool)

    def remove(self, positions: NDArray[np.int64]) -> None:
        held = np.unique(positions)
        held = held[self.has(held)]
        np.bitwise_and.at(self._bits, held >> 3, ~(1 << (held & 7)).astype(np.uint8))
        self._counts -= np.bincount(self._tags[held], minlength=len(SPLITS))

    def among(self, tags: Sequence[int] | None) -> tuple[int, NDArray[np.uint8]]:
        """Return the number of rows with these tags, and a bit for each row; all tags if None."""
        if tags is None:
            return len(self), self._bits
        wanted = tuple(tags)
        if wanted not in self._tagged:
            self._tagged[wanted] = np.packbits(np.isin(self._tags, wanted), bitorder="little")
        return int(self._counts[list(wanted)].sum()), self._tagged[wanted] & self._bits


class ApproximateIndex:
    """A FAISS index over `vectors`, which stay on disk; row i has the id ids[i]."""

    def __init__(
        self,
        plan: Plan,
        inner: Any,
        ids: NDArray[np.int64],
        tags: NDArray[np.uint8],
        vectors: Rows,
        effort: int,
        measured: float,
        *,
        gpu: bool = False,
    ) -> None:
        self.plan, self.effort, self.measured_recall = plan, effort, measured
        self.kind: str = plan.kind
        self._inner, self._ids, self._vectors, self._live = inner, ids, vectors, _Live(tags)
        self._searcher = on_gpu(inner) if gpu and self.kind != "hnsw" else inner

    @classmethod
    def build(
        cls,
        plan: Plan,
        ids: NDArray[np.int64],
        tags: NDArray[np.uint8],
        vectors: Rows,
        *,
        gpu: bool = False,
    ) -> ApproximateIndex:
        """Train and fill an index, then raise its effort (cells or nodes visited) until it reaches the planned recall.

        `measured_recall` comes from other queries than the tuning. All queries are stored vectors, excluded from
        their own results.
        """
        count = len(ids)
        plan = replace(plan, vectors=count)
        log.info("%s", plan.describe())
        configure_faiss(count)
        generator = np.random.default_rng(_SEED)
        inner = _empty(plan)
        if not inner.is_trained:
            sample = min(count, max(_TRAIN_PER_LIST * plan.lists, 256 * 40))
            inner.train(vectors.read(np.sort(generator.choice(count, sample, replace=False))))
        for start in range(0, count, _PIECE):
            inner.add(vectors.read(np.arange(start, min(count, start + _PIECE))))
        built = cls(plan, inner, ids, tags, vectors, 1, 0.0, gpu=gpu)
        built._tune(generator)
        return built

    @classmethod
    def read(
        cls,
        file: Path,
        plan: Plan,
        ids: NDArray[np.int64],
        tags: NDArray[np.uint8],
        vectors: Rows,
        effort: int,
        measured: float,
        *,
        gpu: bool = False,
    ) -> ApproximateIndex:
        """Map an index that `write` wrote into memory; CheckpointError if it is damaged at its beginning."""
        try:
            inner = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise CheckpointError(f"{file}: damaged ({error})") from None
        return cls(plan, inner, ids, tags, vectors, effort, measured, gpu=gpu)

    def write(self, file: Path) -> None:
        faiss.write_index(self._inner, str(file))

    def __len__(self) -> int:
        return len(self._live)

    @property
    def memory(self) -> int:
        return self.plan.bytes

    def remove(self, positions: NDArray[np.int64]) -> None:
        self._live.remove(positions)

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        exclude: NDArray[np.int64] | None = None,
        tags: Sequence[int] | None = None,
    ) -> Found64:
        rows = as_vectors(queries, self._inner.d)
        size, bits = self._live.among(tags)
        best, ids = out = np.full((len(rows), k), np.inf), np.full((len(rows), k), NO_ID, np.int64)
        if not len(rows) or not size:
            return out
        configure_faiss(len(rows))
        spare = 0 if exclude is None else exclude.shape[1]
        # PQ codes are coarse, so take more candidates; their exact distances rank them.
        width = min(len(self._ids), (10 * k + 30 if self.kind == "ivfpq" else k + 4) + spare)
        # A row whose own exclusions leave fewer reads all that are left. That costs little, since they are few.
        wanted = min(k, size)

        def keep(some: Any, found: Found64) -> None:
            best[some, : found[0].shape[1]], ids[some, : found[1].shape[1]] = found

        def short() -> NDArray[np.int64]:
            return np.flatnonzero(np.isfinite(best).sum(axis=1) < wanted)

        # Few rows have been removed, so it is faster to propose them, too, and to search again where they matter.
        proposed = self._propose(rows, width, None if tags is None else bits)
        keep(slice(None), self._measured(rows, proposed, k, exclude))
        if tags is None and size < len(self._ids) and len(again := short()):
            excluded = None if exclude is None else exclude[again]
            proposed = self._propose(rows[again], width, bits)
            keep(again, self._measured(rows[again], proposed, k, excluded))
        for row in short():
            excluded = None if exclude is None else exclude[row : row + 1]
            keep(row, self._exhaustive(rows[row : row + 1], k, excluded, bits))
        return out

    def _propose(
        self, rows: NDArray[np.float32], width: int, bits: NDArray[np.uint8] | None
    ) -> NDArray[np.int64]:
        """Return positions [B, width] among those whose bit is set, -1 where there are fewer."""
        selected: dict[str, Any] = {}
        if bits is not None:
            selected["sel"] = faiss.IDSelectorBitmap(bits)
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.effort, width), **selected)
        elif self.kind == "ivfpq":
            parameters = faiss.IVFPQSearchParameters(nprobe=self.effort, **selected)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=self.effort, **selected)
        searcher = self._inner if selected else self._searcher
        return searcher.search(rows, width, params=parameters)[1]

    def _measured(
        self,
        rows: NDArray[np.float32],
        positions: NDArray[np.int64],
        k: int,
        exclude: NDArray[np.int64] | None,
    ) -> Found64:
        at = np.maximum(positions, 0)
        missing = (positions < 0) | ~self._live.has(at)
        ids = np.where(missing, NO_ID, self._ids[at])
        unique, back = np.unique(at.ravel(), return_inverse=True)
        candidates = self._vectors.read(unique)[back]
        squared = measure(rows, candidates, ids, exclude)
        squared[missing] = np.inf
        return nearest_first(squared, ids, k)

    def _exhaustive(
        self,
        query: NDArray[np.float32],
        k: int,
        exclude: NDArray[np.int64] | None,
        bits: NDArray[np.uint8],
    ) -> Found64:
        """Search all vectors whose bit is set for one query [1, d], a piece at a time; up to k columns."""
        best, ids = np.full((1, 0), np.inf), np.full((1, 0), NO_ID, np.int64)
        positions = np.flatnonzero(np.unpackbits(bits, count=len(self._ids), bitorder="little"))
        for start in range(0, len(positions), _PIECE):
            piece = positions[start : start + _PIECE]
            squared = measure(query, self._vectors.read(piece), self._ids[piece][None], exclude)
            together = np.hstack([best, squared]), np.hstack([ids, self._ids[piece][None]])
            best, ids = nearest_first(*together, k)
        return best, ids

    def _tune(self, generator: np.random.Generator) -> None:
        probes = np.sort(generator.choice(len(self._ids), min(len(self._ids), 2 * _PROBES), replace=False))
        generator.shuffle(probes)
        truth = self._truth(probes)
        half = -(-len(probes) // 2)
        ceiling = self.plan.lists or 4096
        self.effort = 1 if self.plan.lists else 16
        while (
            self._recall(probes[:half], truth[:half]) < self.plan.recall + _MARGIN and self.effort < ceiling
        ):
            self.effort = min(ceiling, -(-self.effort * 3 // 2))
        self.measured_recall = self._recall(probes[half:], truth[half:])
        log.info(
            "%s: recall@%d %.4f, effort %d of %d",
            self.kind, _RECALL_AT, self.measured_recall, self.effort, ceiling,
        )  # fmt: skip

    def _recall(self, probes: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
        if not len(probes):
            return 1.0
        _, found = self.nearest(self._vectors.read(probes), truth.shape[1], self._ids[probes][:, None])
        return float(np.mean([np.isin(row, one).mean() for row, one in zip(truth, found, strict=True)]))

    def _truth(self, probes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of each probe's true neighbours [n, 3] in one pass over the vectors."""
        k = min(_RECALL_AT, len(self._ids) - 1)
        queries, own = self._vectors.read(probes), self._ids[probes][:, None]
        best, ids = np.full((len(probes), 0), np.inf), np.empty((len(probes), 0), np.int64)
        for start in range(0, len(self._ids), _PIECE):
            rows = np.arange(start, min(len(self._ids), start + _PIECE))
            squared, near = faiss.knn(queries, self._vectors.read(rows), min(k + 1, len(rows)))
            found = self._ids[rows][near]
            squared = np.where(found == own, np.inf, squared.astype(np.float64))
            best, ids = nearest_first(np.hstack([best, squared]), np.hstack([ids, found]), k)
        return ids


def _empty(plan: Plan) -> Any:
    if plan.kind == "hnsw":
        index = faiss.IndexHNSWFlat(plan.dimension, HNSW_LINKS)
        index.hnsw.efConstruction = 80
        return index
    coarse = faiss.IndexFlatL2(plan.dimension)
    if plan.kind == "ivf":
        index = faiss.IndexIVFFlat(coarse, plan.dimension, plan.lists)
    else:
        index = faiss.IndexIVFPQ(coarse, plan.dimension, plan.lists, plan.code_bytes, 8)
        index.pq.cp.min_points_per_centroid = 1
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = 10, _TRAIN_PER_LIST, _SEED
    index.cp.min_points_per_centroid = 1  # no warning for small stores
    # `index` owns the coarse index from here on.
    coarse.this.disown()
    index.own_fields = True
    return index
