"""The cost of the store in a step of stage 3, compared with steps whose neighbours are in memory."""

from __future__ import annotations

import statistics
import time
from itertools import islice
from typing import Any

import numpy as np
import torch

from rgcluster.base.rundir import networks_of, snapshot_of
from rgcluster.base.session import placement
from rgcluster.bench.result import Row
from rgcluster.bench.turns import turns
from rgcluster.pipeline.run import Pipeline
from rgcluster.store.client import Neighbours
from rgcluster.store.store import RayStore
from rgcluster.train.stage import Run, Worker
from rgcluster.train.steps.guidance import GuidanceStage
from rgcluster.train.steps.translation import stream_blocks
from rgcluster.translate.device import pick_device

__all__ = ["bench_neighbours"]

STEPS, ROUNDS = 4, 15


def bench_neighbours(pipeline: Pipeline, limit: float) -> list[Row]:
    """Train alternately with the store and with cached neighbours, in this process; the store must be built.

    There are 15 rounds, or fewer in `limit` seconds.
    """
    share = placement(pipeline.config).workers["guidance"]
    torch.set_num_threads(share.threads)
    worker = Worker(0, 1, pick_device(pipeline.config.cluster, gpu=share.gpu))
    upstream = {stage: str(networks_of(pipeline.run, stage)) for stage in ("translation", "retrieval")}
    snapshot = snapshot_of(pipeline.run)
    with RayStore.share(snapshot, "bench-guidance") as store:
        run = Run(
            pipeline.config, str(pipeline.run), "guidance", pipeline.source("train"),
            {**upstream, "store": store.name},
        )  # fmt: skip
        stage = GuidanceStage(run, worker)
        blocks = list(
            islice(stream_blocks(run, worker, 0, STEPS, stage.settings.batch_size, stage.ingest.seed), STEPS)
        )
        live, held = stage.retriever.store, _InMemory(store)
        seconds: dict[Any, list[float]] = {live: [], held: []}
        waited = 0.0
        for turn in turns(ROUNDS + 1, limit, least=2):
            for source, times in seconds.items():
                stage.retriever.store = source
                stage.waits()
                start = time.perf_counter()
                for step, item in enumerate(stage.prefetched(blocks)):
                    stage.step(turn * STEPS + step, item)
                took = time.perf_counter() - start
                if turn:  # the first round warms up and fills the cache
                    times.append(took / STEPS)
                    waited += stage.waits()["neighbours"] if source is live else 0.0
    ours, theirs = (1000 * statistics.median(times) for times in seconds.values())
    share_waited = waited / (STEPS * sum(seconds[live]))
    return [
        Row("guidance, step", "with the store, median", ours, "ms", "neighbours in memory", theirs),
        Row("guidance, step", "waiting for neighbours", share_waited, "share"),
    ]


class _InMemory:
    """Answers immediately with the store's response to the first request of that shape."""

    def __init__(self, store: RayStore) -> None:
        self._store = store
        self._held: dict[tuple[int, int], _Held] = {}

    def neighbours_async(self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None) -> _Held:
        key = (len(queries), k)
        if key not in self._held:
            self._held[key] = _Held(self._store.neighbours(queries, k, exclude))
        return self._held[key]


class _Held:
    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def result(self) -> Neighbours:
        return self._neighbours
