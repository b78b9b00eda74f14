"""A consistent view of a store for one request: one generation, one deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.errors import StoreUnavailable, UnknownId
from rgcluster.store.disk.snapshot import Manifest, shard_of
from rgcluster.store.index.exact import nearest_first, require_neighbours
from rgcluster.store.results import Found, Neighbours
from rgcluster.store.shard.requests import HostCall, ShardRequest

__all__ = ["Query", "View"]


@dataclass(frozen=True)
class Query:
    """Queries [B, d], number of neighbours, ids to exclude [B, E] and allowed tags."""

    queries: NDArray[np.float32]
    k: int
    exclude: NDArray[np.int64] | None
    tags: tuple[int, ...] | None


class View:
    """Scatters requests to the shards of one generation and merges the results."""

    def __init__(
        self,
        manifest: Manifest,
        num_shards: int,
        scatter: Callable[[Sequence[HostCall], float], list[Any]],
        deadline: float,
    ) -> None:
        self._manifest, self._num_shards = manifest, num_shards
        self._scatter, self.deadline = scatter, deadline
        self.snapshot = manifest.token

    def search(self, query: Query) -> Found:
        """Return the nearest neighbours over all shards; TooFewNeighbours if there are fewer than k."""
        results = self.everywhere("search", query.queries, query.k, query.exclude, query.tags)
        squared = np.concatenate([result[0] for result in results], axis=1)
        ids = np.concatenate([result[1] for result in results], axis=1)
        best, winners = nearest_first(squared, ids, query.k)
        require_neighbours(best, query.k, excluding=query.exclude is not None)
        return np.sqrt(best).astype(np.float32), winners

    def neighbours(self, query: Query) -> Neighbours:
        """Return the nearest neighbours with their images."""
        return self.with_images(lambda: self.search(query))

    def with_images(self, choose: Callable[[], Found]) -> Neighbours:
        """Return chosen rows with their images; choose again if a row was removed before its image was read."""
        while True:
            distances, ids = choose()
            try:
                return Neighbours(ids, distances, self.fetch(ids))
            except UnknownId:
                if time.monotonic() > self.deadline:
                    raise StoreUnavailable(
                        "rows were removed faster than their images could be read: search for fewer, "
                        "or add replaced rows without removing them first"
                    ) from None

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images [..., H, W, C]."""
        return self._gather("fetch", ids, self._manifest.image_shape, np.uint8)

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return vectors [..., d]."""
        return self._gather("vectors", ids, (self._manifest.dimension,), np.float32)

    def everywhere(self, method: str, *args: Any) -> list[Any]:
        """Return the result of every shard."""
        return self.scatter([self.call_to(part, method, *args) for part in range(self._num_shards)])

    def call_to(self, part: int, method: str, *args: Any) -> HostCall:
        """Return a call of `Shard.method` of this view's snapshot."""
        return HostCall.of(part, ShardRequest(self.snapshot, method, args))

    def scatter(self, calls: Sequence[HostCall]) -> list[Any]:
        """Return the result of each call."""
        return self._scatter(calls, self.deadline)

    def _gather(
        self, method: str, ids: NDArray[np.int64], shape: tuple[int, ...], kind: type
    ) -> NDArray[Any]:
        """Return rows [..., *shape] of ids [...] from the shards that hold them."""
        flat = ids.reshape(-1)
        owners = shard_of(flat, self._num_shards)
        holders = np.unique(owners).tolist()
        results = self.scatter([self.call_to(holder, method, flat[owners == holder]) for holder in holders])
        if len(holders) == 1:
            return results[0].reshape(*ids.shape, *shape)
        out: NDArray[Any] = np.empty((len(flat), *shape), kind)
        for holder, result in zip(holders, results, strict=True):
            out[owners == holder] = result
        return out.reshape(*ids.shape, *shape)
