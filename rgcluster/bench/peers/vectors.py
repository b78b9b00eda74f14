"""`rgcluster bench store --peers`: this store beside other vector libraries on the same vectors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from rgcluster.bench.peers.libraries.chroma import Chroma
from rgcluster.bench.peers.libraries.hnswlib import Hnswlib
from rgcluster.bench.peers.libraries.lancedb import LanceDB
from rgcluster.bench.peers.libraries.milvus import MilvusLite
from rgcluster.bench.peers.libraries.usearch import USearch, USearchExact
from rgcluster.bench.peers.peer import Floats, Ids, Progress, VectorPeer, installed
from rgcluster.bench.result import Row
from rgcluster.bench.store import SMALL, clustered, write
from rgcluster.bench.turns import turns
from rgcluster.store import IndexSettings, RayStore

__all__ = ["PEERS", "bench_peers"]

PEERS: tuple[type[VectorPeer], ...] = (USearchExact, LanceDB, MilvusLite, Hnswlib, USearch, Chroma)
K = 3
BATCHES = (1, 32)
SHARDS = 4
RECALL = 0.99
WIDTHS = (16, 32, 64, 128, 256, 512)
"""Candidates of an approximate peer; the first that reaches `RECALL` is measured."""
CALLS, SECONDS = 30, 8.0
REST = 0.02
ADDED = 64
FIRST_ADDED = 10**9

Search = Callable[[Floats], Ids]


def bench_peers(
    folder: Path, count: int, progress: Progress, peers: Sequence[type[VectorPeer]] = PEERS
) -> list[Row]:
    """Compare searches of `count` vectors and additions by 64; a peer that is not installed is said and skipped.

    Exact peers are compared with this store's exact index, the others with its HNSW, both at a recall of .99.
    """
    present = installed(peers, progress)
    if not present:
        return []
    vectors, queries = clustered(count, 0)
    rows: list[Row] = []
    truth: Ids | None = None
    for exact in (True, False):
        chosen = [peer for peer in present if peer.exact is exact]
        if not chosen and not exact:
            continue  # the exact index is the truth of the others
        case = f"{count:,} x {vectors.shape[1]}, {'exact' if exact else f'recall {RECALL}'}"
        index: Literal["exact", "hnsw"] = "exact" if exact else "hnsw"
        progress(f"this store, {index}")
        place = folder / f"store-{index}"  # of its own: what is added to one would be found in the other
        write(place, vectors, SHARDS)
        with _store(place, index) as store:
            if truth is None:
                truth = _found(store)(queries)
            ours = _latencies(_found(store), queries)
            rows.append(Row(case, "recall, this store", _recall(_found(store), queries, truth), ""))
            added = _added(lambda ids, new: _add(store, ids, new), vectors) if exact else None
        for peer in chosen:
            progress(peer.name)
            rows += _compared(
                peer, folder / peer.name.replace(" ", "-"), vectors, queries, truth, case, ours, added
            )
    return rows


def _compared(
    kind: type[VectorPeer],
    folder: Path,
    vectors: Floats,
    queries: Floats,
    truth: Ids,
    case: str,
    ours: dict[int, float],
    added: float | None,
) -> list[Row]:
    """Measure a peer beside this store's milliseconds by batch and, for exact ones, rows added a second."""
    folder.mkdir(parents=True)
    start = time.perf_counter()
    peer = kind(folder, vectors)
    rows = [Row(f"{case}, {peer.name}", "built", time.perf_counter() - start, "s")]

    def search(batch: Floats) -> Ids:
        return peer.search(batch, K)

    if not peer.exact:
        for width in WIDTHS:
            peer.widen(width)
            if _recall(search, queries, truth) >= RECALL:
                break
    rows.append(Row(f"{case}, {peer.name}", "recall", _recall(search, queries, truth), ""))
    theirs = _latencies(search, queries)
    rows += [
        Row(f"{case}, batch {batch}", "search, median", ours[batch], "ms", peer.name, theirs[batch])
        for batch in BATCHES
    ]
    speed = _added(peer.add, vectors)
    peer.close()
    name = peer.name if peer.durable else f"{peer.name}, {peer.otherwise}"
    if added is None:
        rows.append(Row(f"adding by {ADDED}, {name}", "rows added", speed, "1/s"))
    else:
        rows.append(Row(f"adding by {ADDED}", "rows added durably", added, "1/s", name, speed))
    return rows


@contextmanager
def _store(place: Path, kind: Literal["exact", "hnsw"]) -> Iterator[RayStore]:
    index = IndexSettings(kind, recall=RECALL)
    with RayStore.start(place, f"bench-peers-{kind}", num_actors=SHARDS, index=index) as store:
        yield store


def _found(store: RayStore) -> Search:
    return lambda queries: store.search(queries, K)[1]


def _add(store: RayStore, ids: Ids, vectors: Floats) -> None:
    store.add(ids, vectors, np.zeros((len(ids), *SMALL), np.uint8))


def _recall(search: Search, queries: Floats, truth: Ids) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, search(queries), strict=True)]))


def _latencies(search: Search, queries: Floats) -> dict[int, float]:
    """Return the median milliseconds of a search from rest, by batch."""
    medians = {}
    for batch in BATCHES:
        seconds = []
        for turn in turns(CALLS, SECONDS, least=3):
            rows = queries[np.arange(turn, turn + batch) % len(queries)]
            time.sleep(REST)  # libraries whose threads spin after a search would slow down the next one
            start = time.perf_counter()
            search(rows)
            seconds.append(time.perf_counter() - start)
        medians[batch] = 1e3 * statistics.median(seconds[1:])
    return medians


def _added(add: Callable[[Ids, Floats], None], vectors: Floats) -> float:
    """Return the rows a second of additions by 64."""
    start = time.perf_counter()
    done = 0
    for turn in turns(len(vectors) // ADDED, SECONDS):
        first = turn * ADDED
        add(np.arange(ADDED) + FIRST_ADDED + first, vectors[first : first + ADDED])
        done += ADDED
    return done / (time.perf_counter() - start)
