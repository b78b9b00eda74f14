"""Milvus Lite: Milvus within this process, on one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rgcluster.bench.peers.peer import Floats, Ids, VectorPeer

__all__ = ["MilvusLite"]

MOST = 5000
"""Rows of a call, whose message has a limit of 64 MiB."""
QUERIES = 32
"""Queries of a call, which takes memory in proportion to queries times rows times dimension."""


class MilvusLite(VectorPeer):
    """A collection that is searched exactly."""

    library, name, exact, durable = "milvus_lite", "Milvus Lite, flat", True, False
    otherwise = "written, not synced"  # its log is synced when it is closed

    def __init__(self, folder: Path, vectors: Floats) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(str(folder / "vectors.db"))
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="L2")
        self._client.create_collection(
            "vectors", vectors.shape[1], metric_type="L2", index_params=index, consistency_level="Strong"
        )
        self.add(np.arange(len(vectors)), vectors)

    def search(self, queries: Floats, k: int) -> Ids:
        found = [
            hits
            for start in range(0, len(queries), QUERIES)
            for hits in self._client.search("vectors", list(queries[start : start + QUERIES]), limit=k)
        ]
        return np.array([[hit["id"] for hit in hits] for hits in found], np.int64)

    def add(self, ids: Ids, vectors: Floats) -> None:
        for start in range(0, len(ids), MOST):
            part = slice(start, start + MOST)
            rows = [
                {"id": int(number), "vector": vector}
                for number, vector in zip(ids[part], vectors[part], strict=True)
            ]
            self._client.insert("vectors", rows)

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        self._client.close()
        server_manager_instance.release_all()
