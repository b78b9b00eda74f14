"""`rgcluster bench serve`: the endpoint over HTTP, compared with direct calls of the same translators."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlencode, urlsplit

import numpy as np
import numpy.typing as npt
import psutil

from rgcluster.base.rundir import open_run, store_name
from rgcluster.bench.clients import Load, run_clients
from rgcluster.bench.result import Row
from rgcluster.data.images import encode_png
from rgcluster.serve.deploy.launch import serving
from rgcluster.serve.deploy.live import open_store
from rgcluster.serve.engine import serving_device
from rgcluster.serve.settings import ServeSettings
from rgcluster.translate.finished import style_noise
from rgcluster.translate.jobs import Job, Translators
from rgcluster.translate.variants import Guidance

__all__ = ["KINDS", "LABELS", "Endpoint", "bench_serve", "full_target"]

CLIENTS = (1, 8, 16, 32)
TARGET = 1
"""The attribute that requests set. They send a full vector, so that the judge is not evaluated."""
DIRECT_CALLS = 60
KINDS: tuple[Guidance, ...] = ("off", "on")
LABELS = {"off": "without retrieval", "on": "with retrieval"}


def bench_serve(
    settings: ServeSettings, port: int, requests_each: int, memory_requests: int, say: Callable[[str], None]
) -> list[Row]:
    """Measure latency, throughput, memory over `memory_requests`, and an overload by ten times the limit."""
    name, run = next(iter(settings.runs.items()))
    rows: list[Row] = []
    with serving(settings, "127.0.0.1", port) as serve:
        direct = _Direct(run, settings)
        endpoint = Endpoint(serve.address, name, encode_png(direct.pixels[0]), direct.target)
        for clients in CLIENTS:
            say(f"health checks: {clients} clients")
            rows += _idle_rows(
                f"GET /v1/health, {clients} clients", endpoint.load(None, clients, requests_each)
            )
        for kind in KINDS:
            say(f"{LABELS[kind]}: called directly")
            alone, batched = direct.measure(kind)
            for clients in CLIENTS:
                say(f"{LABELS[kind]}: {clients} clients")
                load = endpoint.load(kind, clients, requests_each)
                rows += _rows(f"{LABELS[kind]}, {clients} clients", load, alone, batched, settings)
        if memory_requests:
            say(f"memory over {memory_requests} requests")
            rows += _memory(endpoint, memory_requests)
        say("ten times more clients than places")
        rows += _overload(endpoint, 10 * settings.limits.waiting)
    return rows


def full_target(attributes: int) -> str:
    """Return the target of all requests, a value for each attribute."""
    return ",".join(map(str, _target_vector(attributes).tolist()))


def _target_vector(attributes: int) -> npt.NDArray[np.int8]:
    return np.eye(attributes, dtype=np.int8)[TARGET % attributes]


@dataclass(frozen=True)
class Endpoint:
    """The address and the content of requests."""

    address: str
    model: str
    image: bytes
    target: str

    def load(self, kind: Guidance | None, clients: int, each: int, retries: int = 0) -> Load:
        """Run clients that request translations of that kind; None: health checks."""
        return run_clients(self.address, partial(self._request, kind), clients, each, retries)

    def _request(self, kind: Guidance | None, seed: int) -> bytes:
        host = urlsplit(self.address).netloc
        if kind is None:
            return f"GET /v1/health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        query = {"target": self.target, "guidance": kind, "seed": seed, "model": self.model, "format": "png"}
        head = (
            f"POST /v1/translate?{urlencode(query)} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: image/png\r\nContent-Length: {len(self.image)}\r\n\r\n"
        )
        return head.encode() + self.image


class _Direct:
    """The translators in this process, with the endpoint's store."""

    def __init__(self, run: str, settings: ServeSettings) -> None:
        config, location = open_run(run)
        self._rows, self._style = settings.batch_rows, config.style_size
        store = open_store(location, store_name(location), settings.store_timeout_s)
        device = serving_device(settings, config.cluster)
        self._translators = Translators(location, config, store, device, max_rows=self._rows, degrade=False)
        self._translators.warm_up()
        ids = store.ids()[: self._rows]
        self.pixels = store.fetch(ids)
        self._vector = _target_vector(config.num_attributes)
        self.target = full_target(config.num_attributes)

    def measure(self, kind: Guidance) -> tuple[float, float]:
        """Return the milliseconds of one call for one image, and images a second in full batches."""
        jobs = [self._job(number, kind) for number in range(self._rows)]
        alone = [_timed(lambda: self._translators.run(jobs[:1])) for _ in range(DIRECT_CALLS)]
        full = [_timed(lambda: self._translators.run(jobs)) for _ in range(DIRECT_CALLS // 2)]
        return 1000 * float(np.median(alone)), self._rows / float(np.median(full))

    def _job(self, number: int, kind: Guidance) -> Job:
        pixels = self.pixels[number % len(self.pixels)]
        noise = style_noise(number, 1, self._style)
        return Job(pixels, self._vector[None], np.ones((1, 1), np.float32), noise, None, kind, number)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _idle_rows(case: str, load: Load) -> list[Row]:
    """Return the costs of HTTP and Serve alone."""
    return [
        Row(case, "p50", load.percentile(50), "ms"),
        Row(case, "throughput", load.per_second, "answers/s"),
    ]


def _rows(case: str, load: Load, alone: float, batched: float, settings: ServeSettings) -> list[Row]:
    direct, full = "one direct call", f"direct calls of {settings.batch_rows}"
    rows = [Row(case, f"p{share}", load.percentile(share), "ms", direct, alone) for share in (50, 95, 99)]
    rows.append(Row(case, "over the direct call", load.percentile(50) - alone, "ms"))
    rows.append(Row(case, "throughput", load.per_second, "images/s", full, batched))
    rows.append(Row(case, "failed", load.failed, "requests"))
    return rows


def _memory(endpoint: Endpoint, total: int) -> list[Row]:
    """Compare the memory of Serve's processes after a tenth of the requests and after all of them."""
    clients, sizes = 16, []
    for share in (0.1, 0.45, 0.45):
        load = endpoint.load("on", clients, max(1, int(total * share) // clients))
        sizes.append(_serve_mib())
        if load.failed:
            return [Row("memory", "failed", load.failed, "requests")]
    case = f"memory over {total} requests"
    return [
        Row(case, f"after {share:.0%}", size, "MiB", "after 10%", sizes[0])
        for share, size in zip((0.55, 1.0), sizes[1:], strict=True)
    ]


def _serve_mib() -> float:
    """Return the unshared memory of Serve's processes, which are children of this one, in MiB."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if "Serve" in " ".join(process.cmdline()) or "ServeReplica" in process.name():
                total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 2**20


def _overload(endpoint: Endpoint, clients: int) -> list[Row]:
    load = endpoint.load("on", clients, 2, retries=3)
    case = f"{clients} clients"
    return [
        Row(case, "accepted", len(load.seconds), "requests"),
        Row(case, "refused (429)", load.refused, "requests"),
        Row(case, "failed", load.failed, "requests"),
        Row(case, "p50 of the accepted", load.percentile(50), "ms"),
        Row(case, "p99 of the accepted", load.percentile(99), "ms"),
    ]
