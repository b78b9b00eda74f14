"""`rgcluster bench store --peers`: peers by their results, missing ones said, recall and additions compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inside import run_inside
from peers_alone import peers_alone

from rgcluster.bench.peers import vectors
from rgcluster.bench.peers.peer import Floats, Ids, VectorPeer
from rgcluster.bench.peers.vectors import PEERS, bench_peers
from rgcluster.store import LocalStore


class Exact(VectorPeer):
    """Brute force."""

    library, name, exact, durable = "numpy", "brute force", True, True

    def __init__(self, folder: Path, vectors: Floats) -> None:
        assert folder.is_dir() and not list(folder.iterdir())
        self.vectors, self.ids = vectors, np.arange(len(vectors))

    def search(self, queries: Floats, k: int) -> Ids:
        distances = [np.square(self.vectors - query).sum(axis=1) for query in queries]
        return self.ids[np.argsort(distances, axis=1)[:, :k]]

    def add(self, ids: Ids, vectors: Floats) -> None:
        self.vectors, self.ids = np.concatenate([self.vectors, vectors]), np.concatenate([self.ids, ids])


class Wider(Exact):
    """Finds everything from a width of 64 on, and nothing below."""

    name, exact, durable = "wider", False, False
    widths: list[int] = []

    def widen(self, width: int) -> None:
        self.widths.append(width)

    def search(self, queries: Floats, k: int) -> Ids:
        found = super().search(queries, k)
        return found if self.widths[-1] >= 64 else -1 - found


class Missing(Exact):
    library, name = "no_such_library", "missing"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """This store without Ray, and little of everything."""
    monkeypatch.setattr(vectors, "_store", lambda place, kind: LocalStore(place))
    monkeypatch.setattr(vectors, "CALLS", 3)
    monkeypatch.setattr(vectors, "SECONDS", 0.05)
    monkeypatch.setattr(vectors, "REST", 0.0)


def test_the_store_stands_beside_each_peer(tmp_path: Path, quick: None) -> None:
    said: list[str] = []
    Wider.widths.clear()
    rows = bench_peers(tmp_path, 1000, said.append, (Exact, Missing, Wider))
    assert "missing: skipped, not installed: `pip install 'rgcluster[peers]'`" in said
    found = {(row.case, row.metric, row.baseline): row for row in rows}
    for batch in (1, 32):
        for kind, peer in (("exact", "brute force"), ("recall 0.99", "wider")):
            row = found[f"1,000 x 100, {kind}, batch {batch}", "search, median", peer]
            assert row.value > 0 and row.ratio is not None and row.ratio > 0
    durable = found["adding by 64", "rows added durably", "brute force"]
    assert durable.value > 0 and durable.baseline_value is not None and durable.baseline_value > 0
    assert found["adding by 64, wider, in memory alone", "rows added", None].value > 0
    recalls = [row.value for row in rows if row.metric.startswith("recall")]
    assert len(recalls) == 4 and min(recalls) == 1
    assert Wider.widths == [16, 32, 64]


def test_without_any_peer_nothing_is_measured(tmp_path: Path, quick: None) -> None:
    assert bench_peers(tmp_path, 1000, lambda line: None, (Missing,)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
def test_a_peer_finds_the_nearest_and_what_was_added(kind: type[VectorPeer], tmp_path: Path) -> None:
    pytest.importorskip(kind.library)
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((300, 16), np.float32)
    queries = generator.standard_normal((4, 16), np.float32)
    (tmp_path / "truth").mkdir()
    (tmp_path / "peer").mkdir()
    truth, peer = Exact(tmp_path / "truth", rows), kind(tmp_path / "peer", rows)
    if not peer.exact:
        peer.widen(300)
    assert np.array_equal(peer.search(queries, 3), truth.search(queries, 3))
    peer.add(np.arange(10**9, 10**9 + 400), np.repeat(50 + queries, 100, axis=0))
    assert (peer.search(50 + queries, 1) >= 10**9).all()
    assert np.array_equal(peer.search(queries, 3), truth.search(queries, 3))


def test_the_command_compares_peers_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contextlib import nullcontext

    from rgcluster.bench import store

    given = peers_alone(monkeypatch, (vectors, "bench_peers"), (store, "bench_store"))
    monkeypatch.setattr("rgcluster.base.session.ray_session", nullcontext)
    assert run_inside("bench", "store", "--peers", "--vectors", "2000") == (0, "")
    assert [count for _, count, _ in given] == [2000]
