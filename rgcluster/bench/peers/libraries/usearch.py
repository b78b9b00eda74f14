"""USearch: HNSW in memory, and exact search of an array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.bench.peers.peer import Floats, Ids, VectorPeer

__all__ = ["USearch", "USearchExact"]


class USearch(VectorPeer):
    """An HNSW graph in memory."""

    library, name, exact, durable = "usearch", "USearch, HNSW", False, False

    def __init__(self, folder: Path, vectors: Floats) -> None:
        from usearch.index import Index

        self._index = Index(
            ndim=vectors.shape[1], metric="l2sq", dtype="f32", connectivity=16, expansion_add=200
        )
        self._index.add(np.arange(len(vectors)), vectors)

    def widen(self, width: int) -> None:
        self._index.expansion_search = width

    def search(self, queries: Floats, k: int) -> Ids:
        return np.asarray(self._index.search(queries, k).keys, np.int64).reshape(len(queries), k)

    def add(self, ids: Ids, vectors: Floats) -> None:
        self._index.add(ids, vectors)


class USearchExact(VectorPeer):
    """Exact search of an array in memory."""

    library, name, exact, durable = "usearch", "USearch, exact", True, False

    def __init__(self, folder: Path, vectors: Floats) -> None:
        from usearch.index import MetricKind, search

        self._search, self._metric = search, MetricKind.L2sq
        self._vectors, self._ids = vectors, np.arange(len(vectors))

    def search(self, queries: Floats, k: int) -> Ids:
        found = self._search(self._vectors, queries, k, self._metric, exact=True)
        return self._ids[np.asarray(found.keys, np.int64).reshape(len(queries), k)]

    def add(self, ids: Ids, vectors: Floats) -> None:
        self._vectors = np.concatenate([self._vectors, vectors])
        self._ids = np.concatenate([self._ids, ids])
