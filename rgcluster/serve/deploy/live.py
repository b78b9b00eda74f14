"""An engine with a store of Ray actors, which is restarted when it has stopped."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rgcluster.base.rundir import snapshot_of, store_name
from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError, StoreMismatch, StoreUnavailable
from rgcluster.serve.backend import ServedModel
from rgcluster.serve.engine import Engine
from rgcluster.serve.settings import ServeSettings
from rgcluster.serve.telemetry import TranslatorMetrics
from rgcluster.store.client import Neighbours
from rgcluster.store.store import RayStore
from rgcluster.translate.jobs import Job, Outcome

__all__ = ["LiveEngine", "open_store"]

T = TypeVar("T")
log = logging.getLogger("ray.serve")


def open_store(run: Location, name: str, timeout: float) -> RayStore:
    """Connect to the store of that name, or start it from the run's snapshot."""
    try:
        return RayStore.connect(name, timeout=timeout)
    except StoreUnavailable:
        pass
    try:
        return RayStore.start(snapshot_of(run), name, detached=True, timeout=timeout)
    except ConfigError:  # another replica started it first
        return RayStore.connect(name, timeout=max(timeout, 60.0))


class LiveEngine:
    """The engine of one run in a replica, with its store and metrics."""

    def __init__(self, served: ServedModel, settings: ServeSettings) -> None:
        self._location, self._timeout = Location(served.run), settings.store_timeout_s
        self._name = settings.stores.get(served.name) or store_name(self._location)
        self._engine = Engine(served.run, self._open(), settings, TranslatorMetrics(served.name).batch)
        self._reopening = asyncio.Lock()

    async def translate(self, job: Job) -> Outcome:
        return await self._retry_once(lambda: self._engine.translate(job))

    async def neighbours(self, job: Job, count: int) -> Neighbours:
        return await self._retry_once(lambda: self._engine.neighbours(job, count))

    async def stored_image(self, row_id: int) -> npt.NDArray[np.uint8]:
        return await self._retry_once(lambda: self._engine.stored_image(row_id))

    async def examples(self) -> list[bytes]:
        return await self._retry_once(self._engine.examples)

    def _open(self) -> RayStore:
        return open_store(self._location, self._name, self._timeout)

    async def _retry_once(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat work that the store failed, once the store was opened again: by this request or by another."""
        retriever = self._engine.translators.retriever
        failed = retriever.store
        try:
            return await work()
        except StoreMismatch as error:
            log.error("%s", error)
            raise
        except StoreUnavailable as error:
            log.warning("%s", error)
            async with self._reopening:
                if retriever.store is failed:
                    await asyncio.to_thread(self._reopen)
            return await work()

    def _reopen(self) -> None:
        """Open the store again; StoreMismatch if other networks embedded it meanwhile."""
        store = self._open()
        try:
            before = self._engine.translators.retriever.replace_store(store)
        except StoreMismatch as error:
            log.error("%s", error)
            store.close()
            raise
        # Its last requests may take as long as the time-out.
        threading.Thread(target=before.close, daemon=True, name="store-closing").start()
