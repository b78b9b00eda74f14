"""The store inside this process: for tests, and for sets that one process can hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rgcluster.storage import Location
from rgcluster.store.client import Call, Store
from rgcluster.store.shard import Shard
from rgcluster.store.snapshot import read_manifest, verify

__all__ = ["LocalStore"]


class LocalStore(Store):
    """A snapshot served by this process, over `num_shards` shards (as on disk if not given)."""

    def __init__(
        self,
        location: Location | str | os.PathLike[str],
        *,
        num_shards: int | None = None,
        verify_checksums: bool = True,
        timeout: float = 60.0,
        max_in_flight: int = 16,
    ) -> None:
        path = Location(location).local()
        manifest = verify(path) if verify_checksums else read_manifest(path)
        super().__init__(manifest, num_shards or manifest.num_shards, timeout, max_in_flight)
        self._location = path
        self._shards = [
            Shard(path, part, self.num_shards, manifest.digest) for part in range(self.num_shards)
        ]

    def _scatter(self, calls: Sequence[Call], deadline: float) -> list[Any]:
        return [getattr(self._shards[number], method)(*args) for number, method, args in calls]
