"""Batching of concurrent searches: the thread that gets the lock runs all waiting searches in one call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rgcluster.store.index.exact import NO_ID, Found64
from rgcluster.store.shard.shard import Shard

__all__ = ["Coalescer"]

_MAX_ROWS = 1024


@dataclass(eq=False)
class _Search:
    queries: NDArray[np.float32]
    k: int
    exclude: NDArray[np.int64] | None
    tags: tuple[int, ...] | None
    result: Found64 | None = None
    error: BaseException | None = None


class Coalescer:
    """Runs one FAISS call at a time for a shard. Larger batches cost less per row."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._waiting: list[_Search] = []
        self._list_lock, self._run_lock = threading.Lock(), threading.Lock()

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        exclude: NDArray[np.int64] | None = None,
        tags: tuple[int, ...] | None = None,
    ) -> Found64:
        """Return the result of `Shard.search`."""
        mine = _Search(queries, k, exclude, tags)
        with self._list_lock:
            self._waiting.append(mine)
        with self._run_lock:
            if mine.result is None and mine.error is None:
                self._run(self._take(mine))
        if mine.error is not None:
            raise mine.error
        assert mine.result is not None
        return mine.result

    def _take(self, mine: _Search) -> list[_Search]:
        """Return `mine` and the waiting searches that can share its call."""
        taken, rows = [mine], len(mine.queries)
        with self._list_lock:
            self._waiting.remove(mine)
            for other in list(self._waiting):
                if other.tags == mine.tags and rows + len(other.queries) <= _MAX_ROWS:
                    self._waiting.remove(other)
                    taken.append(other)
                    rows += len(other.queries)
        return taken

    def _run(self, taken: Sequence[_Search]) -> None:
        try:
            squared, ids = self._shard.search(
                np.concatenate([each.queries for each in taken]),
                max(each.k for each in taken),
                _together(taken),
                taken[0].tags,
            )
        except BaseException as error:
            for each in taken:
                each.error = error
            return
        start = 0
        for each in taken:
            rows = slice(start, start + len(each.queries))
            each.result, start = (squared[rows, : each.k], ids[rows, : each.k]), rows.stop


def _together(taken: Sequence[_Search]) -> NDArray[np.int64] | None:
    """Return the ids to exclude [B, E] of all searches, padded with -1, which is not an id."""
    width = max(0 if each.exclude is None else each.exclude.shape[1] for each in taken)
    if not width:
        return None
    out = np.full((sum(len(each.queries) for each in taken), width), NO_ID)
    start = 0
    for each in taken:
        if each.exclude is not None:
            out[start : start + len(each.queries), : each.exclude.shape[1]] = each.exclude
        start += len(each.queries)
    return out
