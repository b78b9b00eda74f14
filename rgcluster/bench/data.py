"""`rgcluster bench data`: shards to batches, compared with torch's DataLoader on the original files."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import ray
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from rgcluster.base.storage import Location
from rgcluster.bench.files import CROP, SIZE, make_files, open_training
from rgcluster.bench.result import Row
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.shards import Prepared
from rgcluster.data.sources import ImageTable
from rgcluster.data.stream import ImageSource, StreamPlan, batches, image_stream

__all__ = ["BATCH", "bench_data", "measure", "stream_batches"]

BATCH = 64
STEP_SECONDS = 0.1
STEPS = 60

Progress = Callable[[str], None]


def bench_data(folder: Path, count: int, progress: Progress) -> list[Row]:
    """Measure with `count` JPEG files of drawn faces below `folder`, which must be empty or missing."""
    progress(f"making {count} JPEG files")
    table = make_files(folder, count)
    rows: list[Row] = []
    cores = int(ray.cluster_resources()["CPU"])
    progress("DataLoader")
    loader = measure(lambda: _loader_batches(table, cores))
    name = f"DataLoader, {cores} workers, on the JPEG files"
    rows += _rows("DataLoader on JPEG files", loader)
    cases: dict[str, Prepared | None] = {
        "JPEG shards": None,
        "prepared shards, JPEG": Prepared(CROP, SIZE, "jpeg"),
        "prepared shards, raw": Prepared(CROP, SIZE, "raw"),
    }
    for case, prepared in cases.items():
        progress(f"writing {case}")
        start = time.perf_counter()
        shards = write_shards(
            table, Location(folder / case.replace(" ", "-").replace(",", "")), ShardOptions(prepared=prepared)
        )
        rows.append(Row(case, "written", len(table) / (time.perf_counter() - start), "images/s"))
        source = open_training(shards)
        if prepared is None:
            # The first run of a session starts Ray Data's processes, which later runs reuse.
            cold = measure(lambda source=source: itertools.islice(stream_batches(source), 2))  # type: ignore[misc]
            rows.append(Row(case, "first batch of a session", cold["first"], "s"))
        progress(case)
        found = measure(lambda source=source: stream_batches(source))  # type: ignore[misc]
        rows += _rows(case, found, name, loader["images/s"])
        progress(f"{case}, a step of {STEP_SECONDS * 1000:.0f} ms")
        rows.append(Row(case, f"wait of a {STEP_SECONDS * 1000:.0f} ms step", _wait_share(source), "share"))
    return rows


def stream_batches(source: ImageSource) -> Iterator[int]:
    """Yield the size of each batch of one epoch after its images became a tensor."""
    steps = len(source.index) // BATCH
    for block in batches(image_stream(source, StreamPlan(0, steps, BATCH, 0, 1, seed=0)), BATCH):
        yield len(torch.from_numpy(block["image"].copy()))


class _Files(Dataset[torch.Tensor]):
    """The files, read without this package."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.paths[row]) as image:
            left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
            box = (left, top, left + CROP, top + CROP)
            small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
            return torch.from_numpy(np.array(small))


def _loader_batches(table: ImageTable, cores: int) -> Iterator[int]:
    folder = Path(str(table.tree))
    files = _Files([folder / name for name in table.file_names])
    loader = DataLoader(files, BATCH, shuffle=True, num_workers=cores, drop_last=True)
    for batch in loader:
        yield len(batch)


def measure(make: Callable[[], Iterator[int]]) -> dict[str, float]:
    """Return images a second over an epoch, seconds to the first batch, and the growth of used memory in GiB."""
    with _memory_peak() as peak:
        start = time.perf_counter()
        stream = make()
        images = next(stream)
        first = time.perf_counter() - start
        images += sum(stream)
        seconds = time.perf_counter() - start
    return {"images/s": images / seconds, "first": first, "memory": peak[0] / 2**30, "images": images}


def _rows(
    case: str, found: dict[str, float], baseline: str | None = None, held: float | None = None
) -> list[Row]:
    return [
        Row(case, "an epoch", found["images/s"], "images/s", baseline, held),
        Row(case, "first batch", found["first"], "s"),
        Row(case, "memory peak", found["memory"], "GiB"),
    ]


@contextmanager
def _memory_peak() -> Iterator[list[float]]:
    """Yield a list with one number: the largest growth of this machine's used memory so far, in bytes."""
    before, peak, stop = psutil.virtual_memory().available, [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], before - psutil.virtual_memory().available)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _wait_share(source: ImageSource) -> float:
    """Return the share of time that steps of `STEP_SECONDS` wait for their batch, after the first."""
    batch = 16
    plan = StreamPlan(0, STEPS + 1, batch, 0, 1, seed=0)
    stream = batches(image_stream(source, plan), batch)
    next(stream)
    work = _work()
    waited, start = 0.0, time.perf_counter()
    for _ in range(STEPS):
        issued = time.perf_counter()
        next(stream)
        waited += time.perf_counter() - issued
        until = time.perf_counter() + STEP_SECONDS
        while time.perf_counter() < until:
            next(work)
    return waited / (time.perf_counter() - start)


def _work() -> Iterator[Any]:
    """Keep one core busy, like a training step."""
    matrix: npt.NDArray[np.float32] = np.random.default_rng(0).random((256, 256), np.float32)
    for _ in itertools.count():
        yield matrix @ matrix
