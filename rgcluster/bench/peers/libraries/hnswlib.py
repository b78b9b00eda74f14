"""hnswlib: HNSW in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.bench.peers.peer import Floats, Ids, VectorPeer

__all__ = ["Hnswlib"]


class Hnswlib(VectorPeer):
    """An HNSW graph in memory."""

    library, name, exact, durable = "hnswlib", "hnswlib, HNSW", False, False

    def __init__(self, folder: Path, vectors: Floats) -> None:
        import hnswlib

        self._index = hnswlib.Index(space="l2", dim=vectors.shape[1])
        self._index.init_index(max_elements=2 * len(vectors), ef_construction=200, M=16)
        self._index.add_items(vectors, np.arange(len(vectors)))

    def widen(self, width: int) -> None:
        self._index.set_ef(width)

    def search(self, queries: Floats, k: int) -> Ids:
        return self._index.knn_query(queries, k=k)[0].astype(np.int64)

    def add(self, ids: Ids, vectors: Floats) -> None:
        if self._index.get_current_count() + len(ids) > self._index.get_max_elements():
            self._index.resize_index(2 * self._index.get_max_elements())
        self._index.add_items(vectors, ids)
