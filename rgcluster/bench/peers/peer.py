"""A vector library as the comparison uses it, and what all peers have in common."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ids", "Peer", "Progress", "VectorPeer", "installed"]

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Progress = Callable[[str], None]
P = TypeVar("P", bound="Peer")


class Peer(ABC):
    """A library that one would use instead of a part of this package."""

    library: ClassVar[str]
    """Its importable name. It is imported when a peer is made, so that a missing one can be skipped."""
    name: ClassVar[str]


def installed(peers: Sequence[type[P]], progress: Progress) -> list[type[P]]:
    """Return the peers whose library is installed; `progress` gets a line for each of the others."""
    present = []
    for peer in peers:
        if importlib.util.find_spec(peer.library):
            present.append(peer)
        else:
            progress(f"{peer.name}: skipped, not installed: `pip install 'rgcluster[peers]'`")
    return present


class VectorPeer(Peer):
    """A library that holds vectors [N, d] under the ids 0, 1, ... and searches them by Euclidean distance."""

    exact: ClassVar[bool]
    durable: ClassVar[bool]
    """Whether an addition is on the disk when it returns."""
    otherwise: ClassVar[str] = "in memory alone"
    """Where it is if not."""

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

    def close(self) -> None:
        """End what would go on computing beside the next peer."""
