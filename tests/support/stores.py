"""What the store's tests share: small snapshots whose images tell whose they are, and brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.store import SnapshotWriter

DIGESTS = {"content_encoder": "c0ffee", "style_encoder": "5717e", "retrieval": "f00d"}
IMAGE = (4, 5, 3)


def images_of(ids: NDArray[np.int64], version: int = 0) -> NDArray[np.uint8]:
    """Images [N, 4, 5, 3] that tell whose they are."""
    seeds: Any = ids.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15) + np.arange(
        60, dtype=np.uint64
    )
    return ((seeds >> np.uint64(7)) + np.uint64(version)).astype(np.uint8).reshape(-1, *IMAGE)


def write(
    path: Path,
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    num_shards: int = 3,
    *,
    tags: NDArray[np.uint8] | None = None,
    replace: bool = False,
    digests: dict[str, str] = DIGESTS,
) -> Path:
    with SnapshotWriter(path, num_shards, vectors.shape[1], IMAGE, digests, replace=replace) as writer:
        for start in range(0, len(ids), 7):
            rows = slice(start, start + 7)
            writer.append(
                ids[rows], vectors[rows], images_of(ids[rows]), None if tags is None else tags[rows]
            )
        writer.commit()
    return path


def brute_force(
    ids: NDArray[np.int64],
    vectors: NDArray,
    queries: NDArray,
    k: int,
    exclude: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances [B, k] and ids [B, k] by distance, then id; exclude [B] or [B, E]."""
    difference = queries.astype(np.float64)[:, None] - vectors.astype(np.float64)[None]
    squared = np.square(difference).sum(-1)
    if exclude is not None:
        barred = exclude.reshape(len(queries), -1)
        squared[(ids[None, :, None] == barred[:, None]).any(-1)] = np.inf
    order = np.lexsort((np.broadcast_to(ids, squared.shape), squared), axis=-1)[:, :k]
    return np.sqrt(np.take_along_axis(squared, order, 1)), ids[order]


def sample(count: int, dimension: int = 8, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    ids = generator.choice(2**62, count, replace=False).astype(np.int64)
    return ids, generator.normal(size=(count, dimension)).astype(np.float32)


def clustered(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    """Vectors [count, dimension] around common centres, as embeddings lie."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(4, count // 100), dimension))
    noise = 0.3 * generator.normal(size=(count, dimension))
    return (centres[generator.integers(0, len(centres), count)] + noise).astype(np.float32)


class ArrayRows:
    """The rows of an array."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._array[rows]
