"""Ray Data streams of training images: Parquet shards in, uint8 batches out, in the order of `order.py`.

The stream is one Ray Data run for the whole of training, not one an epoch: starting the executor costs
seconds. Its input are chunks of steps; a task reads and decodes the rows of its chunk. Where all images fit
in `data.cache_mib`, they are decoded once, by Ray Data too, and kept in the object store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.data import DataContext, Dataset

from rgcluster.config import DataConfig
from rgcluster.data.images import UInt8Array, decode_image
from rgcluster.data.order import Order
from rgcluster.data.shards import RowIndex, ShardSet
from rgcluster.errors import DataError

__all__ = ["ImageSource", "StreamPlan", "batches", "image_stream", "open_source"]

Block = dict[str, npt.NDArray[Any]]

CPUS_PER_TASK = 0.2
"""Small, so that reading never waits for the trainer's cores; a task that decodes uses what it gets."""
CHUNK_BYTES = 4 << 20
"""A task yields one block of whole batches about this large: handing over a block costs 10 ms or more."""
ROWS_PER_READ = 256
WINDOW_GROUPS = 8


@dataclass(frozen=True)
class ImageSource:
    """The rows of a split and where their images are: decoded in the object store, or in the shards."""

    shards: ShardSet
    index: RowIndex
    crop: int
    size: int
    cached: Any = None  # ObjectRef of uint8 [N, size, size, 3]

    def images(self, rows: npt.NDArray[np.int64]) -> UInt8Array:
        """Return the prepared images of `rows`, uint8 [n, size, size, 3]."""
        if self.cached is not None:
            return ray.get(self.cached)[rows]
        encoded = self.shards.read_images(self.index.places[rows])
        names = [self.index.file_names[row] for row in rows]
        return np.stack(
            [
                decode_image(content, self.crop, self.size, name)
                for content, name in zip(encoded, names, strict=True)
            ]
        )

    def order(self, seed: int) -> Order:
        """Return the training order: any permutation from the cache, windows of row groups from the shards."""
        return Order(len(self.index), seed, window_groups=0 if self.cached is not None else WINDOW_GROUPS)

    def block(self, rows: npt.NDArray[np.int64]) -> Block:
        return {
            "row_id": self.index.row_ids[rows],
            "row": rows,
            "labels": self.index.labels[rows],
            "image": self.images(rows),
        }


def open_source(shards: ShardSet, config: DataConfig, split: str, fraction: float = 1.0) -> ImageSource:
    """Return the images of `split`, decoded into the object store where they fit."""
    index = shards.index(split, fraction)
    if not len(index):
        raise DataError(f"{shards.location}: no row of split {split!r}; write shards of more images")
    source = ImageSource(shards, index, config.crop, config.image_size)
    if len(index) * config.image_size**2 * 3 > config.cache_mib * 2**20:
        return source
    images = np.empty((len(index), config.image_size, config.image_size, 3), np.uint8)
    for block in in_order(source):
        images[block["row"]] = block["image"]
    return ImageSource(shards, index, config.crop, config.image_size, ray.put(images))


def in_order(source: ImageSource) -> Iterator[Block]:
    """Yield every row of the source once, through Ray Data, in blocks of `ROWS_PER_READ`."""
    yield from batches(rows_dataset(source), ROWS_PER_READ)


def rows_dataset(source: ImageSource) -> Dataset:
    """Return a dataset of every row of the source once: row_id, row, labels, image."""
    _configure()
    starts = range(0, len(source.index), ROWS_PER_READ)
    return _chunks(len(starts)).map_batches(_ReadRows(ray.put(source)), batch_size=1, num_cpus=CPUS_PER_TASK)


@dataclass(frozen=True)
class StreamPlan:
    """Which batches a rank gets: steps [start, stop) of global batches of `batch` rows."""

    start: int
    stop: int
    batch: int
    rank: int
    world: int
    seed: int


def image_stream(source: ImageSource, plan: StreamPlan) -> Dataset:
    """Return a rank's batches as a dataset; each row holds `step` beside the image's columns."""
    if plan.batch > len(source.index):
        raise DataError(
            f"batch of {plan.batch} is larger than the {len(source.index)} training images; "
            "lower batch_size or add images"
        )
    if plan.batch % plan.world:
        raise DataError(
            f"batch of {plan.batch} does not divide among {plan.world} workers; change batch_size or workers"
        )
    _configure()
    batch_bytes = plan.batch // plan.world * source.size**2 * 3
    steps = min(64, max(1, CHUNK_BYTES // batch_bytes))
    num_chunks = -(-(plan.stop - plan.start) // steps)
    return _chunks(num_chunks).map_batches(
        _ReadSteps(ray.put(source), plan, steps), batch_size=1, num_cpus=CPUS_PER_TASK
    )


def batches(dataset: Dataset, batch_size: int | None) -> Iterator[Block]:
    """Yield numpy batches, whole blocks where the size is None, in order.

    The executor runs in an actor of its own: beside the caller's process, not in it.
    """
    (split,) = dataset.streaming_split(1)
    stream = split.iter_batches(
        batch_size=batch_size,  # type: ignore[arg-type]  # None is documented: whole blocks
        batch_format="numpy",
        prefetch_batches=2,
    )
    return iter(stream)


def _chunks(count: int) -> Dataset:
    """Return the numbers below `count`, a block each; unlike `range` it asks no CPU of its own."""
    return ray.data.from_items([{"id": number} for number in range(count)], override_num_blocks=count)


def _configure() -> None:
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = 16 << 20


class _ReadSteps:
    """Chunk numbers in, blocks of `steps` whole batches out."""

    def __init__(self, source: Any, plan: StreamPlan, steps: int) -> None:
        self.source, self.plan, self.steps = source, plan, steps

    def __call__(self, chunk: Block) -> Block:
        source, plan = ray.get(self.source), self.plan
        order = source.order(plan.seed)
        first = plan.start + int(chunk["id"][0]) * self.steps
        steps = range(first, min(first + self.steps, plan.stop))
        rows = [order.batch(step, plan.batch, plan.rank, plan.world) for step in steps]
        return {"step": np.repeat(np.array(steps), len(rows[0])), **source.block(np.concatenate(rows))}


class _ReadRows:
    """Chunk numbers in, blocks of consecutive rows out."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __call__(self, chunk: Block) -> Block:
        source = ray.get(self.source)
        first = int(chunk["id"][0]) * ROWS_PER_READ
        return source.block(np.arange(first, min(first + ROWS_PER_READ, len(source.index))))
