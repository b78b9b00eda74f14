"""Interface of every store: search, fetch, add, remove and compact.

Asynchronous requests run on other threads than the caller's: `..._async` returns at once, and `result()` waits.
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgcluster.base.storage import Location
from rgcluster.errors import DataError, RGClusterError, StaleGeneration, StoreMismatch, StoreUnavailable
from rgcluster.store.changes.compaction import compact
from rgcluster.store.changes.journal import Change
from rgcluster.store.disk.snapshot import Manifest, shard_of
from rgcluster.store.disk.writer import as_rows
from rgcluster.store.index.exact import as_ids, as_vectors, excluded_ids, too_few
from rgcluster.store.index.rows import Filter
from rgcluster.store.results import Found, Neighbours, Pending
from rgcluster.store.shard.requests import HostCall
from rgcluster.store.view import Query, View

__all__ = ["Found", "Neighbours", "Pending", "Store"]

T = TypeVar("T")

MAX_IN_FLIGHT = 16
"""Requests of a client that run at once; the next one waits."""
_THREADS = 8
log = logging.getLogger(__name__)


class Store(ABC):
    """Nearest and random real images of a sharded snapshot, and changes to it.

    A query reads one generation of the store. It succeeds in full or raises a typed error: DataError for a wrong
    shape or NaN, TooFewNeighbours, or StoreUnavailable after `timeout` seconds.
    """

    def __init__(
        self,
        location: Location,
        manifest: Manifest,
        num_shards: int,
        timeout: float,
    ) -> None:
        self.location, self.manifest = location, manifest
        self.num_shards, self.timeout = num_shards, timeout
        self._slots = threading.BoundedSemaphore(MAX_IN_FLIGHT)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"store-{manifest.name}")
        self._expected: dict[str, str] = {}
        self._ids: tuple[tuple[str | int, ...], NDArray[np.int64]] | None = None

    @abstractmethod
    def _scatter(self, calls: Sequence[HostCall], deadline: float) -> list[Any]:
        """Return the result of each call of a host; StoreUnavailable after `deadline`."""

    @abstractmethod
    def _everyone(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        """Call every host, including replicas."""

    @property
    def count(self) -> int:
        """Number of images in the store."""
        return sum(row["count"] for row in self.info())

    def search(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Found:
        """Return distances [B, k] and ids [B, k] nearest to queries [B, d].

        exclude [B] or [B, E] are ids that each row's result omits (-1 for none). A filter restricts the result to
        some images.
        """
        query = self._query(queries, k, exclude, filter)
        return self._run(lambda view: view.search(query))

    def search_async(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Pending[Found]:
        """Start `search`."""
        query = self._query(queries, k, exclude, filter)
        return self._submit(lambda view: view.search(query))

    def neighbours(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Neighbours:
        """Return the nearest images, with ids and distances."""
        query = self._query(queries, k, exclude, filter)
        return self._run(lambda view: view.neighbours(query))

    def neighbours_async(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Pending[Neighbours]:
        """Start `neighbours`: a search, then the fetch of the images."""
        query = self._query(queries, k, exclude, filter)
        return self._submit(lambda view: view.neighbours(query))

    def random_async(
        self, batch_ids: ArrayLike, k: int, exclude: ArrayLike | None = None, *, seed: int
    ) -> Pending[Neighbours]:
        """Start drawing k distinct images for each of batch_ids [B], never exclude[i].

        The pair (seed, batch id) determines a row's draw, independent of the batch order and the number of
        shards. Distances are NaN.
        """
        keys = as_ids(batch_ids)
        excluded = excluded_ids(exclude, len(keys))
        _require_positive(k)

        def draw(view: View) -> Found:
            ids = _draw(self._all_ids(view), keys, k, excluded, seed)
            return np.full(ids.shape, np.nan, np.float32), ids

        return self._submit(lambda view: view.with_images(lambda: draw(view)))

    def fetch(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Return the images [..., H, W, C] of ids [...]; UnknownId for an id that is not in the store."""
        wanted = as_ids(ids)
        return self._run(lambda view: view.fetch(wanted))

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors [..., d] of ids [...]; UnknownId for an id that is not in the store."""
        wanted = as_ids(ids)
        return self._run(lambda view: view.vectors(wanted))

    def ids(self) -> NDArray[np.int64]:
        """Return every id [N] in the store, ascending."""
        return self._run(self._all_ids).copy()

    def add(
        self, ids: ArrayLike, vectors: ArrayLike, images: ArrayLike, tags: ArrayLike | None = None
    ) -> int:
        """Add rows [N], [N, d], uint8 [N, H, W, C], tags [N]; return how many replaced one of the same id.

        After it returns, the rows survive a crash of every process, and new queries find them. If it fails, some
        rows may have been added; repeating the call is safe. The client itself repeats it if a shard goes down or the
        snapshot is replaced meanwhile, and then counts rows that the first attempt added as replaced.
        """
        shape = self.manifest.dimension, self.manifest.image_shape
        change = Change(*as_rows(ids, np.array(vectors), np.array(images), tags, *shape))
        unique, counts = np.unique(change.ids, return_counts=True)
        if (counts > 1).any():
            raise DataError(f"the id {unique[counts > 1][0]} is given twice: give each row its own")
        return self._write(change)

    def remove(self, ids: ArrayLike) -> int:
        """Remove ids [N] durably, ignoring unknown ones; return how many were in the store.

        A call that the client repeats, as in `add`, counts only what the last attempt found.
        """
        return self._write(Change(np.unique(as_ids(ids))))

    def compact(self) -> Manifest:
        """Rewrite the store without removed rows and return the new manifest.

        Queries and changes continue meanwhile, each query on the old or on the new generation. StorageError if
        another process compacted or replaced the store at the same time.
        """
        compact(self.location, self._everyone)
        return self._refresh(time.monotonic() + self.timeout)

    def reload(self) -> Manifest:
        """Load the snapshot that another process put in place of this one; return its manifest."""
        deadline = time.monotonic() + self.timeout
        manifest = self._refresh(deadline)
        self._everyone("adopt", (), deadline)
        return manifest

    def info(self) -> list[dict[str, Any]]:
        """Return one row per shard: count, bytes, index, queries, pid, node, started, restarts."""
        deadline = time.monotonic() + self.timeout
        return self._scatter([HostCall(part, "info") for part in range(self.num_shards)], deadline)

    def check(self, digests: Mapping[str, str]) -> None:
        """Raise StoreMismatch, now and in later generations, unless networks with these digests embedded the store."""
        self._check(self.manifest, digests)
        self._expected |= digests

    def close(self) -> None:
        """Wait for running requests and release resources. A request that comes later may raise StoreUnavailable."""
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, work: Callable[[View], T]) -> Pending[T]:
        """Run a request on another thread."""
        deadline = self._enter()
        try:
            future = self._threads.submit(self._in_one_generation, work, deadline)
        except BaseException as error:
            self._slots.release()
            if isinstance(error, RuntimeError):  # the threads have ended
                raise StoreUnavailable(f"store {self.manifest.name} was closed: connect again") from None
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return Pending(future)

    def _run(self, work: Callable[[View], T]) -> T:
        """Run a request on this thread, which saves waking another one."""
        deadline = self._enter()
        try:
            return self._in_one_generation(work, deadline)
        finally:
            self._slots.release()

    def _enter(self) -> float:
        """Wait for a free slot; return the deadline of the request."""
        deadline = time.monotonic() + self.timeout
        if not self._slots.acquire(timeout=self.timeout):
            raise StoreUnavailable(
                f"store {self.manifest.name}: {MAX_IN_FLIGHT} requests in flight and none ended within "
                f"{self.timeout:g} s; collect results sooner, or look at `rgcluster store info`"
            )
        return deadline

    def _in_one_generation(self, work: Callable[[View], T], deadline: float) -> T:
        while True:
            try:
                return work(View(self.manifest, self.num_shards, self._scatter, deadline))
            except StaleGeneration:
                if time.monotonic() > deadline:
                    raise
                self._refresh(deadline)

    def _refresh(self, deadline: float) -> Manifest:
        """Switch to the newest snapshot that a shard serves."""
        found = self._scatter([HostCall(part, "origin") for part in range(self.num_shards)], deadline)
        manifest = max((manifest for manifest, _ in found), key=lambda each: each.generation)
        self._check(manifest, self._expected)
        self.manifest = manifest
        return manifest

    def _check(self, manifest: Manifest, digests: Mapping[str, str]) -> None:
        for network, digest in digests.items():
            held = manifest.digests.get(network)
            if held != digest:
                raise StoreMismatch(
                    f"the store {manifest.name} was embedded by {network} {held or '(unknown)'}, "
                    f"not {digest}: rebuild with `rgcluster store build`"
                )

    def _write(self, change: Change) -> int:
        owners = shard_of(change.ids, self.num_shards)
        parts = [(owner, change.select(owners == owner)) for owner in np.unique(owners).tolist()]

        def work(view: View) -> int:
            written = view.scatter([view.call_to(owner, "write", part) for owner, part in parts])
            self._follow([owner for owner, _ in parts], view)
            if any(asked for _, asked in written):
                threading.Thread(target=self._compact_asked, daemon=True, name="store-compaction").start()
            return int(sum(touched for touched, _ in written))

        return self._run(work)

    def _compact_asked(self) -> None:
        """Compact because a shard asked for it. If it fails, changes go on, and it asks again later."""
        try:
            self.compact()
        except (RGClusterError, OSError) as error:
            log.warning("store %s was not compacted: %s", self.manifest.name, error)

    @abstractmethod
    def _follow(self, parts: Sequence[int], view: View) -> None:
        """Make the replicas of these shards apply what the first replica wrote."""

    def _all_ids(self, view: View) -> NDArray[np.int64]:
        versions = view.everywhere("held_version")
        key = (view.snapshot, *versions)
        if self._ids is None or self._ids[0] != key:
            held = view.everywhere("ids")
            key = (view.snapshot, *(version for version, _ in held))
            self._ids = key, np.sort(np.concatenate([ids for _, ids in held]))
        return self._ids[1]

    def _query(self, queries: ArrayLike, k: int, exclude: ArrayLike | None, filter: Filter | None) -> Query:
        # Copy, since the caller may overwrite its batch during the query.
        rows = as_vectors(np.array(queries, np.float32), self.manifest.dimension)
        _require_positive(k)
        return Query(rows, k, excluded_ids(exclude, len(rows)), None if filter is None else filter.tags)


def _draw(
    everything: NDArray[np.int64],
    keys: NDArray[np.int64],
    k: int,
    excluded: NDArray[np.int64] | None,
    seed: int,
) -> NDArray[np.int64]:
    """Return k distinct ids for each key [B, k], never excluded[i]."""
    spare = 0 if excluded is None else excluded.shape[1]
    drawn = np.empty((len(keys), k), np.int64)
    for row, key in enumerate(keys):
        generator = np.random.default_rng([seed % 2**64, int(key) % 2**64])
        # Draw more than k, since excluded images may be among them.
        count = min(k + max(1, spare), len(everything))
        chosen = everything[generator.choice(len(everything), count, replace=False)]
        if excluded is not None:
            chosen = chosen[~np.isin(chosen, excluded[row])]
        if len(chosen) < k:
            raise too_few(k, len(chosen), excluded is not None)
        drawn[row] = chosen[:k]
    return drawn


def _require_positive(k: int) -> None:
    if k < 1:
        raise DataError(f"{k} neighbours: ask for 1 or more")
