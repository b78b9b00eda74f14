"""LitData: chunks of optimised samples and its own DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import Tensor

from rgcluster.bench.peers.reader import ReaderPeer, decoded, stored
from rgcluster.data.stream import ImageSource

__all__ = ["LitData"]

CHUNK = "64MB"
"""Bytes of a chunk; the documentation's number."""
ROWS_PER_INPUT = 1024


class LitData(ReaderPeer):
    """Chunks of 64 MB, their order and the samples inside shuffled."""

    library, name = "litdata", "LitData"

    def __init__(self, folder: Path, source: ImageSource, workers: int) -> None:
        import litdata

        litdata.optimize(
            partial(_samples, source), list(range(0, len(source.index), ROWS_PER_INPUT)), str(folder),
            chunk_bytes=CHUNK, num_workers=workers, verbose=False,
            start_method="fork",  # else every DataLoader of this process would spawn its workers from then on
        )  # fmt: skip
        self._folder, self._workers = str(folder), workers

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        import litdata

        samples = litdata.StreamingDataset(self._folder, shuffle=True, transform=_decoded)
        yield from litdata.StreamingDataLoader(samples, batch_size=size, num_workers=self._workers)


def _samples(source: ImageSource, start: int) -> Iterator[tuple[bytes, bytes]]:
    yield from stored(source, start, start + ROWS_PER_INPUT)


def _decoded(sample: tuple[bytes, bytes]) -> tuple[Tensor, Tensor]:
    return decoded(*sample)
