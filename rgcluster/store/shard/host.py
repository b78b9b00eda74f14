"""Host of a shard: its generations, its writes and its counters."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rgcluster.base.storage import Location
from rgcluster.errors import StaleGeneration, StoreUnavailable
from rgcluster.store.changes.journal import Change
from rgcluster.store.disk.snapshot import Manifest, read_manifest
from rgcluster.store.shard.coalesce import Coalescer
from rgcluster.store.shard.requests import ShardRequest
from rgcluster.store.shard.shard import IndexSettings, Shard

__all__ = ["Host"]

_RETIRE_SECONDS = 30.0


class Host:
    """Serves one shard in its current generation and, during an exchange, in the next.

    Every request names its generation. StaleGeneration tells the caller to repeat the whole request on the
    current one. An old generation is released after its last call.
    """

    def __init__(
        self,
        location: str,
        part: int,
        parts: int,
        settings: IndexSettings,
        *,
        verify: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._location, self._part, self._parts = Location(location), part, parts
        self._settings, self._verify, self._log = settings, verify, log
        self._shards: dict[int, tuple[Shard, Coalescer]] = {}
        self._current = -1
        self._loading, self._state = threading.Lock(), threading.Condition()
        self._busy: Counter[int] = Counter()
        self._running_writes, self._held_until = 0, 0.0
        self._started, self._counts = time.time(), Counter[str]()
        self._search_seconds = 0.0

    def origin(self) -> tuple[Manifest, int]:
        """Return the current manifest and the number of shards."""
        return self._load_current().manifest, self._parts

    def call(self, request: ShardRequest) -> Any:
        """Call a method of `Shard` of the generation that the request names."""
        generation = request.generation
        try:
            return self._call(request)
        except FileNotFoundError:  # a compaction of another process removed the files of this generation
            current = read_manifest(self._location).generation
            if current == generation:
                raise
            raise self._stale(generation, current) from None

    def _call(self, request: ShardRequest) -> Any:
        generation, method, args = request
        shard, coalescer = self._of(generation)
        with self._counted(generation, method):
            if method == "search":
                start = time.perf_counter()
                result = coalescer.search(*args)
                with self._state:
                    self._search_seconds += time.perf_counter() - start
                    self._counts["queries"] += len(args[0])
                return result
            if method == "write":
                return self._write(generation, shard, *args)
            if method == "catch_up":
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

    def prepare(self, manifest_file: str) -> int:
        """Load the snapshot of another manifest file; return its generation."""
        manifest = read_manifest(self._location, manifest_file)
        with self._loading:
            self._enter(manifest)
        return manifest.generation

    def hold_writes(self, seconds: float) -> None:
        """Block new writes for `seconds` or until release; return when no write is running."""
        with self._state:
            self._held_until = time.monotonic() + seconds
            if not self._state.wait_for(lambda: not self._running_writes, timeout=seconds):
                raise StoreUnavailable(f"{self._location}: a write takes longer than {seconds:g} s")

    def release_writes(self) -> None:
        with self._state:
            self._held_until = 0.0
            self._state.notify_all()

    def adopt(self, generation: int) -> None:
        """Make a generation the current one; wait for the calls of older ones and drop them."""
        self._of(generation)[0].catch_up()
        with self._state:
            self._current = generation
            old = [number for number in self._shards if number < generation]
            for number in old:
                del self._shards[number]
            self._state.wait_for(
                lambda: not any(self._busy[number] for number in old), timeout=_RETIRE_SECONDS
            )

    def _write(self, generation: int, shard: Shard, change: Change) -> int:
        with self._state:
            while (left := self._held_until - time.monotonic()) > 0:
                self._state.wait(left)
            self._running_writes += 1
        try:
            # If another process replaced the snapshot, nobody reads this journal any more.
            current = read_manifest(self._location).generation
            if current != generation:
                raise self._stale(generation, current)
            return shard.write(change)
        finally:
            with self._state:
                self._running_writes -= 1
                self._state.notify_all()

    def _of(self, generation: int) -> tuple[Shard, Coalescer]:
        found = self._shards.get(generation)
        if found is None and self._load_current().manifest.generation == generation:
            found = self._shards.get(generation)
        if found is None:
            raise self._stale(generation, self._current)
        return found

    def _load_current(self) -> Shard:
        """Return the shard of the current generation; load it first if the one on disk is newer."""
        current = self._shards.get(self._current)
        if current is not None and read_manifest(self._location).generation == self._current:
            return current[0]
        with self._loading:
            while True:
                manifest = read_manifest(self._location)
                try:
                    shard = self._enter(manifest)
                    break
                except FileNotFoundError:  # a compaction replaced and removed the files while they were read
                    if read_manifest(self._location).generation == manifest.generation:
                        raise
            for number in [number for number in self._shards if number < self._current]:
                del self._shards[number]
            self._current = manifest.generation
            return shard

    def _enter(self, manifest: Manifest) -> Shard:
        found = self._shards.get(manifest.generation)
        if found is None:
            shard = Shard(
                self._location, manifest, self._part, self._parts, self._settings,
                verify=self._verify, log=self._log,
            )  # fmt: skip
            found = self._shards[manifest.generation] = shard, Coalescer(shard)
        return found[0]

    def _stale(self, requested: int, current: int) -> StaleGeneration:
        return StaleGeneration(
            f"{self._location}: generation {requested} is no longer served, {current} is; connect again"
        )

    @contextmanager
    def _counted(self, generation: int, method: str) -> Iterator[None]:
        with self._state:
            self._busy[generation] += 1
            self._counts["calls"] += 1
        try:
            yield
        finally:
            with self._state:
                self._busy[generation] -= 1
                self._state.notify_all()
