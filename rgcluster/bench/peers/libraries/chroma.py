"""Chroma: HNSW whose additions are written to SQLite first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.bench.peers.peer import Floats, Ids, VectorPeer

__all__ = ["Chroma"]


class Chroma(VectorPeer):
    """A collection on the local disk."""

    library, name, exact, durable = "chromadb", "Chroma, HNSW", False, True

    def __init__(self, folder: Path, vectors: Floats) -> None:
        import chromadb

        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(folder), settings)
        self._most = client.get_max_batch_size()
        hnsw = {"space": "l2", "ef_construction": 200, "max_neighbors": 16}
        self._rows = client.create_collection(
            "vectors", configuration={"hnsw": hnsw}, embedding_function=None
        )
        self.add(np.arange(len(vectors)), vectors)

    def widen(self, width: int) -> None:
        self._rows.modify(configuration={"hnsw": {"ef_search": width}})

    def search(self, queries: Floats, k: int) -> Ids:
        found = self._rows.query(query_embeddings=queries, n_results=k, include=[])
        return np.array(found["ids"], np.int64)

    def add(self, ids: Ids, vectors: Floats) -> None:
        for start in range(0, len(ids), self._most):
            part = slice(start, start + self._most)
            self._rows.add([str(number) for number in ids[part]], embeddings=vectors[part])
