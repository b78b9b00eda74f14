"""`rgcluster bench data --peers`: this package's batches beside those of other libraries, from the same images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import ray

from rgcluster.base.storage import Location
from rgcluster.bench.data import BATCH, measure, stream_batches
from rgcluster.bench.files import CROP, SIZE, make_files, open_training
from rgcluster.bench.peers.litdata import LitData
from rgcluster.bench.peers.peer import Progress, installed
from rgcluster.bench.peers.reader import ReaderPeer
from rgcluster.bench.peers.webdataset import WebDataset
from rgcluster.bench.result import Row
from rgcluster.bench.turns import turns
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.shards import Prepared
from rgcluster.data.stream import ImageSource

__all__ = ["READERS", "bench_readers"]

READERS: tuple[type[ReaderPeer], ...] = (WebDataset, LitData)
TURNS, SECONDS = 3, 60.0
METRICS = {"images/s": ("an epoch", "images/s"), "first": ("first batch", "s")}
"""The figures of `measure` that are compared, with their names and units."""


def bench_readers(
    folder: Path, count: int, progress: Progress, peers: Sequence[type[ReaderPeer]] = READERS
) -> list[Row]:
    """Compare epochs of shuffled batches [64, 128, 128, 3]; a peer that is not installed is named and skipped.

    `count` faces are drawn and prepared once: all read the same JPEG bytes, from files that were written before, with
    as many processes. This package and its peers take turns; rows hold the medians.
    """
    present = installed(peers, progress)
    if not present:
        return []
    progress(f"making {count:,} prepared JPEG images")
    source = _source(folder, count)
    workers = _workers()
    case = f"{len(source.index):,} prepared JPEG images, {workers} processes"
    # The first run of a session starts Ray Data's processes, which later runs reuse.
    cold = measure(lambda: islice(stream_batches(source), 2))
    epochs: dict[str | None, Callable[[], Iterator[int]]] = {None: partial(stream_batches, source)}
    for kind in present:
        progress(f"{kind.name}: writing")
        place = folder / kind.library
        place.mkdir()
        epochs[kind.name] = partial(_sizes, kind(place, source, workers))
    found: dict[str | None, list[dict[str, float]]] = {name: [] for name in epochs}
    for turn in turns(TURNS, SECONDS):
        for name, epoch in epochs.items():
            progress(f"{name or 'this package'}, epoch {turn + 1}")
            found[name].append(measure(epoch))
    rows = [Row(case, "first batch of a session", cold["first"], "s")]
    for kind in present:
        for key, (metric, unit) in METRICS.items():
            ours, theirs = (statistics.median(one[key] for one in found[name]) for name in (None, kind.name))
            rows.append(Row(case, metric, ours, unit, kind.name, theirs))
    return rows


def _sizes(reader: ReaderPeer) -> Iterator[int]:
    """Yield the size of each batch of one epoch."""
    return (len(images) for images, _ in reader.batches(BATCH))


def _source(folder: Path, count: int) -> ImageSource:
    """Return the training images of `count` files, written as prepared JPEG shards."""
    prepared = Prepared(CROP, SIZE, "jpeg")
    return open_training(
        write_shards(make_files(folder, count), Location(folder / "shards"), ShardOptions(prepared=prepared))
    )


def _workers() -> int:
    """Return how many tasks this package reads with."""
    return max(2, int(ray.cluster_resources()["CPU"]))
