"""Host of a shard: its generations, its writes and its counters."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from rgcluster.base.storage import Location
from rgcluster.errors import StaleGeneration, StoreUnavailable
from rgcluster.store.changes.journal import Change
from rgcluster.store.changes.lease import Writer, release
from rgcluster.store.disk.snapshot import Manifest, read_manifest
from rgcluster.store.index.plan import EXACT_LIMIT
from rgcluster.store.shard.coalesce import Coalescer, Search, search_together
from rgcluster.store.shard.requests import ShardRequest
from rgcluster.store.shard.shard import IndexSettings, Shard

__all__ = ["Host"]

_RETIRE_SECONDS = 30.0
_SEARCH_ROWS = 1024
_WRITE_BYTES = 64 << 20
COMPACT_ROWS, COMPACT_SHARE = 10_000, 0.5
"""Changed rows of a shard, and their share of the snapshot's, from which compaction pays.

It always does from `EXACT_LIMIT` rows, since a search compares with all that were added.
"""
_COMPACT_SECONDS = 600.0
"""After a shard has asked for a compaction, it does not ask again for this time."""

Searches = Coalescer[Search, Any]


class _Write(NamedTuple):
    snapshot: str
    change: Change


class Host:
    """Serves one shard of the current snapshot and, during an exchange, holds that of the next.

    Every request names its snapshot. StaleGeneration tells the caller to repeat the whole request on the current
    one. An old one is released after its last call. Concurrent changes share one write.

    `owner` names the store that the shard belongs to, and `restarts` tells its processes apart (`lease.py`).
    """

    def __init__(
        self,
        location: str,
        part: int,
        parts: int,
        settings: IndexSettings,
        owner: str,
        *,
        restarts: int = 0,
    ) -> None:
        self._location, self._part, self._parts = Location(location), part, parts
        # No file of a snapshot changes, so a restarted process does not verify them again.
        self._settings, self._verify = settings, not restarts
        # By the token of the snapshot.
        self._shards: dict[str, tuple[Shard, Searches]] = {}
        self._current = ""
        self._loading, self._state = threading.Lock(), threading.Condition()
        self._busy = Counter[str]()
        self._owner, self._closed = owner, False
        self._writer = Writer(self._location, owner, part, parts, restarts)
        self._writes = Coalescer(self._write, _WRITE_BYTES, lambda write: write.change.nbytes)
        # Held while changes are written or applied: a shard applies each once, and in order.
        self._changing = threading.Lock()
        self._ask_after = 0.0
        self._started, self._counts = time.time(), Counter[str]()
        self._search_seconds = 0.0

    def origin(self) -> tuple[Manifest, int]:
        """Return the current manifest and the number of shards."""
        return self._load_current().manifest, self._parts

    def call(self, request: ShardRequest) -> Any:
        """Call a method of `Shard` of the snapshot that the request names."""
        try:
            return self._call(request)
        except FileNotFoundError:  # a compaction of another process removed the files of this snapshot
            if read_manifest(self._location).token == request.snapshot:
                raise
            raise self._stale() from None

    def _call(self, request: ShardRequest) -> Any:
        snapshot, method, args = request
        shard, searches = self._of(snapshot)
        with self._counted(snapshot):
            if method == "search":
                start = time.perf_counter()
                result = searches.call(Search(*args))
                with self._state:
                    self._search_seconds += time.perf_counter() - start
                    self._counts["queries"] += len(args[0])
                return result
            if method == "write":
                touched = self._writes.call(_Write(snapshot, *args))
                if isinstance(touched, StaleGeneration):
                    raise touched
                return touched
            if method == "catch_up":
                with self._changing:
                    return shard.catch_up()
            assert request.is_read, method
            return getattr(shard, method)(*args)

    def info(self) -> dict[str, Any]:
        """Return the shard's row with the counters of this process."""
        row = self._load_current().info()
        with self._state:
            return row | {
                "queries": self._counts["queries"],
                "calls": self._counts["calls"],
                "search_seconds": self._search_seconds,
                "started": self._started,
            }

    def prepare(self, manifest_file: str) -> None:
        """Load the snapshot of another manifest file, which is about to be published."""
        manifest = read_manifest(self._location, manifest_file)
        with self._loading:
            self._enter(manifest)

    def abandon(self, snapshot: str) -> None:
        """Drop a snapshot that was prepared and will not be published."""
        with self._loading, self._state:
            if snapshot != self._current:
                self._shards.pop(snapshot, None)

    def release(self) -> None:
        """Accept no more changes, and leave the right to write to others."""
        self._closed = True
        with self._changing:
            if self._writer.used:
                release(self._location, self._owner)

    def adopt(self) -> None:
        """Serve the snapshot that is current on disk, and no other; wait for the calls of older ones."""
        current = self._load_current().manifest.token
        with self._state:
            old = [snapshot for snapshot in self._busy if snapshot != current]
            self._state.wait_for(
                lambda: not any(self._busy[snapshot] for snapshot in old), timeout=_RETIRE_SECONDS
            )

    def _write(self, writes: list[_Write]) -> list[tuple[int, bool] | StaleGeneration]:
        """Make changes durable, then visible in every loaded snapshot.

        Returns for each how many ids existed before, and whether the caller is asked to compact the store; or
        StaleGeneration if the snapshot that it meant was replaced.
        """
        try:
            return self._write_in_epoch(writes)
        except BaseException:
            self._writer.leave()
            raise

    def _write_in_epoch(self, writes: list[_Write]) -> list[tuple[int, bool] | StaleGeneration]:
        while True:
            if not (entered := self._writer.has_entered()):
                if self._closed:
                    raise StoreUnavailable(f"{self._location}: the store is closed; start it again")
                self._writer.enter()
                self._load_current()
            with self._changing:
                with self._state:
                    current = self._current
                    shards = {snapshot: shard for snapshot, (shard, _) in self._shards.items()}
                changes = [write.change for write in writes if write.snapshot == current]
                if not entered:
                    for shard in shards.values():
                        shard.catch_up()
                if not changes:
                    return [self._stale() for _ in writes]
                epoch, file, acknowledged = self._writer.append(changes)
                if acknowledged:
                    touched = {
                        snapshot: shard.apply(changes, epoch, file) for snapshot, shard in shards.items()
                    }
                    break
                for shard in shards.values():
                    shard.apply([], epoch, file)  # is about to be written again
        counts = iter(touched[current])
        return [
            (next(counts), self._asks_to_compact(shards[current]))
            if write.snapshot == current
            else self._stale()
            for write in writes
        ]

    def _asks_to_compact(self, shard: Shard) -> bool:
        """Return, on behalf of all shards and seldom, whether so much has changed that compaction pays."""
        share = COMPACT_SHARE * shard.manifest.count / self._parts
        if self._part or shard.changed < max(COMPACT_ROWS, min(share, EXACT_LIMIT)):
            return False
        now = time.monotonic()
        if now < self._ask_after:
            return False
        self._ask_after = now + _COMPACT_SECONDS
        return True

    def _of(self, snapshot: str) -> tuple[Shard, Searches]:
        if snapshot != self._current:
            self._load_current()
        found = self._shards.get(snapshot)
        if found is None:
            raise self._stale()
        return found

    def _load_current(self) -> Shard:
        """Return the shard of the current snapshot; switch to the one on disk first if that is another."""
        current = self._shards.get(self._current)
        if current is not None and read_manifest(self._location).token == current[0].manifest.token:
            return current[0]
        with self._loading:
            while True:
                manifest = read_manifest(self._location)
                try:
                    shard = self._enter(manifest)
                    break
                except FileNotFoundError:  # a compaction replaced and removed the files while they were read
                    if read_manifest(self._location).token == manifest.token:
                        raise
            with self._state:
                self._current = manifest.token
                self._shards = {self._current: self._shards[self._current]}
            return shard

    def _enter(self, manifest: Manifest) -> Shard:
        """Return the shard of a snapshot with all changes so far; load it unless it was prepared."""
        shard, searches = self._shards.get(manifest.token) or self._loaded(manifest)
        with self._changing:
            shard.catch_up()  # with what was written while it loaded, or what a replica has not followed
            self._shards[manifest.token] = shard, searches
        return shard

    def _loaded(self, manifest: Manifest) -> tuple[Shard, Searches]:
        shard = Shard(
            self._location, manifest, self._part, self._parts, self._settings,
            verify=self._verify,
        )  # fmt: skip
        searches = Searches(
            partial(search_together, shard), _SEARCH_ROWS, lambda search: len(search.queries),
            lambda search: search.tags,
        )  # fmt: skip
        return shard, searches

    def _stale(self) -> StaleGeneration:
        return StaleGeneration(
            f"{self._location}: this snapshot has been replaced and is no longer served; connect again"
        )

    @contextmanager
    def _counted(self, snapshot: str) -> Iterator[None]:
        with self._state:
            self._busy[snapshot] += 1
            self._counts["calls"] += 1
        try:
            yield
        finally:
            with self._state:
                self._busy[snapshot] -= 1
                self._state.notify_all()
