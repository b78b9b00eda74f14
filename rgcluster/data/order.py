"""The order of rows in training, which depends only on the seed and the position.

Training reads an endless stream of positions. Each epoch is a permutation, so every row comes exactly once an epoch,
whatever the batch size. Global batch t is positions [t * G, (t + 1) * G), of which each rank takes an equal slice, so
a run can stop and continue at any step, with any number of workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["BalancedOrder", "Order", "ShuffledOrder"]

Rows = npt.NDArray[np.int64]


class Order(ABC):
    """Maps positions of the endless stream to rows."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Rows:
        """Return the rows at positions [start, stop)."""

    def windows(self, start: int, stop: int, size: int) -> list[tuple[int, int]]:
        """Cut positions [start, stop) into windows of about `size` that are efficient to read."""
        return [(at, min(at + size, stop)) for at in range(start, stop, size)]


@dataclass(frozen=True)
class ShuffledOrder(Order):
    """Every epoch is a permutation of `num_rows` rows.

    Groups are shuffled, and rows are shuffled within windows of consecutive groups, so a window's rows lie in few
    row groups of the shards. `window_groups` 0 shuffles all rows at once.
    """

    num_rows: int
    seed: int
    group_rows: int = 256
    window_groups: int = 0

    def rows(self, start: int, stop: int) -> Rows:
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.num_rows)
            count = min(stop - start, self.num_rows - offset)
            parts.append(self.epoch(epoch)[offset : offset + count])
            start += count
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def windows(self, start: int, stop: int, size: int) -> list[tuple[int, int]]:
        """Cut at the edges of the windows, where the groups change."""
        if not self.window_groups:
            return super().windows(start, stop, size)
        window, found = self.group_rows * self.window_groups, []
        while start < stop:
            first = start - start % self.num_rows
            edge = min(first + self.num_rows, first + (start - first) // window * window + window, stop)
            found.append((start, edge))
            start = edge
        return found

    def epoch(self, epoch: int) -> Rows:
        """Return all rows in the order of `epoch`."""
        return _permutation(self, epoch)


@dataclass(frozen=True)
class BalancedOrder(Order):
    """Every group of rows comes equally often: rounds of one row for each group, in random order.

    Each group goes through its rows in its own permutations, so rows of a small group come more often.
    """

    groups: tuple[Rows, ...] = field(hash=False, compare=False)
    seed: int

    def rows(self, start: int, stop: int) -> Rows:
        number = len(self.groups)
        first, last = start // number, -(-stop // number)
        rounds = [self._round(turn) for turn in range(first, last)]
        if not rounds:
            return np.empty(0, np.int64)
        return np.concatenate(rounds)[start - first * number : stop - first * number]

    def _round(self, turn: int) -> Rows:
        order = _generator(self.seed, turn, 0).permutation(len(self.groups))
        return np.array([self._row(int(group), turn) for group in order], np.int64)

    def _row(self, group: int, turn: int) -> int:
        rows = self.groups[group]
        epoch, place = divmod(turn, len(rows))
        return int(rows[_group_permutation(self.seed, group, epoch, len(rows))[place]])


@lru_cache(maxsize=4)
def _permutation(order: ShuffledOrder, epoch: int) -> Rows:
    generator = _generator(order.seed, epoch)
    if not order.window_groups:
        return generator.permutation(order.num_rows)
    groups = np.array_split(
        np.arange(order.num_rows), range(order.group_rows, order.num_rows, order.group_rows)
    )
    # A shorter last group stays last, so that windows begin at multiples of their size.
    places = np.append(generator.permutation(order.num_rows // order.group_rows), len(groups) - 1)
    shuffled = [groups[place] for place in places[: len(groups)]]
    windows = range(0, len(shuffled), order.window_groups)
    return np.concatenate(
        [generator.permutation(np.concatenate(shuffled[at : at + order.window_groups])) for at in windows]
    )


@lru_cache(maxsize=1024)
def _group_permutation(seed: int, group: int, epoch: int, size: int) -> Rows:
    return _generator(seed, epoch, group + 1).permutation(size)


def _generator(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    key = np.array([seed % 2**64, epoch + (stream << 40)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
