"""WebDataset: tar files and torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from rgcluster.bench.peers.reader import ReaderPeer, decoded, stored
from rgcluster.data.stream import ImageSource

__all__ = ["WebDataset"]

ROWS_PER_SHARD = 2048
BUFFER = 1000
"""Samples among which the next one is drawn, encoded; the documentation's number."""


class WebDataset(ReaderPeer):
    """Tar files of up to 2,048 images, their order and a buffer of samples shuffled."""

    library, name = "webdataset", "WebDataset"

    def __init__(self, folder: Path, source: ImageSource, workers: int) -> None:
        import webdataset

        rows = len(source.index)
        # Each process reads whole tar files: with equally many of one size they end together.
        shards = workers * -(-rows // (workers * ROWS_PER_SHARD))
        with webdataset.ShardWriter(
            str(folder / "%05d.tar"), maxcount=-(-rows // shards), verbose=0
        ) as writer:
            for row, (image, labels) in enumerate(stored(source)):
                writer.write({"__key__": f"{row:09d}", "jpg": image, "labels": labels})
        self._paths, self._workers = sorted(map(str, folder.glob("*.tar"))), workers

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        import webdataset

        samples = webdataset.WebDataset(self._paths, shardshuffle=len(self._paths), empty_check=False)
        samples = samples.shuffle(BUFFER).map(_decoded)
        yield from DataLoader(samples, size, num_workers=self._workers)


def _decoded(sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return decoded(sample["jpg"], sample["labels"])
