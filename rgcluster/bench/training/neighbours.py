"""A guided step, compared with neighbours in memory and with a step without retrieval."""

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
    """Train in turn with the store, with cached neighbours and unguided, in this process; the store must be built.

    There are 15 rounds, or fewer in `limit` seconds.
    """
    share = placement(pipeline.config).workers["guidance"]
    torch.set_num_threads(share.threads)
    worker = Worker(0, 1, pick_device(pipeline.config.cluster, gpu=share.gpu))
    snapshot = snapshot_of(pipeline.run)
    with RayStore.share(snapshot, "bench-guidance") as store:
        guided, unguided = (
            GuidanceStage(_run(pipeline, variant, store.name), worker)
            for variant in ("rg-unit", "gmm-unit-continued")
        )
        blocks = list(
            islice(
                stream_blocks(guided.run, worker, 0, STEPS, guided.settings.batch_size, guided.ingest.seed),
                STEPS,
            )
        )
        live, held = guided.retriever.store, _InMemory(store)
        cases: dict[str, tuple[GuidanceStage, Any]] = {
            "store": (guided, live),
            "memory": (guided, held),
            "unguided": (unguided, live),
        }
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        waited = 0.0
        for turn in turns(ROUNDS + 1, limit, least=2):
            for case, (stage, source) in cases.items():
                stage.retriever.store = source
                stage.waits()
                start = time.perf_counter()
                for step, item in enumerate(stage.prefetched(blocks)):
                    stage.step(turn * STEPS + step, item)
                took = time.perf_counter() - start
                if turn:  # the first round warms up and fills the cache
                    seconds[case].append(took / STEPS)
                    waited += stage.waits()["neighbours"] if case == "store" else 0.0
    took_ms = {case: 1000 * statistics.median(times) for case, times in seconds.items()}
    share_waited = waited / (STEPS * sum(seconds["store"]))
    name, ours = "guidance, step", took_ms["store"]
    return [
        Row(name, "with the store, median", ours, "ms", "neighbours in memory", took_ms["memory"]),
        Row(name, "guided, median", ours, "ms", "unguided", took_ms["unguided"]),
        Row(name, "waiting for neighbours", share_waited, "share"),
    ]


def _run(pipeline: Pipeline, variant: str, store: str) -> Run:
    """Return the run of stage 3 that trains one variant alone."""
    guidance = pipeline.config.guidance.model_copy(update={"variants": (variant,)})
    config = pipeline.config.model_copy(update={"guidance": guidance})
    upstream = {stage: str(networks_of(pipeline.run, stage)) for stage in ("translation", "retrieval")}
    return Run(config, str(pipeline.run), "guidance", pipeline.source("train"), {**upstream, "store": store})


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
