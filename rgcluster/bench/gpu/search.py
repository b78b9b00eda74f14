"""Exact search of many vectors: FAISS, and torch's matrix products, on the GPU against the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.bench.gpu.gallery import Vectors
from rgcluster.bench.gpu.part import Place, Skip, free
from rgcluster.bench.result import Row
from rgcluster.bench.turns import turns

__all__ = ["faiss_search", "torch_search"]

DIMENSION, K = 100, 3
BATCHES = (1, 32, 256)
CALLS = 20
SECONDS = 5.0

Floats = npt.NDArray[np.float32]


def torch_search(place: Place, left: float) -> Iterator[Row]:
    """Measure `gallery.Vectors`."""
    vectors, queries = (torch.from_numpy(array) for array in _vectors(place.scale.vectors))

    def run(device: str) -> Callable[[int], Any]:
        there, asked = Vectors(vectors.to(device)), queries.to(device)
        return lambda batch: there.nearest(asked[:batch], K).cpu()

    return _compared(place, "torch", run)


def faiss_search(place: Place, left: float) -> Iterator[Row]:
    """Measure FAISS's flat index; Skip where FAISS, or its part for GPUs, is not installed."""
    try:
        import faiss
    except ImportError:
        raise Skip("FAISS is not installed: `pip install 'rgcluster[gpu]'`") from None
    if place.kind == "cuda" and not hasattr(faiss, "StandardGpuResources"):
        raise Skip("this FAISS has no part for GPUs: `pip install 'rgcluster[gpu]'`")
    vectors, queries = _vectors(place.scale.vectors)
    flat = faiss.IndexFlatL2(DIMENSION)
    flat.add(vectors)
    faiss.cvar.distance_compute_blas_threshold = 1

    def run(device: str) -> Callable[[int], Any]:
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat) if device == "cuda" else flat
        return lambda batch: index.search(queries[:batch], K)[1]

    return _compared(place, "FAISS", run)


def _vectors(count: int) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((count, DIMENSION), np.float32)
    return vectors, generator.standard_normal((max(BATCHES), DIMENSION), np.float32)


def _compared(place: Place, name: str, run: Callable[[str], Callable[[int], Any]]) -> Iterator[Row]:
    """Measure the search that `run` returns for a device, on the CPU and, if there is one, on the GPU."""
    count = f"{place.scale.vectors:,} x {DIMENSION}"
    theirs: dict[int, float] = {}
    answers: dict[int, Any] = {}
    for device in dict.fromkeys(("cpu", place.kind)):
        there = "the CPU" if device == "cpu" else "the GPU"
        place.say(f"{name} on {there}")
        search = run(device)
        for batch in BATCHES:
            case, found, took = (
                f"{name}, {count}, batch {batch}",
                np.asarray(search(batch)),
                _median(search, batch),
            )
            if device == "cpu":
                theirs[batch], answers[batch] = took, found
                yield Row(case, f"search on {there}, median", took, "ms")
                continue
            yield Row(case, f"search on {there}, median", took, "ms", "the CPU", theirs[batch])
            same = np.mean([np.isin(a, b).mean() for a, b in zip(found, answers[batch], strict=True)])
            yield Row(case, "neighbours as on the CPU", float(same), "share")
    free(place)


def _median(search: Callable[[int], Any], batch: int) -> float:
    """Return the milliseconds of a search."""
    seconds = []
    for _ in turns(CALLS, SECONDS, least=3):
        start = time.perf_counter()
        search(batch)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)
