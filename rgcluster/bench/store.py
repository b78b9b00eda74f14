"""`rgcluster bench store`: the store's actors compared with FAISS in this process on the same vectors."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
from numpy.typing import NDArray

from rgcluster.base.storage import Location
from rgcluster.bench.result import Row
from rgcluster.store import IndexSettings, RayStore, SnapshotWriter, read_manifest, tag_of
from rgcluster.store.changes.journal import Change
from rgcluster.store.index.plan import plan_of
from rgcluster.store.shard.shard import Shard

__all__ = ["SMALL", "bench_store", "clustered", "write"]

DIMENSION, K = 100, 3
BATCHES = (1, 32, 256)
CLIENTS = 8
SMALL, PICTURE = (2, 2, 3), (128, 128, 3)
PICTURES = 12_000
WINNERS = 96
CALLS = 60
REST = 0.02
SECONDS = 8.0

Progress = Callable[[str], None]
Floats = NDArray[np.float32]


def bench_store(folder: Path, count: int, many: int, progress: Progress, times: int = 1) -> list[Row]:
    """Measure with `count` vectors, 12,000 pictures of 128 px and, with approximate indexes, `many` vectors.

    Searches are repeated `times` times as often as by default, and loads last as much longer.
    """
    calls, seconds = CALLS * times, SECONDS * times
    progress(f"{count:,} vectors")
    vectors, queries = clustered(count, 0)
    write(folder / "exact", vectors, 4)
    flat = _Flat(vectors)
    rows: list[Row] = []
    for shards in (1, 2, 4):
        progress(f"{shards} shards")
        with _served(folder / "exact", f"bench-{shards}", shards) as store:
            rows += _latency(store, flat, queries, shards, calls)
            if shards == 4:
                rows += _throughput(store, flat, queries, seconds)
                rows += _changes(store, queries, seconds)
                rows.append(_additions(store, seconds))
                rows += _restart(store, queries)
    progress(f"{PICTURES:,} pictures")
    rows += _winners(folder / "pictures", calls)
    if many:
        progress(f"{many:,} vectors")
        del vectors, flat
        rows += _approximate(folder / "many", many, progress)
    return rows


def clustered(count: int, seed: int) -> tuple[Floats, Floats]:
    """Return vectors [count, 100] and queries [512, 100] around the same centres, similar to embeddings."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(16, count // 200), DIMENSION)).astype(np.float32)

    def draw(number: int) -> Floats:
        noise = generator.standard_normal((number, DIMENSION), np.float32) * np.float32(0.4)
        return noise + centres[generator.integers(0, len(centres), number)]

    return draw(count), draw(512)


def write(place: Path, vectors: Floats, shards: int, shape: tuple[int, int, int] = SMALL) -> None:
    """Write a snapshot of vectors under the ids 0, 1, ..., with random pictures."""
    generator = np.random.default_rng(1)
    with SnapshotWriter(place, shards, DIMENSION, shape, {"retrieval": "bench"}) as writer:
        for start in range(0, len(vectors), 2048):
            piece = vectors[start : start + 2048]
            pictures = generator.integers(0, 256, (len(piece), *shape), np.uint8)
            writer.append(np.arange(start, start + len(piece)), piece, pictures)
        writer.commit()


class _Flat:
    """FAISS in this process, with the fastest number of threads and BLAS threshold for each batch size."""

    def __init__(self, vectors: Floats) -> None:
        self.index = faiss.IndexFlatL2(DIMENSION)
        self.index.add(vectors)
        self._best: dict[int, tuple[int, int]] = {}

    def search(self, queries: Floats) -> tuple[NDArray, NDArray]:
        threads, threshold = self._best.get(len(queries)) or self._tune(queries)
        self.configure(threads, threshold)
        return self.index.search(queries, K)

    def nearest(self, queries: Floats) -> NDArray:
        """Return only the ids, without tuning, which would take minutes for many queries."""
        self.configure(len(os.sched_getaffinity(0)), 1)
        return self.index.search(queries, K)[1]

    def settings(self, batch: int) -> str:
        threads, threshold = self._best[batch]
        return f"FAISS in process, {threads} threads, {'BLAS' if batch >= threshold else 'no BLAS'}"

    @staticmethod
    def configure(threads: int, threshold: int) -> None:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = threshold

    def _tune(self, queries: Floats) -> tuple[int, int]:
        def cost(setting: tuple[int, int]) -> float:
            self.configure(*setting)
            return statistics.median(_timed(self.index.search, queries, K) for _ in range(7))

        cores = len(os.sched_getaffinity(0))
        settings = [(threads, threshold) for threads in {1, cores} for threshold in (1, 100_000)]
        self._best[len(queries)] = min(settings, key=cost)
        return self._best[len(queries)]


@contextmanager
def _served(place: Path, name: str, shards: int, index: IndexSettings | None = None) -> Iterator[RayStore]:
    with RayStore.start(place, name, num_actors=shards, index=index) as store:
        # Warm up: each thread of a shard allocates memory on its first call.
        for batch in BATCHES:
            for _ in range(CALLS):
                store.search(np.zeros((batch, DIMENSION), np.float32), K)
        yield store


def _latency(store: RayStore, flat: _Flat, queries: Floats, shards: int, calls: int) -> list[Row]:
    # Time of as many empty Ray calls.
    idle = _median_ms([_timed(store.ping) for _ in range(calls)])
    rows = [Row(f"{shards} shards", "empty calls, median", idle, "ms")]
    for batch in BATCHES:
        rows_in = [queries[np.arange(turn, turn + batch) % len(queries)] for turn in range(calls)]
        flat.search(rows_in[0])
        ours, theirs, over = list[float](), list[float](), list[float]()
        before = _searched(store)
        for q in rows_in:
            theirs.append(_from_rest(flat.search, q))
            ours.append(_from_rest(store.search, q, K))
            after = _searched(store)
            over.append(ours[-1] - float((after - before).max()))
            before = after
        case, name = f"{shards} shards, batch {batch}", flat.settings(batch)
        rows.append(Row(case, "search, median", _median_ms(ours), "ms", name, _median_ms(theirs)))
        rows.append(Row(case, "over the call's slowest shard, median", _median_ms(over), "ms"))
        rows.append(Row(case, "over the call's slowest shard, mean", statistics.fmean(over) * 1e3, "ms"))
    return rows


def _searched(store: RayStore) -> NDArray[np.float64]:
    """Return the total search seconds of each shard."""
    return np.array([row["search_seconds"] for row in store.info()])


def _throughput(store: RayStore, flat: _Flat, queries: Floats, seconds: float) -> list[Row]:
    batch = queries[:32]

    def rate(clients: list[Callable[[], Any]]) -> float:
        return _together(clients, seconds) * len(batch)

    connected = [RayStore.connect(store.name) for _ in range(CLIENTS)]
    best = 0.0
    for threshold in (1, 100_000):
        # OpenMP settings are thread-local; eight clients with one thread each fill the cores.
        def alone(threshold: int = threshold) -> None:
            flat.configure(1, threshold)
            flat.index.search(batch, K)

        best = max(best, rate([alone] * CLIENTS))
    ours = rate([functools.partial(client.search, batch, K) for client in connected])
    for client in connected:
        client.close()
    name = f"FAISS in process, {CLIENTS} threads"
    return [Row(f"4 shards, {CLIENTS} clients of batch 32", "queries a second", ours, "1/s", name, best)]


def _changes(store: RayStore, queries: Floats, limit: float) -> list[Row]:
    """Add batches of 64 rows while another client searches."""
    generator = np.random.default_rng(2)
    added, latencies = 0, []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            latencies.append(_timed(store.search, queries[:32], K))

    searcher = threading.Thread(target=search)
    searcher.start()
    start = time.perf_counter()
    while time.perf_counter() - start < limit:
        ids = np.arange(64) + 10**9 + added
        tags = np.full(64, tag_of("unlabelled"))
        store.add(ids, generator.normal(size=(64, DIMENSION)), np.zeros((64, *SMALL), np.uint8), tags)
        added += 64
    seconds = time.perf_counter() - start
    done.set()
    searcher.join()
    return [
        Row("4 shards, adding by 64 while searching by 32", "rows added durably", added / seconds, "1/s"),
        Row("4 shards, adding by 64 while searching by 32", "search, median", _median_ms(latencies), "ms"),
    ]


def _additions(store: RayStore, seconds: float) -> Row:
    """Add batches of 64 rows from eight clients at once."""
    connected, started = [RayStore.connect(store.name) for _ in range(CLIENTS)], itertools.count()
    vectors = np.random.default_rng(5).normal(size=(64, DIMENSION)).astype(np.float32)
    pictures = np.zeros((64, *SMALL), np.uint8)

    def add(client: RayStore) -> None:
        client.add(np.arange(64) + 2 * 10**9 + 64 * next(started), vectors, pictures)

    batches = _together([functools.partial(add, client) for client in connected], seconds)
    for client in connected:
        client.close()
    return Row(f"4 shards, {CLIENTS} clients adding by 64", "rows added durably", batches * 64, "1/s")


def _restart(store: RayStore, queries: Floats) -> list[Row]:
    times = []
    for _ in range(3):
        os.kill(store.info()[1]["pid"], signal.SIGKILL)
        times.append(_timed(store.search, queries[:1], K))
    return [Row("4 shards, one killed", "until the next answer, median", statistics.median(times), "s")]


def _winners(place: Path, calls: int) -> list[Row]:
    generator = np.random.default_rng(3)
    write(place, generator.normal(size=(PICTURES, DIMENSION)).astype(np.float32), 4, PICTURE)
    mapped = generator.integers(0, 256, (PICTURES, *PICTURE), np.uint8)
    rows = []
    with _served(place, "bench-pictures", 4) as store:
        wanted = [generator.choice(PICTURES, WINNERS, replace=False) for _ in range(calls)]
        for ids in wanted[:5]:
            store.fetch(ids)
        ours = _median_ms([_timed(store.fetch, ids) for ids in wanted])
        memory = _median_ms([_timed(mapped.__getitem__, ids) for ids in wanted])
        case = f"4 shards, {WINNERS} pictures of 128 px"
        rows.append(Row(case, "fetch, median", ours, "ms", "rows of an array in process", memory))
    return rows


def _approximate(place: Path, count: int, progress: Progress) -> list[Row]:
    vectors, queries = clustered(count, 4)
    write(place, vectors, 2, (1, 1, 3))
    flat = _Flat(vectors)
    case = f"{count:,} vectors, auto"
    start = time.perf_counter()
    with _served(place, "bench-many", 2, IndexSettings("auto", recall=0.95)) as store:
        built = time.perf_counter() - start
        info = store.info()
        progress(
            f"{info[0]['index']}, recall measured by the shards {min(row['recall'] for row in info):.4f}"
        )
        found = store.search(queries, K)[1]
        truth = flat.nearest(queries)
        recall = float(np.mean([np.isin(row, own).mean() for row, own in zip(truth, found, strict=True)]))
        rows = [Row(case, f"recall@{K}", recall, "")]
        for batch in (1, 32):
            piece = queries[:batch]
            pairs = [(_timed(store.search, piece, K), _timed(flat.search, piece)) for _ in range(12)]
            ours, exact = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
            rows.append(Row(case, f"search, batch {batch}, median", ours, "ms", flat.settings(batch), exact))
        resident = sum(psutil.Process(row["pid"]).memory_full_info().uss for row in info)
        rows += [
            Row(case, "memory of the shards' processes", resident / 2**30, "GiB"),
            Row(case, "memory a vector, index", sum(row["memory"] for row in info) / count, "bytes"),
            Row(case, "index made and loaded", built, "s"),
        ]
        os.kill(info[0]["pid"], signal.SIGKILL)
        rows.append(Row(case, "until the next answer, one killed", _timed(store.search, queries[:1], K), "s"))
    rows += _changed_shard(place, queries, f"{count:,} vectors, one of two shards")
    for kind in ("exact", "ivf", "hnsw", "ivfpq"):
        plan = plan_of(kind, count // 2, DIMENSION, 0.95)  # type: ignore[arg-type]
        rows.append(Row(f"{kind}, estimated", "memory a vector, index", plan.bytes_per_vector, "bytes"))
    return rows


def _changed_shard(place: Path, queries: Floats, case: str) -> list[Row]:
    """Change a shard beside an unchanged one in this process: how long its searches wait, and what they cost then."""
    manifest = read_manifest(place)
    start = time.perf_counter()
    untouched, changed = (Shard(Location(place), manifest, 0, manifest.num_shards) for _ in range(2))
    rows = [Row(case, "loaded with its index, mean of two", (time.perf_counter() - start) / 2, "s")]

    def search(shard: Shard) -> float:
        return _timed(shard.search, queries[:32], K)

    def apply(number: int, change: Change) -> float:
        return _timed(changed.apply, [change], 1, str(number))

    apply(0, Change(untouched.search(queries[:1], 1)[1][0]))
    pairs = [(search(untouched), search(changed)) for _ in range(CALLS)]
    before, after = (_median_ms(list(times)) for times in zip(*pairs, strict=True))
    rows.append(Row(case, "search, batch 32, after one removal, median", after, "ms", "before", before))
    generator, waits = np.random.default_rng(6), list[float]()
    for number in range(1, 201):
        vectors = generator.normal(size=(64, DIMENSION)).astype(np.float32)
        ids, tags = np.arange(64) + 10**9 + 64 * number, np.zeros(64, np.uint8)
        waits.append(
            apply(number, Change(ids, vectors, np.zeros((64, *manifest.image_shape), np.uint8), tags))
        )
    waited = float(np.percentile(waits, 99)) * 1e3
    return [*rows, Row(case, "searches wait for an addition of 64, 99th percentile", waited, "ms")]


def _together(clients: list[Callable[[], Any]], seconds: float) -> float:
    """Return the calls per second of all clients together."""
    counts, stop = [0] * len(clients), threading.Event()

    def work(number: int) -> None:
        while not stop.is_set():
            clients[number]()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clients))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def _from_rest(work: Callable[..., Any], *args: Any) -> float:
    # OpenMP's threads keep spinning after their work, which would slow down the next measurement.
    time.sleep(REST)
    return _timed(work, *args)


def _timed(work: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def _median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3
