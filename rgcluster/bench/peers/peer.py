"""A vector library as the comparison uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ids", "VectorPeer"]

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class VectorPeer(ABC):
    """A library that holds vectors [N, d] under the ids 0, 1, ... and searches them by Euclidean distance."""

    library: ClassVar[str]
    """Its importable name. It is imported when a peer is made, so that a missing one can be skipped."""
    name: ClassVar[str]
    exact: ClassVar[bool]
    durable: ClassVar[bool]
    """Whether an addition is on the disk when it returns."""

    @abstractmethod
    def __init__(self, folder: Path, vectors: Floats) -> None:
        """Build; `folder` is empty."""

    @abstractmethod
    def search(self, queries: Floats, k: int) -> Ids:
        """Return the ids [B, k] that are nearest to queries [B, d]."""

    @abstractmethod
    def add(self, ids: Ids, vectors: Floats) -> None:
        """Add vectors [n, d] under new ids [n]."""

    def widen(self, width: int) -> None:
        """Let an approximate search visit `width` candidates."""
        raise NotImplementedError
