"""A store as one request sees it: one generation, one deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.store.answers import Found, Neighbours
from rgcluster.store.disk.snapshot import Manifest, shard_of
from rgcluster.store.index.exact import nearest_first, require_neighbours

__all__ = ["Asked", "Call", "View"]

Call = tuple[int, str, tuple[Any, ...]]
"""A shard's number, a method, its arguments."""


@dataclass(frozen=True)
class Asked:
    """Queries [B, d], how many neighbours, ids to exclude [B, E], tags that may be in the answer."""

    queries: NDArray[np.float32]
    k: int
    exclude: NDArray[np.int64] | None
    tags: tuple[int, ...] | None


class View:
    """Scatters to the shards of one generation, merges and gathers."""

    def __init__(
        self,
        manifest: Manifest,
        num_shards: int,
        scatter: Callable[[Sequence[Call], float], list[Any]],
        deadline: float,
    ) -> None:
        self._manifest, self._num_shards = manifest, num_shards
        self._scatter, self.deadline = scatter, deadline
        self.generation = manifest.generation

    def search(self, asked: Asked) -> Found:
        """Return the nearest of all shards' nearest; TooFewNeighbours if there are not enough."""
        answers = self.everywhere("search", asked.queries, asked.k, asked.exclude, asked.tags)
        squared = np.concatenate([answer[0] for answer in answers], axis=1)
        ids = np.concatenate([answer[1] for answer in answers], axis=1)
        best, winners = nearest_first(squared, ids, asked.k)
        require_neighbours(best, asked.k, excluding=asked.exclude is not None)
        return np.sqrt(best).astype(np.float32), winners

    def neighbours(self, asked: Asked) -> Neighbours:
        """Return the nearest with their images."""
        distances, ids = self.search(asked)
        return Neighbours(ids, distances, self.fetch(ids))

    def fetch(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images [..., H, W, C]."""
        return self._gather("fetch", ids, self._manifest.image_shape, np.uint8)

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return vectors [..., d]."""
        return self._gather("vectors", ids, (self._manifest.dimension,), np.float32)

    def everywhere(self, method: str, *args: Any) -> list[Any]:
        """Return every shard's answer."""
        return self.scatter([(number, method, args) for number in range(self._num_shards)])

    def scatter(self, calls: Sequence[Call]) -> list[Any]:
        """Return the answer to each call of a shard."""
        named = [(number, "call", (self.generation, method, args)) for number, method, args in calls]
        return self._scatter(named, self.deadline)

    def _gather(
        self, method: str, ids: NDArray[np.int64], shape: tuple[int, ...], kind: type
    ) -> NDArray[Any]:
        """Return rows [..., *shape] of ids [...] from the shards that hold them."""
        flat = ids.reshape(-1)
        owners = shard_of(flat, self._num_shards)
        holders = np.unique(owners).tolist()
        answers = self.scatter([(holder, method, (flat[owners == holder],)) for holder in holders])
        if len(holders) == 1:
            return answers[0].reshape(*ids.shape, *shape)
        out: NDArray[Any] = np.empty((len(flat), *shape), kind)
        for holder, answer in zip(holders, answers, strict=True):
            out[owners == holder] = answer
        return out.reshape(*ids.shape, *shape)
