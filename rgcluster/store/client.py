"""What every store offers: scatter a query, merge by distance, fetch the winners; add, remove, compact.

Requests run on threads beside the caller's, so `..._async` returns at once
and `result()` waits only for what is not there yet.
"""

from __future__ import annotations

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
from rgcluster.errors import DataError, StaleGeneration, StoreMismatch, StoreUnavailable
from rgcluster.store.answers import Found, Neighbours, Pending
from rgcluster.store.changes.compaction import Compaction
from rgcluster.store.changes.journal import Change
from rgcluster.store.disk.snapshot import Manifest, shard_of
from rgcluster.store.disk.writer import as_images, as_tags
from rgcluster.store.index.exact import NO_ID, as_vectors, barred_ids, too_few
from rgcluster.store.index.rows import Filter
from rgcluster.store.view import Asked, Call, View

__all__ = ["Found", "Neighbours", "Pending", "Store"]

T = TypeVar("T")

_THREADS = 8


class Store(ABC):
    """Nearest and random real images out of a sharded snapshot, and changes to it.

    A query is answered in full and by one generation of the store, or fails with a typed error: DataError for
    its shape or NaN, TooFewNeighbours, StoreUnavailable after `timeout` seconds.
    """

    def __init__(
        self,
        location: Location,
        manifest: Manifest,
        num_shards: int,
        timeout: float = 60.0,
        max_in_flight: int = 16,
    ) -> None:
        self.location, self.manifest = location, manifest
        self.num_shards, self.timeout = num_shards, timeout
        self._max_in_flight = max_in_flight
        self._slots = threading.BoundedSemaphore(max_in_flight)
        self._threads = ThreadPoolExecutor(
            min(_THREADS, max_in_flight), thread_name_prefix=f"store-{manifest.name}"
        )
        self._expected: dict[str, str] = {}
        self._ids: tuple[tuple[int, ...], NDArray[np.int64]] | None = None

    @abstractmethod
    def _scatter(self, calls: Sequence[Call], deadline: float) -> list[Any]:
        """Return the answer to each call of a shard's host; StoreUnavailable once `deadline` is past."""

    @abstractmethod
    def _everyone(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        """Call every host, replicas too."""

    @property
    def count(self) -> int:
        """Number of images in the store."""
        return sum(row["count"] for row in self.info())

    def search(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Found:
        """Return distances [B, k] and ids [B, k] nearest to queries [B, d].

        exclude [B] or [B, E] are ids that are kept from each row's answer (-1 for none); a filter says which
        images may be in any.
        """
        asked = self._asked(queries, k, exclude, filter)
        return self._run(lambda view: view.search(asked))

    def search_async(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Pending[Found]:
        """Start `search`."""
        asked = self._asked(queries, k, exclude, filter)
        return self._submit(lambda view: view.search(asked))

    def neighbours(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Neighbours:
        """Return the nearest images, with ids and distances."""
        asked = self._asked(queries, k, exclude, filter)
        return self._run(lambda view: view.neighbours(asked))

    def neighbours_async(
        self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None, filter: Filter | None = None
    ) -> Pending[Neighbours]:
        """Start `search` and, when it is merged, the fetch of the winners' images."""
        asked = self._asked(queries, k, exclude, filter)
        return self._submit(lambda view: view.neighbours(asked))

    def random_async(
        self, batch_ids: ArrayLike, k: int, exclude: ArrayLike | None = None, *, seed: int
    ) -> Pending[Neighbours]:
        """Start drawing k distinct images for each of batch_ids [B], never exclude[i].

        A row's draw is keyed by (seed, batch id): neither the order of the
        batch nor the number of shards matters. Distances are NaN.
        """
        keys = np.array(batch_ids, np.int64)
        barred = barred_ids(exclude, len(keys))
        _require_positive(k)

        def work(view: View) -> Neighbours:
            ids = _draw(self._all_ids(view), keys, k, barred, seed)
            return Neighbours(ids, np.full(ids.shape, np.nan, np.float32), view.fetch(ids))

        return self._submit(work)

    def fetch(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Return the images [..., H, W, C] of ids [...]; UnknownId for an id that is not in the store."""
        wanted = np.array(ids, np.int64)
        return self._run(lambda view: view.fetch(wanted))

    def vectors(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors [..., d] of ids [...]; UnknownId for an id that is not in the store."""
        wanted = np.array(ids, np.int64)
        return self._run(lambda view: view.vectors(wanted))

    def ids(self) -> NDArray[np.int64]:
        """Return every id [N] in the store, ascending."""
        return self._run(self._all_ids).copy()

    def add(
        self, ids: ArrayLike, vectors: ArrayLike, images: ArrayLike, tags: ArrayLike | None = None
    ) -> int:
        """Add rows [N], [N, d], uint8 [N, H, W, C], tags [N]; return how many replaced one of the same id.

        When this returns, they survive the end of every process, and every query that begins finds them. If
        it fails, some may have come; the same call again is harmless.
        """
        numbers, rows = np.array(ids, np.int64), as_vectors(np.array(vectors), self.manifest.dimension)
        if (
            numbers.shape != (len(rows),)
            or len(np.unique(numbers)) != len(numbers)
            or (numbers == NO_ID).any()
        ):
            raise DataError(
                f"ids of shape {list(numbers.shape)} for {len(rows)} rows: give each its own, not -1"
            )
        pictures = as_images(np.array(images), len(rows), self.manifest.image_shape)
        return self._write(Change(numbers, rows, pictures, as_tags(tags, len(rows))))

    def remove(self, ids: ArrayLike) -> int:
        """Remove what is here of ids [N], durably; return how many were."""
        return self._write(Change(np.unique(np.array(ids, np.int64))))

    def compact(self) -> Manifest:
        """Write the store anew without what was removed, while it goes on answering; return the new manifest.

        Queries are answered throughout, each by the old generation or by the new; changes wait for the
        moment of the exchange.
        """
        with Compaction(self.location, self._everyone, self.timeout) as compaction:
            compaction.run()
        return self._refresh(time.monotonic() + self.timeout)

    def reload(self) -> Manifest:
        """Take up the snapshot that another process has put in this one's place; return its manifest."""
        deadline = time.monotonic() + self.timeout
        manifest = self._refresh(deadline)
        self._everyone("adopt", (manifest.generation,), deadline)
        return manifest

    def info(self) -> list[dict[str, Any]]:
        """Return one row per shard: count, bytes, index, queries, pid, node, started, restarts."""
        deadline = time.monotonic() + self.timeout
        return self._scatter([(number, "info", ()) for number in range(self.num_shards)], deadline)

    def check(self, digests: Mapping[str, str]) -> None:
        """Raise StoreMismatch unless the store was embedded by the networks with these digests, now and later."""
        self._check(self.manifest, digests)
        self._expected |= digests

    def close(self) -> None:
        """Wait for what is in flight and let go; no call may follow."""
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, work: Callable[[View], T]) -> Pending[T]:
        """Do it on a thread beside the caller's."""
        deadline = self._enter()
        try:
            future = self._threads.submit(self._in_one_generation, work, deadline)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return Pending(future)

    def _run(self, work: Callable[[View], T]) -> T:
        """Do it here: a caller that waits needs no other thread to be woken."""
        deadline = self._enter()
        try:
            return self._in_one_generation(work, deadline)
        finally:
            self._slots.release()

    def _enter(self) -> float:
        """Take one of the slots, when there is one; return the deadline of the request."""
        deadline = time.monotonic() + self.timeout
        if not self._slots.acquire(timeout=self.timeout):
            raise StoreUnavailable(
                f"store {self.manifest.name}: {self._max_in_flight} requests in flight and none ended within "
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
        """Learn of the newest generation that a shard serves."""
        found = self._scatter([(number, "origin", ()) for number in range(self.num_shards)], deadline)
        manifest = max((manifest for manifest, _ in found), key=lambda each: each.generation)
        self._check(manifest, self._expected)
        if manifest.generation > self.manifest.generation:
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
        parts = [(owner, change.of(owners == owner)) for owner in np.unique(owners).tolist()]

        def work(view: View) -> int:
            touched = view.scatter([(owner, "write", (part,)) for owner, part in parts])
            self._follow([owner for owner, _ in parts], view)
            return int(sum(touched))

        return self._run(work)

    @abstractmethod
    def _follow(self, parts: Sequence[int], view: View) -> None:
        """Let the replicas of these shards catch up with what their first has written."""

    def _all_ids(self, view: View) -> NDArray[np.int64]:
        versions = view.everywhere("held_version")
        key = (view.generation, *versions)
        if self._ids is None or self._ids[0] != key:
            held = view.everywhere("ids")
            key = (view.generation, *(version for version, _ in held))
            self._ids = key, np.sort(np.concatenate([ids for _, ids in held]))
        return self._ids[1]

    def _asked(self, queries: ArrayLike, k: int, exclude: ArrayLike | None, filter: Filter | None) -> Asked:
        # A copy, since the caller may write over its batch while the query is under way.
        rows = as_vectors(np.array(queries, np.float32), self.manifest.dimension)
        _require_positive(k)
        return Asked(rows, k, barred_ids(exclude, len(rows)), None if filter is None else filter.tags)


def _draw(
    everything: NDArray[np.int64],
    keys: NDArray[np.int64],
    k: int,
    barred: NDArray[np.int64] | None,
    seed: int,
) -> NDArray[np.int64]:
    """Return k distinct ids for each key [B, k], never barred[i]."""
    spare = 0 if barred is None else barred.shape[1]
    drawn = np.empty((len(keys), k), np.int64)
    for row, key in enumerate(keys):
        generator = np.random.default_rng([seed % 2**64, int(key) % 2**64])
        # Some to spare, in case the excluded images are among them; without any, one, as it always was.
        count = min(k + max(1, spare), len(everything))
        chosen = everything[generator.choice(len(everything), count, replace=False)]
        if barred is not None:
            chosen = chosen[~np.isin(chosen, barred[row])]
        if len(chosen) < k:
            raise too_few(k, len(chosen), barred is not None)
        drawn[row] = chosen[:k]
    return drawn


def _require_positive(k: int) -> None:
    if k < 1:
        raise DataError(f"{k} neighbours: ask for 1 or more")
