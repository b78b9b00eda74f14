"""The store in this process, without Ray: for tests, and for data that one process can hold."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rgcluster.base.storage import Location
from rgcluster.store.client import Store
from rgcluster.store.disk.snapshot import Place, read_manifest
from rgcluster.store.shard.host import Host
from rgcluster.store.shard.requests import HostCall
from rgcluster.store.shard.shard import IndexSettings
from rgcluster.store.view import View

__all__ = ["LocalStore"]

T = TypeVar("T")


class LocalStore(Store):
    """A snapshot served by this process, over `num_shards` shards (as on disk if not given)."""

    def __init__(
        self,
        location: Place,
        *,
        num_shards: int | None = None,
        index: IndexSettings | None = None,
        timeout: float = 60.0,
    ) -> None:
        place = Location(location)
        manifest = read_manifest(place)
        super().__init__(place, manifest, num_shards or manifest.num_shards, timeout)
        owner = secrets.token_hex(8)
        self._hosts = [
            Host(str(place), part, self.num_shards, index or IndexSettings(), owner)
            for part in range(self.num_shards)
        ]
        self._everyone("origin", (), 0.0)

    def close(self) -> None:
        """Wait for running requests, leave the right to write to others, and release resources."""
        super().close()
        self._everyone("release", (), 0.0)

    def _scatter(self, calls: Sequence[HostCall], deadline: float) -> list[Any]:
        return [getattr(self._hosts[call.part], call.method)(*call.args) for call in calls]

    def _everyone(self, method: str, args: tuple[Any, ...], deadline: float) -> list[Any]:
        return [getattr(host, method)(*args) for host in self._hosts]

    def _run(self, work: Callable[[View], T]) -> T:
        # FAISS sets the number of OpenMP threads of the calling thread, so run it on another thread.
        return self._submit(work).result()

    def _follow(self, parts: Sequence[int], view: View) -> None:
        """There are no replicas."""
