"""LanceDB: a table on disk, searched exactly as long as it has no index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from rgcluster.bench.peers.peer import Floats, Ids, VectorPeer

__all__ = ["LanceDB"]


class LanceDB(VectorPeer):
    """A table on the local disk."""

    library, name, exact, durable = "lancedb", "LanceDB, no index", True, True

    def __init__(self, folder: Path, vectors: Floats) -> None:
        import lancedb

        rows = _rows(np.arange(len(vectors)), vectors)
        self._table = lancedb.connect(str(folder)).create_table("vectors", rows)

    def search(self, queries: Floats, k: int) -> Ids:
        searches = (self._table.search(query).select(["id", "_distance"]).limit(k) for query in queries)
        return np.stack([search.to_arrow()["id"].to_numpy() for search in searches])

    def add(self, ids: Ids, vectors: Floats) -> None:
        self._table.add(_rows(ids, vectors))


def _rows(ids: Ids, vectors: Floats) -> pa.Table:
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"id": pa.array(ids), "vector": values})
