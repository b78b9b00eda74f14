"""What every store offers: scatter a query, merge by distance, fetch the winners.

Requests run on two threads beside the trainer's, so `..._async` returns at once
and `result()` waits only for what is not there yet.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.errors import DataError, StoreMismatch, StoreUnavailable
from rgcluster.store.index import NO_ID, as_vectors, nearest_first, require_neighbours, too_few
from rgcluster.store.snapshot import Manifest, shard_of

__all__ = ["Call", "Found", "Neighbours", "Pending", "Store"]

T = TypeVar("T")

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Distances [B, k] and ids [B, k]."""

Call = tuple[int, str, tuple[Any, ...]]
"""A shard's number, a method of `Shard`, its arguments."""

_THREADS = 2


@dataclass(frozen=True)
class Neighbours:
    """Real images that resemble each query, nearest first.

    ids int64 [B, k], distances float32 [B, k] (NaN for random neighbours),
    images uint8 [B, k, H, W, C].
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.float32]
    images: NDArray[np.uint8]


class Pending(Generic[T]):
    """An answer on its way; `wait_seconds` counts what the caller spent blocked on it."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future
        self.wait_seconds = 0.0

    def done(self) -> bool:
        return self._future.done()

    def result(self) -> T:
        """Return the answer, or raise the typed error that took its place."""
        start = time.perf_counter()
        try:
            return self._future.result()
        finally:
            self.wait_seconds += time.perf_counter() - start


class Store(ABC):
    """Nearest and random real images out of a sharded snapshot.

    A query is answered in full or fails with a typed error: DataError for its
    shape or NaN, TooFewNeighbours, StoreUnavailable after `timeout` seconds.
    """

    def __init__(
        self, manifest: Manifest, num_shards: int, timeout: float = 60.0, max_in_flight: int = 16
    ) -> None:
        self.manifest, self.num_shards, self.timeout = manifest, num_shards, timeout
        self._max_in_flight = max_in_flight
        self._slots = threading.BoundedSemaphore(max_in_flight)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"store-{manifest.name}")
        self._ids: NDArray[np.int64] | None = None

    @abstractmethod
    def _scatter(self, calls: Sequence[Call], deadline: float) -> list[Any]:
        """Return the answer to each call; StoreUnavailable once time.monotonic() passes the deadline."""

    @property
    def count(self) -> int:
        """Number of images in the store."""
        return self.manifest.count

    def search(self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None) -> Found:
        """Return distances [B, k] and ids [B, k] nearest to queries [B, d]; exclude[i] is kept from row i."""
        return self.search_async(queries, k, exclude).result()

    def search_async(self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None) -> Pending[Found]:
        """Start `search`."""
        rows, barred = self._checked(queries, k, exclude)
        return self._submit(lambda deadline: self._search(rows, k, barred, deadline))

    def neighbours(self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None) -> Neighbours:
        """Return the nearest images, with ids and distances."""
        return self.neighbours_async(queries, k, exclude).result()

    def neighbours_async(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None
    ) -> Pending[Neighbours]:
        """Start `search` and, when it is merged, the fetch of the winners' images."""
        rows, barred = self._checked(queries, k, exclude)

        def work(deadline: float) -> Neighbours:
            distances, ids = self._search(rows, k, barred, deadline)
            return Neighbours(ids, distances, self._fetch(ids, deadline))

        return self._submit(work)

    def random_async(
        self, batch_ids: ArrayLike, k: int, exclude: ArrayLike | None = None, *, seed: int
    ) -> Pending[Neighbours]:
        """Start drawing k distinct images for each of batch_ids [B], never exclude[i].

        A row's draw is keyed by (seed, batch id): neither the order of the
        batch nor the number of shards matters. Distances are NaN.
        """
        keys = np.array(batch_ids, np.int64)
        barred = self._checked_exclude(exclude, len(keys))
        self._check_count(k, barred)

        def work(deadline: float) -> Neighbours:
            ids = self._draw(keys, k, barred, seed, deadline)
            return Neighbours(ids, np.full(ids.shape, np.nan, np.float32), self._fetch(ids, deadline))

        return self._submit(work)

    def fetch(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Return the images [..., H, W, C] of ids [...]; DataError for an id that is not in the store."""
        wanted = np.array(ids, np.int64)
        return self._submit(lambda deadline: self._fetch(wanted, deadline)).result()

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors [..., d] of ids [...]; DataError for an id that is not in the store."""
        wanted = np.array(ids, np.int64)
        return self._submit(lambda deadline: self._gather("vectors", wanted, deadline)).result()

    def ids(self) -> NDArray[np.int64]:
        """Return every id [N] in the store, ascending."""
        return self._submit(self._all_ids).result().copy()

    def info(self) -> list[dict[str, Any]]:
        """Return one row per shard: count, bytes, queries, pid, node, started, restarts."""
        return self._submit(lambda deadline: self._everywhere("info", (), deadline)).result()

    def check(self, digests: Mapping[str, str]) -> None:
        """Raise StoreMismatch unless the store was embedded by the networks with these digests."""
        for network, digest in digests.items():
            held = self.manifest.digests.get(network)
            if held != digest:
                raise StoreMismatch(
                    f"the store {self.manifest.name} was embedded by {network} {held or '(unknown)'}, "
                    f"not {digest}: rebuild with `rgcluster store build`"
                )

    def close(self) -> None:
        """Wait for what is in flight and let go; no call may follow."""
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, work: Callable[[float], T]) -> Pending[T]:
        deadline = time.monotonic() + self.timeout
        if not self._slots.acquire(timeout=self.timeout):
            raise StoreUnavailable(
                f"store {self.manifest.name}: {self._max_in_flight} requests in flight and none ended within "
                f"{self.timeout:g} s; collect results sooner, or look at `rgcluster store info`"
            )
        try:
            future = self._threads.submit(work, deadline)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return Pending(future)

    def _search(
        self, rows: NDArray[np.float32], k: int, barred: NDArray[np.int64] | None, deadline: float
    ) -> Found:
        answers = self._everywhere("search", (rows, k, barred), deadline)
        squared = np.concatenate([answer[0] for answer in answers], axis=1)
        ids = np.concatenate([answer[1] for answer in answers], axis=1)
        best, winners = nearest_first(squared, ids, k)
        require_neighbours(best, k, excluding=barred is not None)
        return np.sqrt(best).astype(np.float32), winners

    def _fetch(self, ids: NDArray[np.int64], deadline: float) -> NDArray[np.uint8]:
        return self._gather("fetch", ids, deadline)

    def _gather(self, method: str, ids: NDArray[np.int64], deadline: float) -> NDArray[Any]:
        """Return rows [..., *row] of ids [...] from the shards that hold them."""
        shape, kind = (
            (self.manifest.image_shape, np.uint8)
            if method == "fetch"
            else ((self.manifest.dimension,), np.float32)
        )
        flat = ids.reshape(-1)
        owners = shard_of(flat, self.num_shards)
        holders = np.unique(owners).tolist()
        answers = self._scatter([(holder, method, (flat[owners == holder],)) for holder in holders], deadline)
        out = np.empty((len(flat), *shape), kind)
        for holder, answer in zip(holders, answers, strict=True):
            out[owners == holder] = answer
        return out.reshape(*ids.shape, *shape)

    def _draw(
        self, keys: NDArray[np.int64], k: int, barred: NDArray[np.int64] | None, seed: int, deadline: float
    ) -> NDArray[np.int64]:
        everything = self._all_ids(deadline)
        drawn = np.empty((len(keys), k), np.int64)
        for row, key in enumerate(keys):
            generator = np.random.default_rng([seed % 2**64, int(key) % 2**64])
            # One to spare, in case the excluded image is among them.
            chosen = everything[generator.choice(len(everything), min(k + 1, len(everything)), replace=False)]
            if barred is not None:
                chosen = chosen[chosen != barred[row]]
            if len(chosen) < k:
                raise too_few(k, len(chosen), barred is not None)
            drawn[row] = chosen[:k]
        return drawn

    def _all_ids(self, deadline: float) -> NDArray[np.int64]:
        if self._ids is None:
            self._ids = np.sort(np.concatenate(self._everywhere("ids", (), deadline)))
        return self._ids

    def _everywhere(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        return self._scatter([(number, method, args) for number in range(self.num_shards)], deadline)

    def _checked(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        # A copy, since the caller may write over its batch while the query is under way.
        rows = as_vectors(np.array(queries, np.float32), self.manifest.dimension)
        barred = self._checked_exclude(exclude, len(rows))
        self._check_count(k, barred)
        return rows, barred

    def _checked_exclude(self, exclude: ArrayLike | None, rows: int) -> NDArray[np.int64] | None:
        if exclude is None:
            return None
        barred = np.array(exclude, np.int64)
        if barred.shape != (rows,):
            raise DataError(f"{barred.size} ids to exclude for {rows} rows: give one a row, {NO_ID} for none")
        return barred

    def _check_count(self, k: int, barred: NDArray[np.int64] | None) -> None:
        if k < 1:
            raise DataError(f"{k} neighbours: ask for 1 or more")
        if k > self.count:
            raise too_few(k, self.count, barred is not None)
