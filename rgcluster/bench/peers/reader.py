"""A library that reads images in shuffled batches, as the comparison uses it."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rgcluster.bench.peers.peer import Peer
from rgcluster.data.stream import ImageSource

__all__ = ["ReaderPeer", "decoded", "stored"]

ROWS_PER_READ = 256


class ReaderPeer(Peer):
    """A library that holds encoded images with labels in files of its own, and reads them with `workers` processes."""

    @abstractmethod
    def __init__(self, folder: Path, source: ImageSource, workers: int) -> None:
        """Write the rows of `source` into `folder`, which is empty."""

    @abstractmethod
    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch in random order: images uint8 [size, h, w, 3] and labels int8 [size, n].

        The last batch of each process may be smaller.
        """


def stored(source: ImageSource, start: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield the encoded image and the labels, n bytes, of the rows [start, stop) of the source, in order."""
    stop = len(source.index) if stop is None else min(stop, len(source.index))
    for first in range(start, stop, ROWS_PER_READ):
        rows = np.arange(first, min(first + ROWS_PER_READ, stop))
        for image, labels in zip(source.encoded(rows), source.index.labels[rows], strict=True):
            yield bytes(image), labels.tobytes()


def decoded(image: bytes, labels: bytes) -> tuple[Tensor, Tensor]:
    """Return what `stored` yields as uint8 [h, w, 3] and int8 [n], without this package's decoder."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels: NDArray[np.uint8] = np.array(opened)
    return torch.from_numpy(pixels), torch.frombuffer(bytearray(labels), dtype=torch.int8)
