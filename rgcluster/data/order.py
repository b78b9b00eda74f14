"""In which order training sees the rows: a function of the seed and the position alone.

Training reads one endless stream of positions: epoch after epoch, each a permutation, so every row comes
exactly once an epoch whatever the batch. Global batch t is positions [t * G, (t + 1) * G), of which each
rank takes an equal slice; so a run can stop and go on at any step, with any number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """Positions to rows of a data set of `num_rows`.

    Rows are shuffled within windows of consecutive groups, the groups shuffled too: a window's rows lie
    in few row groups of the shards. `window_groups` 0 shuffles all rows at once.
    """

    num_rows: int
    seed: int
    group_rows: int = 256
    window_groups: int = 0

    def rows(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows at positions [start, stop) of the endless stream."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.num_rows)
            count = min(stop - start, self.num_rows - offset)
            parts.append(self.epoch(epoch)[offset : offset + count])
            start += count
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def batch(self, step: int, global_batch: int, rank: int, world: int) -> npt.NDArray[np.int64]:
        """Return the rows of `rank` at `step`."""
        share = global_batch // world
        start = step * global_batch + rank * share
        return self.rows(start, start + share)

    def epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return all rows in the order of `epoch`."""
        return _permutation(self, epoch)


@lru_cache(maxsize=4)
def _permutation(order: Order, epoch: int) -> npt.NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(key=np.array([order.seed % 2**64, epoch], np.uint64)))
    if not order.window_groups:
        return generator.permutation(order.num_rows)
    groups = np.array_split(
        np.arange(order.num_rows), range(order.group_rows, order.num_rows, order.group_rows)
    )
    shuffled = [groups[place] for place in generator.permutation(len(groups))]
    windows = range(0, len(shuffled), order.window_groups)
    return np.concatenate(
        [generator.permutation(np.concatenate(shuffled[at : at + order.window_groups])) for at in windows]
    )
