"""Results of a store: neighbours, and pending results."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "Neighbours", "Pending"]

T = TypeVar("T")

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Distances [B, k] and ids [B, k]."""


@dataclass(frozen=True)
class Neighbours:
    """Real images that resemble each query, nearest first.

    ids int64 [B, k], distances float32 [B, k] (NaN for random neighbours),
    images uint8 [B, k, H, W, C].
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    images: NDArray[np.uint8]


class Pending(Generic[T]):
    """Result of an asynchronous call."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        """Wait for the result and return it, or raise its typed error."""
        return self._future.result()
