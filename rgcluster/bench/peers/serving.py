"""`rgcluster bench serve --peers`: the endpoint beside other servers around the same translator."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial

from rgcluster.base.rundir import open_run, snapshot_of
from rgcluster.bench.clients import Load
from rgcluster.bench.peers.litserve import LitServe
from rgcluster.bench.peers.peer import Progress, installed
from rgcluster.bench.peers.server import ServerPeer
from rgcluster.bench.result import Row
from rgcluster.bench.serve import KINDS, LABELS, Endpoint, full_target
from rgcluster.bench.turns import turns
from rgcluster.data.images import encode_png
from rgcluster.serve.deploy.launch import serving
from rgcluster.serve.settings import ServeSettings
from rgcluster.store.local import LocalStore

__all__ = ["SERVERS", "bench_servers"]

SERVERS: tuple[type[ServerPeer], ...] = (LitServe,)
CLIENTS = (1, 16)
TURNS, SECONDS = 3, 60.0


def bench_servers(
    settings: ServeSettings,
    port: int,
    requests_each: int,
    progress: Progress,
    peers: Sequence[type[ServerPeer]] = SERVERS,
) -> list[Row]:
    """Compare latency and throughput by the number of clients; a peer that is not installed is named and skipped.

    The servers get the same requests from the same clients in turns, in one run; a peer is suspended while the
    endpoint is measured.
    """
    present = installed(peers, progress)
    if not present:
        return []
    name, run = next(iter(settings.runs.items()))
    image, target = _question(run)
    rows: list[Row] = []
    with serving(settings, "127.0.0.1", port) as served:
        endpoint = Endpoint(served.address, name, image, target)
        for kind in present:
            progress(f"{kind.name}: starting")
            peer = kind([settings.model_dump_json()], _free_port())
            try:
                rows += _compared(endpoint, peer, requests_each, progress)
            finally:
                peer.stop()
    return rows


def _compared(endpoint: Endpoint, peer: ServerPeer, each: int, progress: Progress) -> list[Row]:
    rows = []
    for guidance in KINDS:
        for clients in CLIENTS:
            case = f"{LABELS[guidance]}, {clients} clients"
            progress(f"{case}: this endpoint and {peer.name}")
            ours, theirs = Load(), Load()
            ask = partial(peer.load, endpoint.image, endpoint.target, guidance, clients, each)
            for _ in turns(TURNS, SECONDS):
                with peer.resting():
                    _gather(ours, endpoint.load(guidance, clients, each))
                _gather(theirs, ask())
            for metric, unit, value in METRICS:
                rows.append(Row(case, metric, value(ours), unit, peer.name, value(theirs)))
    return rows


METRICS: tuple[tuple[str, str, Callable[[Load], float]], ...] = (
    ("p50", "ms", lambda load: load.percentile(50)),
    ("throughput", "images/s", lambda load: load.per_second),
    ("failed", "requests", lambda load: load.failed + load.refused),
)


def _gather(total: Load, load: Load) -> None:
    """Add what another turn measured."""
    total.seconds += load.seconds
    total.refused += load.refused
    total.failed += load.failed
    total.elapsed += load.elapsed


def _question(run: str) -> tuple[bytes, str]:
    """Return the stored image that all requests send, as PNG, and their target."""
    config, location = open_run(run)
    store = LocalStore(snapshot_of(location))
    try:
        return encode_png(store.fetch(store.ids()[:1])[0]), full_target(config.num_attributes)
    finally:
        store.close()


def _free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
