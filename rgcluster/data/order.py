"""The order of rows in training, which depends only on the seed, the position and the size of the global batch.

Training reads an endless stream of positions. Each epoch is a permutation, so every row comes exactly once an epoch,
whatever the batch size. Global batch t is positions [t * G, (t + 1) * G), of which each rank takes an equal slice, so
a run can stop and continue at any step, with any number of workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = [
    "LANES",
    "WINDOW_GROUPS",
    "BalancedOrder",
    "Order",
    "ShuffledOrder",
    "Window",
    "WindowedOrder",
    "permuted",
]

Rows = npt.NDArray[np.int64]

WINDOW_ROWS = 2048
"""Positions that a task reads where the order has no windows of its own."""
WINDOW_GROUPS = 32
"""Fewest row groups in a window: 2,048 rows in 32 random places of the shards."""
LANES = 4096
"""Most lanes, which bounds a window at 262,144 rows."""
ROUNDS = 8
CHUNK = 1 << 20


@dataclass(frozen=True)
class Window:
    """Positions [start, stop) that are read together, of the `number`-th window of `epoch`, which begins at `first`."""

    start: int
    stop: int
    epoch: int = 0
    number: int = 0
    first: int = 0


class Order(ABC):
    """Maps positions of the endless stream to rows."""

    @abstractmethod
    def windows(self, start: int, stop: int) -> Iterator[Window]:
        """Cut positions [start, stop) into windows that are efficient to read."""

    @abstractmethod
    def read(self, window: Window) -> Rows:
        """Return the rows of a window, in the order of its positions."""

    def rows(self, start: int, stop: int) -> Rows:
        """Return the rows at positions [start, stop)."""
        parts = [self.read(window) for window in self.windows(start, stop)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class _FreeOrder(Order):
    """An order of rows that can be read anywhere at the same cost."""

    def windows(self, start: int, stop: int) -> Iterator[Window]:
        for at in range(start, stop, WINDOW_ROWS):
            yield Window(at, min(at + WINDOW_ROWS, stop))


@dataclass(frozen=True)
class ShuffledOrder(_FreeOrder):
    """Every epoch is a permutation of `num_rows` rows."""

    num_rows: int
    seed: int

    def read(self, window: Window) -> Rows:
        parts, start = [], window.start
        while start < window.stop:
            epoch, offset = divmod(start, self.num_rows)
            count = min(window.stop - start, self.num_rows - offset)
            parts.append(self.epoch(epoch)[offset : offset + count])
            start += count
        return np.concatenate(parts)

    def epoch(self, epoch: int) -> Rows:
        """Return all rows in the order of `epoch`."""
        return _permutation(self, epoch)


@dataclass(frozen=True, eq=False)
class WindowedOrder(Order):
    """Every epoch is a permutation of the rows in which each place of the batch reads its own row groups.

    `edges` [groups + 1] are the first rows of the row groups, and the number of rows. An epoch permutes the groups and
    cuts them into windows of about as many groups as the batch has rows. The groups of a window form lanes, one for
    each place of the batch if there are enough; the rows of a lane are shuffled. In every step of the window, place i
    of the batch takes the next row of lane i, so that a batch has rows of as many groups as possible, while
    consecutive places, which are a rank's part, read consecutive lanes, however many ranks there are.

    Groups differ in size where rows are left out, and batches go on across windows. The window's rows are therefore
    dealt out evenly: lane after lane is given to place after place. A rank then shares at most two groups of a window
    with its neighbours.

    Nothing is as large as the data: a window is computed from its number alone, and an epoch's list of windows from
    the sizes of its groups, piece by piece.
    """

    edges: Rows
    seed: int
    batch: int
    window_groups: int = WINDOW_GROUPS

    @property
    def num_rows(self) -> int:
        return int(self.edges[-1])

    @property
    def num_windows(self) -> int:
        """Return the number of windows in an epoch; their numbers of groups differ by at most one."""
        return max(1, round(self._groups / max(self.window_groups, min(self.batch, LANES))))

    @property
    def _groups(self) -> int:
        return len(self.edges) - 1

    def windows(self, start: int, stop: int) -> Iterator[Window]:
        while start < stop:
            epoch = start // self.num_rows
            edges = epoch * self.num_rows + _window_edges(self, epoch)
            number = int(np.searchsorted(edges, start, side="right")) - 1
            yield Window(start, min(int(edges[number + 1]), stop), epoch, number, int(edges[number]))
            start = int(edges[number + 1])

    def read(self, window: Window) -> Rows:
        groups = self.groups(window.epoch, window.number, window.number + 1)
        first, counts = self.edges[groups], self.edges[groups + 1] - self.edges[groups]
        total = int(counts.sum())
        rows = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(total)
        lanes = np.arange(len(groups)) * min(self.batch, len(groups)) // len(groups)
        random = _generator(self.seed, window.epoch, window.number + 1).random(total)
        shuffled = rows[np.lexsort((random, np.repeat(lanes, counts)))]
        places = (window.first + np.arange(total)) % self.batch
        rows[np.argsort(places, kind="stable")] = shuffled
        return rows[window.start - window.first : window.stop - window.first]

    def groups(self, epoch: int, start: int, stop: int) -> Rows:
        """Return the row groups of windows [start, stop) of an epoch."""
        places = np.arange(self._edge(start), self._edge(stop))
        return permuted(places, self._groups, self.seed, epoch)

    def _edge(self, number: int) -> int:
        return number * self._groups // self.num_windows

    def sizes(self, epoch: int, start: int, stop: int) -> Rows:
        """Return the numbers of rows of windows [start, stop) of an epoch."""
        groups = self.groups(epoch, start, stop)
        edges = [self._edge(number) - self._edge(start) for number in range(start, stop)]
        return np.add.reduceat(self.edges[groups + 1] - self.edges[groups], edges)


@dataclass(frozen=True)
class BalancedOrder(_FreeOrder):
    """Every group of rows comes equally often: rounds of one row for each group, in random order.

    Each group goes through its rows in its own permutations, so rows of a small group come more often.
    """

    groups: tuple[Rows, ...] = field(hash=False, compare=False)
    seed: int

    def read(self, window: Window) -> Rows:
        number = len(self.groups)
        first, last = window.start // number, -(-window.stop // number)
        rounds = [self._round(turn) for turn in range(first, last)]
        return np.concatenate(rounds)[window.start - first * number : window.stop - first * number]

    def _round(self, turn: int) -> Rows:
        order = _generator(self.seed, turn, 0).permutation(len(self.groups))
        return np.array([self._row(int(group), turn) for group in order], np.int64)

    def _row(self, group: int, turn: int) -> int:
        rows = self.groups[group]
        epoch, place = divmod(turn, len(rows))
        return int(rows[_group_permutation(self.seed, group, epoch, len(rows))[place]])


def permuted(places: Rows, count: int, seed: int, epoch: int) -> Rows:
    """Return what a keyed permutation of [0, count) has at `places`, without computing the rest of it.

    A Feistel network permutes the next larger power of four; numbers beyond `count` are permuted again.
    """
    half = np.uint64(max(3, (max(count - 1, 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = _generator(seed, epoch).integers(0, 2**64, ROUNDS, np.uint64)
    found = places.astype(np.uint64)
    open_ = np.arange(len(found))
    while len(open_):
        left, right = found[open_] >> half, found[open_] & low
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        found[open_] = left << half | right
        open_ = open_[found[open_] >= count]
    return found.astype(np.int64)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a hash of each number: multiplied, and its high bits mixed into the low ones, twice."""
    for factor in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03):
        values = values * np.uint64(factor)
        values = values ^ (values >> np.uint64(32))
    return values


@lru_cache(maxsize=4)
def _window_edges(order: WindowedOrder, epoch: int) -> Rows:
    """Return where an epoch's windows begin, and its end: [windows + 1], relative to its start."""
    number = order.num_windows
    piece = max(1, CHUNK * number // max(1, len(order.edges)))
    sizes = [order.sizes(epoch, at, min(at + piece, number)) for at in range(0, number, piece)]
    return np.concatenate([[0], np.cumsum(np.concatenate(sizes))])


@lru_cache(maxsize=4)
def _permutation(order: ShuffledOrder, epoch: int) -> Rows:
    return _generator(order.seed, epoch).permutation(order.num_rows)


@lru_cache(maxsize=1024)
def _group_permutation(seed: int, group: int, epoch: int, size: int) -> Rows:
    return _generator(seed, epoch, group + 1).permutation(size)


def _generator(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    key = np.array([seed % 2**64, epoch + (stream << 40)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
