"""Ray Data streams of training images: uint8 batches from Parquet shards, in the order of `order.py`.

One Ray Data run serves the whole training, because starting an executor takes seconds. Its inputs are windows of
positions: a task reads the row groups that its rank has in a window once, decodes its rows and yields them in order, a
few MiB at a time. If all images fit in `data.cache_mib`, Ray Data decodes them once into the object store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.data import DataContext, Dataset, TaskPoolStrategy

from rgcluster.base.attributes import domain_columns
from rgcluster.base.cluster.internals import pace_streams
from rgcluster.base.placement import CPUS_PER_READER
from rgcluster.config import DataConfig
from rgcluster.data.images import UInt8Array, decode_image
from rgcluster.data.index import RowIndex
from rgcluster.data.order import (
    WINDOW_GROUPS,
    BalancedOrder,
    Order,
    ShuffledOrder,
    Window,
    WindowedOrder,
)
from rgcluster.data.shards import ShardSet, require_prepared
from rgcluster.errors import DataError

__all__ = [
    "ImageSource",
    "StreamPlan",
    "batches",
    "image_stream",
    "in_order",
    "open_source",
    "read_window",
    "rows_dataset",
]

Block = dict[str, npt.NDArray[Any]]

BLOCK_BYTES = 4 << 20
"""Approximate size of a task's blocks. Passing one takes about 10 ms, and holds this much memory."""
ROWS_PER_READ = 256
ROUND_SECONDS = 0.02
"""Least time between two rounds of Ray Data's control loop."""
SEGMENT_ROWS = 1 << 22


@dataclass(frozen=True)
class ImageSource:
    """The rows of a split, and their images: decoded in the object store, or in the shards."""

    shards: ShardSet
    index: RowIndex
    crop: int
    size: int
    cached: Any = None  # ObjectRef of uint8 [N, size, size, 3]
    groups: tuple[npt.NDArray[np.int64], ...] = ()
    """The rows of each domain, if domains should come equally often."""
    window_groups: int = WINDOW_GROUPS

    def take(self, rows: npt.NDArray[np.int64]) -> ImageSource:
        """Return the source of `rows` alone, in ascending order; it decodes anew."""
        return replace(self, index=self.index.take(rows), cached=None, groups=())

    def images(self, rows: npt.NDArray[np.int64]) -> UInt8Array:
        """Return the prepared images of `rows`, uint8 [n, size, size, 3]."""
        if self.cached is not None:
            return ray.get(self.cached)[rows]
        return self.decode(self.encoded(rows), rows)

    def encoded(self, rows: npt.NDArray[np.int64]) -> list[memoryview]:
        """Return the stored images of `rows`."""
        return self.shards.read_images(self.index.places[rows])

    def decode(self, encoded: list[memoryview], rows: npt.NDArray[np.int64]) -> UInt8Array:
        """Return the prepared images of `rows` from their stored form."""
        images = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        prepared = self.shards.prepared
        for image, content, row in zip(images, encoded, rows.tolist(), strict=True):
            if prepared is not None and prepared.format == "raw":
                image[:] = np.frombuffer(content, np.uint8).reshape(image.shape)
            else:
                image[:] = decode_image(content, self.crop, self.size, self.index.file_names[row])
        return images

    def order(self, seed: int, batch: int) -> Order:
        """Return the order of global batches: any permutation from the cache, windows of row groups from the shards."""
        if self.groups:
            return BalancedOrder(self.groups, seed)
        if self.cached is not None:
            return ShuffledOrder(len(self.index), seed)
        return WindowedOrder(self.index.group_edges, seed, batch, self.window_groups)

    def block(self, rows: npt.NDArray[np.int64], images: UInt8Array | None = None) -> Block:
        return {
            "row_id": self.index.row_ids[rows],
            "row": rows,
            "labels": self.index.labels[rows],
            "image": self.images(rows) if images is None else images,
        }

    @property
    def rows_per_block(self) -> int:
        return max(1, BLOCK_BYTES // (self.size**2 * 3))


def open_source(
    shards: ShardSet,
    config: DataConfig,
    split: str,
    fraction: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSource:
    """Return the images of `split`, decoded into the object store if they fit."""
    require_prepared(shards.location, shards.prepared, config)
    index = shards.index(split, fraction)
    if not len(index):
        raise DataError(f"{shards.location}: no row of split {split!r}; write shards of more images")
    groups = _domains(shards, index, config) if config.balance and split == "train" else ()
    source = ImageSource(shards, index, config.crop, config.image_size, groups=groups)
    if len(index) * config.image_size**2 * 3 > config.cache_mib * 2**20:
        return source
    images = np.empty((len(index), config.image_size, config.image_size, 3), np.uint8)
    done = 0
    for block in in_order(source):
        images[block["row"]] = block["image"]
        done += len(block["row"])
        if progress:
            progress(done, len(index))
    return replace(source, cached=ray.put(images))


def in_order(source: ImageSource) -> Iterator[Block]:
    """Yield every row of the source once, through Ray Data, in blocks of `ROWS_PER_READ`."""
    yield from batches(rows_dataset(source), ROWS_PER_READ)


def rows_dataset(source: ImageSource) -> Dataset:
    """Return a dataset of the source's rows: row_id, row, labels, image."""
    _configure()
    total = len(source.index)
    ranges = [{"start": at, "stop": min(at + ROWS_PER_READ, total)} for at in range(0, total, ROWS_PER_READ)]
    return _read(ranges, _ReadRows(ray.put(source)))


@dataclass(frozen=True)
class StreamPlan:
    """The batches of a rank: steps [start, stop) of global batches of `batch` rows."""

    start: int
    stop: int
    batch: int
    rank: int
    world: int
    seed: int

    def segments(self) -> list[StreamPlan]:
        """Cut the plan into segments of at most `SEGMENT_ROWS`, which limits their numbers of tasks."""
        steps = max(1, SEGMENT_ROWS // self.batch)
        return [
            replace(self, start=at, stop=min(at + steps, self.stop))
            for at in range(self.start, self.stop, steps)
        ]

    @property
    def part(self) -> tuple[int, int]:
        """Return the range of this rank's rows in each batch; the ranks' numbers differ by at most one."""
        return self.batch * self.rank // self.world, self.batch * (self.rank + 1) // self.world

    @property
    def rows(self) -> int:
        """Return this rank's rows of a batch."""
        first, last = self.part
        return last - first

    def windows(self, source: ImageSource) -> Iterator[Window]:
        """Yield the windows of the plan's steps."""
        return source.order(self.seed, self.batch).windows(self.start * self.batch, self.stop * self.batch)

    def of_rank(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which positions of the stream are this rank's."""
        first, last = self.part
        place = positions % self.batch
        return (first <= place) & (place < last)


def image_stream(source: ImageSource, plan: StreamPlan) -> Dataset:
    """Return a dataset of a rank's rows in the order of its batches, with a column `step`."""
    if plan.batch > len(source.index):
        raise DataError(
            f"batch of {plan.batch} is larger than the {len(source.index)} training images; "
            "lower batch_size or add images"
        )
    if plan.batch < plan.world:
        raise DataError(
            f"batch of {plan.batch} is less than a row for each of {plan.world} workers; "
            "raise batch_size or use fewer workers"
        )
    _configure()
    return _read(
        [asdict(window) for window in plan.windows(source)], _ReadWindows(ray.put(source), plan), plan.world
    )


def read_window(source: ImageSource, plan: StreamPlan, window: Window) -> Iterator[Block]:
    """Yield the rank's rows of a window in blocks; only the row groups that hold them are read."""
    positions = np.arange(window.start, window.stop)
    mine = plan.of_rank(positions)
    rows = source.order(plan.seed, plan.batch).read(window)[mine]
    steps = positions[mine] // plan.batch
    encoded = None if source.cached is not None else source.encoded(rows)
    for at in range(0, len(rows), source.rows_per_block):
        part = slice(at, at + source.rows_per_block)
        images = None if encoded is None else source.decode(encoded[part], rows[part])
        yield {"step": steps[part], **source.block(rows[part], images)}


def batches(dataset: Dataset, batch_size: int | None) -> Iterator[Block]:
    """Yield numpy batches in order; whole blocks if the size is None."""
    stream = dataset.iter_batches(
        batch_size=batch_size,  # type: ignore[arg-type]  # None is documented: whole blocks
        batch_format="numpy",
        prefetch_batches=2,
    )
    return iter(stream)


def _read(items: list[dict[str, int]], reader: Any, world: int = 1) -> Dataset:
    """Return a dataset of the items with a reading task for each, as many at a time as this rank has cores."""
    # Unlike `range`, this requests no CPU.
    chunks = ray.data.from_items(items, override_num_blocks=len(items))
    # Without a limit, the small CPU requests would start five processes a core.
    tasks = min(len(items), max(2, int(ray.cluster_resources().get("CPU", 1)) // world))
    return chunks.map_batches(
        reader, batch_size=1, num_cpus=CPUS_PER_READER, compute=TaskPoolStrategy(size=tasks)
    )


def _configure() -> None:
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = 16 << 20
    pace_streams(context, ROUND_SECONDS)
    # Its progress messages are for developers; errors are raised.
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _domains(shards: ShardSet, index: RowIndex, config: DataConfig) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the rows of each domain vector that occurs."""
    columns = domain_columns(shards.attributes, config.attributes, shards.location)
    _, domain = np.unique(index.labels[:, columns], axis=0, return_inverse=True)
    return tuple(np.flatnonzero(domain.ravel() == number) for number in range(int(domain.max()) + 1))


class _ReadWindows:
    """Maps windows of positions to blocks of a rank's rows, in the order of the stream."""

    def __init__(self, source: Any, plan: StreamPlan) -> None:
        self.source, self.plan = source, plan

    def __call__(self, block: Block) -> Iterator[Block]:
        window = Window(**{name: int(values[0]) for name, values in block.items()})
        return read_window(ray.get(self.source), self.plan, window)


class _ReadRows:
    """Maps ranges of rows to blocks."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __call__(self, chunk: Block) -> Block:
        return ray.get(self.source).block(np.arange(int(chunk["start"][0]), int(chunk["stop"][0])))
