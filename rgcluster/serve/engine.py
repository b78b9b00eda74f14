"""The translators of one run behind a batching queue, independent of Ray Serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.rundir import open_run, shards_of
from rgcluster.config import ClusterConfig
from rgcluster.data.images import encode_png
from rgcluster.data.shards import open_shards
from rgcluster.errors import DataError
from rgcluster.serve.batcher import Batcher
from rgcluster.serve.settings import ServeSettings
from rgcluster.store.client import Neighbours, Store
from rgcluster.translate.device import Device, pick_device
from rgcluster.translate.jobs import Job, Outcome, Translators

__all__ = ["Engine", "serving_device"]

NUM_EXAMPLES = 8


def serving_device(settings: ServeSettings, cluster: ClusterConfig) -> Device:
    """Return the device of a translator; `precision: run` is the run's own."""
    if settings.precision != "run":
        cluster = cluster.model_copy(update={"precision": settings.precision})
    gpu = settings.gpus != 0 and cluster.gpu != "never" and torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    return pick_device(cluster, gpu=gpu)


class Engine:
    """The translators of one run, warmed up."""

    def __init__(
        self,
        run: str,
        store: Store,
        settings: ServeSettings,
        observe: Callable[[int, int], None] = lambda size, waiting: None,
    ) -> None:
        config, self._run = open_run(run)
        self.translators = Translators(
            self._run, config, store, serving_device(settings, config.cluster),
            max_rows=settings.batch_rows, degrade=settings.without_store == "unguided",
        )  # fmt: skip
        self.translators.warm_up()
        self._batcher: Batcher[Job, Outcome] = Batcher(
            self.translators.run, lambda job: job.rows, settings.batch_rows, observe
        )

    async def translate(self, job: Job) -> Outcome:
        """Translate in the next batch with room."""
        return await self._batcher.submit(job)

    async def neighbours(self, job: Job, count: int) -> Neighbours:
        """Return the stored images nearest to the job's rows."""
        return await asyncio.to_thread(self.translators.neighbours, job, count)

    async def stored_image(self, row_id: int) -> npt.NDArray[np.uint8]:
        """Return a stored image; UnknownId for an id that is not in the store."""
        store = self.translators.retriever.store
        return (await asyncio.to_thread(store.fetch, [row_id]))[0]

    async def examples(self) -> list[bytes]:
        """Return encoded images of the test split, or of the store where the shards are elsewhere."""
        return await asyncio.to_thread(lambda: self._examples)

    @cached_property
    def _examples(self) -> list[bytes]:
        try:
            shards = open_shards(shards_of(self._run))
            if shards.prepared is None or shards.prepared.format != "raw":
                places = shards.index("test").places
                chosen = np.linspace(0, len(places) - 1, min(NUM_EXAMPLES, len(places))).astype(int)
                if len(chosen):
                    return [bytes(content) for content in shards.read_images(places[chosen])]
        except (DataError, OSError):
            pass  # a run that was moved without its data
        store = self.translators.retriever.store
        ids = store.ids()
        chosen = ids[np.linspace(0, len(ids) - 1, min(NUM_EXAMPLES, len(ids))).astype(int)]
        return [encode_png(image) for image in store.fetch(chosen)]
