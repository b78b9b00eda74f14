"""`rgcluster bench data --rows`: the index and the order of very many rows, without images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import ray

from rgcluster.base.placement import CPUS_PER_READER
from rgcluster.bench.result import Row
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.index import ROWS_PER_GROUP, FileNames, RowIndex, mapped
from rgcluster.data.order import WindowedOrder

__all__ = ["bench_rows", "groups_read", "synthetic_index"]

ROWS_PER_FILE = 1 << 16
HELD_OUT = 0.02
"""Share of rows that belong to other splits."""
BATCH = 32
WINDOWS = 50
LABELS = len(CELEBA_ATTRIBUTES)
WORLDS = (8, 64, 512)
ROWS_PER_RANK = (32, 8)

Progress = Callable[[str], None]


def bench_rows(folder: Path, count: int, progress: Progress) -> list[Row]:
    """Measure in a process of its own how the index of `count` rows is opened, and windows are read from it."""
    folder.mkdir(parents=True, exist_ok=True)
    progress(f"writing the index of {count:,} rows, {count * 74 / 1e9:.1f} GB")
    start = time.perf_counter()
    synthetic_index(folder, count)
    written = time.perf_counter() - start
    progress("reading windows")
    case = f"{count:,} rows"
    found = ray.get(_measure.remote(str(folder), count))
    rows = [Row(case, "index written", count / written, "rows/s")]
    rows += [Row(case, metric, value, unit) for metric, (value, unit) in found.items()]
    edges = synthetic_index(folder, count).group_edges
    for world in WORLDS:
        for rows_per_rank in ROWS_PER_RANK:
            order = WindowedOrder(edges, 0, world * rows_per_rank)
            progress(f"a window of {world} ranks with {rows_per_rank} rows each")
            metric = f"row groups read / needed, {world} ranks of {rows_per_rank} rows"
            rows.append(Row(case, metric, groups_read(order, world), "x"))
    return rows


def groups_read(order: WindowedOrder, world: int) -> float:
    """Return how often the ranks of a world together read a row group, in a window in the middle of an epoch."""
    window = next(order.windows(order.num_rows + order.num_rows // 2, 2 * order.num_rows))
    rows, places = order.read(window), np.arange(window.start, window.stop) % order.batch
    # The last rank whose part begins at or before the place.
    begins = order.batch * np.arange(world) // world
    ranks = np.searchsorted(begins, places, side="right") - 1
    groups = np.searchsorted(order.edges, rows, side="right")
    return len(np.unique(ranks * len(order.edges) + groups)) / len(np.unique(groups))


def synthetic_index(folder: Path, count: int) -> RowIndex:
    """Return the index of `count` rows of no images in `folder`, written by the first call."""
    return mapped(folder / f"{count}", LABELS, lambda: _parts(count), partial(synthetic_index, folder, count))


def _parts(count: int) -> Iterator[RowIndex]:
    """Yield the rows of each file; a random few, those of other splits, are missing."""
    for number in range(-(-count // ROWS_PER_FILE)):
        generator = np.random.default_rng(number)
        rows = min(ROWS_PER_FILE, count - number * ROWS_PER_FILE)
        inside = int(rows / (1 - HELD_OUT)) + 1
        places = np.sort(generator.permutation(inside)[:rows])
        names = b"".join(b"%09d.jpg" % (number * ROWS_PER_FILE + row) for row in range(rows))
        yield RowIndex(
            generator.integers(0, 2**62, rows),
            generator.integers(0, 2, (rows, LABELS), np.int8),
            FileNames(np.frombuffer(names, np.uint8), np.arange(1, rows + 1) * 13),
            np.stack([np.full(rows, number), places], axis=1),
        )


@ray.remote(num_cpus=CPUS_PER_READER)
def _measure(folder: str, count: int) -> dict[str, tuple[float, str]]:
    """Open the index, list an epoch's windows and read some, with ids, labels, places and names of their rows."""
    before = _private()
    start = time.perf_counter()
    index = synthetic_index(Path(folder), count)
    opened = time.perf_counter() - start
    order = WindowedOrder(index.group_edges, 0, BATCH)
    start = time.perf_counter()
    windows = list(order.windows(count, 2 * count))
    listed = time.perf_counter() - start
    times, looked_up = [], []
    for at in np.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).astype(int).tolist():
        start = time.perf_counter()
        rows = order.read(windows[at])
        times.append(time.perf_counter() - start)
        values = index.row_ids[rows], index.labels[rows], index.places[rows]
        looked_up.append(time.perf_counter() - start)
        assert len(values[0]) and index.file_names[int(rows[0])].endswith(".jpg")
    return {
        "opened": (opened, "s"),
        "windows of an epoch listed": (listed, "s"),
        "rows of a window": (1e3 * float(np.median(times)), "ms"),
        "with ids, labels and places, for the first time": (1e3 * float(np.median(looked_up)), "ms"),
        "private memory": ((_private() - before) / 2**20, "MiB"),
        "row groups": (float(len(index.group_edges) - 1), f"of up to {ROWS_PER_GROUP} rows"),
    }


def _private() -> int:
    """Return the bytes of this process's memory that no file backs."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)
