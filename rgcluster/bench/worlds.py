"""`rgcluster bench data --worlds`: readers of worlds of different sizes, without training.

Every rank of a world reads its part of an epoch as in training, in a Ray task of its own. Bytes are counted by the
operating system, footers included.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import ray

from rgcluster.base.placement import CPUS_PER_READER
from rgcluster.base.storage import Location
from rgcluster.bench.files import CROP, SIZE, make_files, open_training
from rgcluster.bench.result import Row
from rgcluster.data.parallel import as_completed
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.shards import Prepared
from rgcluster.data.stream import ImageSource, StreamPlan, read_window
from rgcluster.errors import ConfigError

__all__ = ["bench_worlds", "read_world", "worlds_of"]

ROWS_PER_RANK = 16
"""Rows of a rank in a batch, in the largest world."""
FEWEST_BATCHES = 4

Progress = Callable[[str], None]
Batches = npt.NDArray[np.int64]


def worlds_of(text: str) -> list[int]:
    """Return the sizes in a list such as `1,8,64`; ConfigError where one is no positive number."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word)):
            raise ConfigError(f"--worlds {text}: {word!r} is no number of readers; write for example 1,8,64")
    return [int(word) for word in words]


def bench_worlds(folder: Path, count: int, worlds: Sequence[int], progress: Progress) -> list[Row]:
    """Read an epoch of `count` drawn faces in each world, and one whose second half another world reads."""
    batch = ROWS_PER_RANK * max(worlds)
    if count < FEWEST_BATCHES * batch:
        raise ConfigError(
            f"--images {count}: too few for {FEWEST_BATCHES} batches of {batch} images, {ROWS_PER_RANK} for each of "
            f"{max(worlds)} readers; give at least {FEWEST_BATCHES * batch}"
        )
    progress(f"making {count} JPEG files and their shards")
    prepared = Prepared(CROP, SIZE, "jpeg")
    shards = write_shards(
        make_files(folder, count), Location(folder / "prepared"), ShardOptions(prepared=prepared)
    )
    source = open_training(shards)
    steps = len(source.index) // batch
    rows, first = [], None
    for world in worlds:
        progress(f"{steps} batches of {batch} in a world of {world}")
        found = read_world(source, world, batch, 0, steps)
        first = found.batches if first is None else first
        case = f"{world} readers"
        rows += [
            Row(case, "bytes read / bytes used", found.read / found.used, "x"),
            Row(case, "batches unlike the first world's", _different(found.batches, first), "batches"),
            Row(case, "an epoch", steps * batch / found.seconds, "images/s"),
        ]
    assert first is not None
    half = steps // 2
    for world, other in zip(worlds, [*worlds[1:], worlds[0]], strict=True):
        parts = read_world(source, world, batch, 0, half), read_world(source, other, batch, half, steps)
        joined = np.concatenate([part.batches for part in parts])
        case = f"{world} readers, resumed in mid-epoch by {other}"
        rows.append(Row(case, "batches unlike the first world's", _different(joined, first), "batches"))
    return rows


@dataclass(frozen=True)
class Reading:
    """What a world read: `batches` [steps, batch] are hashes of each row and its pixels."""

    batches: Batches
    read: int
    used: int
    seconds: float


def read_world(source: ImageSource, world: int, batch: int, start: int, stop: int) -> Reading:
    """Read steps [start, stop) by the ranks of a world, as many at a time as there are cores."""
    began = time.perf_counter()
    shared = ray.put(source)
    plans = [StreamPlan(start, stop, batch, rank, world, seed=0) for rank in range(world)]
    batches = np.zeros((stop - start, batch), np.int64)
    read = used = 0
    for rank, (hashes, taken, needed) in as_completed(lambda plan: _read_rank.remote(shared, plan), plans):
        first, last = plans[rank].part
        batches[:, first:last] = hashes
        read, used = read + taken, used + needed
    return Reading(batches, read, used, time.perf_counter() - began)


def _different(batches: Batches, expected: Batches) -> int:
    return int((batches != expected).any(axis=1).sum())


@ray.remote(num_cpus=CPUS_PER_READER)
def _read_rank(source: ImageSource, plan: StreamPlan) -> tuple[Batches, int, int]:
    """Return a rank's part [steps, rows] of the batches, bytes read and bytes of the images that were used."""
    counted = _Counted(**{known.name: getattr(source, known.name) for known in fields(source)})
    hashes = [
        zlib.crc32(image.tobytes(), int(row)) | int(row) << 32
        for window in plan.windows(counted)
        for block in read_window(counted, plan, window)
        for row, image in zip(block["row"], block["image"], strict=True)
    ]
    return np.array(hashes, np.int64).reshape(-1, plan.rows), sum(counted.read), sum(counted.used)


@dataclass(frozen=True)
class _Counted(ImageSource):
    """A source that counts the bytes of its reads."""

    read: list[int] = field(default_factory=list)
    used: list[int] = field(default_factory=list)

    def encoded(self, rows: npt.NDArray[np.int64]) -> list[memoryview]:
        before = psutil.Process().io_counters().read_chars
        images = super().encoded(rows)
        self.read.append(psutil.Process().io_counters().read_chars - before)
        self.used.append(sum(len(image) for image in images))
        return images
