"""A shard at work: which generation answers, who may write, what was done so far."""

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
    """One shard and its successor. Every call names the generation that it means, and is answered by no other.

    A call for a generation that is not here raises StaleGeneration: the caller learns of the present one and
    asks again, from the beginning. A generation goes when its last call is answered.
    """

    def __init__(
        self,
        location: str,
        part: int,
        parts: int,
        settings: IndexSettings,
        *,
        verify: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._location, self._part, self._parts = Location(location), part, parts
        self._settings, self._verify, self._say = settings, verify, say
        self._shards: dict[int, tuple[Shard, Coalescer]] = {}
        self._present = -1
        self._loading, self._state = threading.Lock(), threading.Condition()
        self._busy: Counter[int] = Counter()
        self._writers, self._held_until = 0, 0.0
        self._started, self._done = time.time(), Counter[str]()
        self._search_seconds = 0.0

    def origin(self) -> tuple[Manifest, int]:
        """Return the present manifest and the number of shards the store is spread over."""
        return self._load_present().manifest, self._parts

    def call(self, request: ShardRequest) -> Any:
        """Call a method of `Shard` of the generation that the request names."""
        generation, method, args = request
        shard, coalescer = self._of(generation)
        with self._counted(generation, method):
            if method == "search":
                start = time.perf_counter()
                found = coalescer.search(*args)
                with self._state:
                    self._search_seconds += time.perf_counter() - start
                    self._done["queries"] += len(args[0])
                return found
            if method == "write":
                return self._write(generation, shard, *args)
            if method == "catch_up":
                return shard.catch_up()
            assert request.is_read, method
            return getattr(shard, method)(*args)

    def info(self) -> dict[str, Any]:
        """Return the shard's row with what this process did."""
        row = self._load_present().info()
        with self._state:
            return row | {
                "queries": self._done["queries"],
                "calls": self._done["calls"],
                "search_seconds": self._search_seconds,
                "started": self._started,
            }

    def prepare(self, manifest_file: str) -> int:
        """Load the snapshot that a manifest beside the present one names; return its generation."""
        manifest = read_manifest(self._location, manifest_file)
        with self._loading:
            self._enter(manifest)
        return manifest.generation

    def hold_writes(self, seconds: float) -> None:
        """Let no write begin for so long, unless released before; return when none is under way."""
        with self._state:
            self._held_until = time.monotonic() + seconds
            if not self._state.wait_for(lambda: not self._writers, timeout=seconds):
                raise StoreUnavailable(f"{self._location}: a write takes longer than {seconds:g} s")

    def release_writes(self) -> None:
        with self._state:
            self._held_until = 0.0
            self._state.notify_all()

    def adopt(self, generation: int) -> None:
        """Make a generation the present one and drop those before it when their calls are answered."""
        self._of(generation)[0].catch_up()
        with self._state:
            self._present = generation
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
            self._writers += 1
        try:
            # Another process may have replaced the snapshot: its journal would never be read again.
            present = read_manifest(self._location).generation
            if present != generation:
                raise self._stale(generation, present)
            return shard.write(change)
        finally:
            with self._state:
                self._writers -= 1
                self._state.notify_all()

    def _of(self, generation: int) -> tuple[Shard, Coalescer]:
        found = self._shards.get(generation)
        if found is None and self._load_present().manifest.generation == generation:
            found = self._shards.get(generation)
        if found is None:
            raise self._stale(generation, self._present)
        return found

    def _load_present(self) -> Shard:
        """Return the shard of the present generation, loading it from disk where it is newer there."""
        present = self._shards.get(self._present)
        if present is not None and read_manifest(self._location).generation == self._present:
            return present[0]
        with self._loading:
            manifest = read_manifest(self._location)
            shard = self._enter(manifest)
            for number in [number for number in self._shards if number < self._present]:
                del self._shards[number]
            self._present = manifest.generation
            return shard

    def _enter(self, manifest: Manifest) -> Shard:
        found = self._shards.get(manifest.generation)
        if found is None:
            shard = Shard(
                self._location, manifest, self._part, self._parts, self._settings,
                verify=self._verify, say=self._say,
            )  # fmt: skip
            found = self._shards[manifest.generation] = shard, Coalescer(shard)
        return found[0]

    def _stale(self, asked: int, present: int) -> StaleGeneration:
        return StaleGeneration(
            f"{self._location}: generation {asked} is no longer served, {present} is; connect again"
        )

    @contextmanager
    def _counted(self, generation: int, method: str) -> Iterator[None]:
        with self._state:
            self._busy[generation] += 1
            self._done["calls"] += 1
        try:
            yield
        finally:
            with self._state:
                self._busy[generation] -= 1
                self._state.notify_all()
