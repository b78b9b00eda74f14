"""Batching of concurrent calls: the thread that gets the lock runs all waiting calls as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rgcluster.store.index.exact import NO_ID, Found64
from rgcluster.store.shard.shard import Shard

__all__ = ["Coalescer", "Search", "search_together"]

C = TypeVar("C")
R = TypeVar("R")


@dataclass(eq=False)
class _Waiting(Generic[C, R]):
    call: C
    result: list[R] = field(default_factory=list)
    error: BaseException | None = None


class Coalescer(Generic[C, R]):
    """Runs calls together: `run(calls)` returns the result of each, and everything it raises is raised by each.

    A batch holds calls of the same `kind` whose `size` adds up to `limit` at most; larger calls run alone.
    """

    def __init__(
        self,
        run: Callable[[list[C]], Sequence[R]],
        limit: int,
        size: Callable[[C], int],
        kind: Callable[[C], object] = lambda call: None,
    ) -> None:
        self._run, self._limit, self._size, self._kind = run, limit, size, kind
        self._waiting: list[_Waiting[C, R]] = []
        self._list_lock, self._run_lock = threading.Lock(), threading.Lock()

    def call(self, call: C) -> R:
        """Return the result of one call."""
        mine = _Waiting[C, R](call)
        with self._list_lock:
            self._waiting.append(mine)
        with self._run_lock:
            if not mine.result and mine.error is None:
                self._run_together(self._take(mine))
        if mine.error is not None:
            raise mine.error
        return mine.result[0]

    def _take(self, mine: _Waiting[C, R]) -> list[_Waiting[C, R]]:
        """Return `mine` and the waiting calls that can share its batch, in the order in which they came."""
        taken, size, kind = [], self._size(mine.call), self._kind(mine.call)
        with self._list_lock:
            for other in self._waiting:
                if other is mine:
                    taken.append(other)
                elif self._kind(other.call) == kind and size + self._size(other.call) <= self._limit:
                    taken.append(other)
                    size += self._size(other.call)
            self._waiting = [other for other in self._waiting if other not in taken]
        return taken

    def _run_together(self, taken: Sequence[_Waiting[C, R]]) -> None:
        try:
            results = self._run([each.call for each in taken])
        except BaseException as error:
            for each in taken:
                each.error = error
            return
        for each, result in zip(taken, results, strict=True):
            each.result.append(result)


class Search(NamedTuple):
    """The arguments of `Shard.search`."""

    queries: NDArray[np.float32]
    k: int
    exclude: NDArray[np.int64] | None = None
    tags: tuple[int, ...] | None = None


def search_together(shard: Shard, searches: Sequence[Search]) -> list[Found64]:
    """Return the results of searches with the same tags. One search of more rows costs less per row."""
    squared, ids = shard.search(
        np.concatenate([each.queries for each in searches]),
        max(each.k for each in searches),
        _together(searches),
        searches[0].tags,
    )
    results, start = list[Found64](), 0
    for each in searches:
        rows = slice(start, start + len(each.queries))
        results.append((squared[rows, : each.k], ids[rows, : each.k]))
        start = rows.stop
    return results


def _together(searches: Sequence[Search]) -> NDArray[np.int64] | None:
    """Return the ids to exclude [B, E] of all searches, padded with -1, which is not an id."""
    width = max(0 if each.exclude is None else each.exclude.shape[1] for each in searches)
    if not width:
        return None
    out = np.full((sum(len(each.queries) for each in searches), width), NO_ID)
    start = 0
    for each in searches:
        if each.exclude is not None:
            out[start : start + len(each.queries), : each.exclude.shape[1]] = each.exclude
        start += len(each.queries)
    return out
