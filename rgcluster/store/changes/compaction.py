"""Exchange of a store's generation without interrupting queries.

1. Write the new generation beside the old one, and load it in every shard.
2. Block changes, and copy those made meanwhile into the new journal.
3. Replace the manifest by one rename. The shards adopt the new generation and drop the old one after its last
   call.

After a failure at any point, the manifest names one complete generation, which the shards serve.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rgcluster.base.storage import Location
from rgcluster.errors import StorageError
from rgcluster.store.changes.journal import change_names
from rgcluster.store.changes.transfer import compacted_beside
from rgcluster.store.disk.snapshot import read_manifest
from rgcluster.store.disk.writer import discard, publish

__all__ = ["Compaction"]

_LOAD_SECONDS = 600.0
_HOLD_SECONDS = 30.0

Everyone = Callable[[str, tuple[Any, ...], float], list[Any]]


class Compaction:
    """One exchange. Exiting the context early keeps the old generation."""

    def __init__(self, location: Location, everyone: Everyone, timeout: float) -> None:
        self._location, self._everyone, self._timeout = location, everyone, timeout
        self._candidate: str | None = None
        self._holding = False

    def run(self) -> None:
        """Write, load and adopt the new generation; do nothing if there are no changes."""
        written = compacted_beside(self._location)
        if written is None:
            return
        self._candidate, included = written
        old, new = read_manifest(self._location), read_manifest(self._location, self._candidate)
        self._everyone("prepare", (self._candidate,), time.monotonic() + _LOAD_SECONDS)
        self._holding, begun = True, time.monotonic()
        self._everyone("hold_writes", (_HOLD_SECONDS,), time.monotonic() + self._timeout)
        for name in change_names(self._location / old.journal):
            if name not in included:
                content = (self._location / old.journal / name).read_bytes()
                (self._location / new.journal / name).write_bytes(content, durable=True)
        if (
            time.monotonic() > begun + _HOLD_SECONDS / 2
        ):  # changes are about to be allowed again and would be lost
            raise StorageError(
                f"{self._location}: too slow to exchange generations; run the same command again"
            )
        publish(self._location, self._candidate)
        self._candidate = None
        self._everyone("adopt", (new.generation,), time.monotonic() + _LOAD_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._candidate is not None:
            discard(self._location, self._candidate)
        if self._holding:
            self._everyone("release_writes", (), time.monotonic() + self._timeout)
