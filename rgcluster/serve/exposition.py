"""`GET /metrics`: the metrics of the endpoint from the Ray exporters of every node."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import ray
from fastapi import FastAPI, Request, Response

from rgcluster.serve.http.guard import ConcurrencyLimit
from rgcluster.serve.telemetry import ours

__all__ = ["Exposition", "add_metrics"]

AT_ONCE = 2
"""Requests for metrics that are answered at once; the next ones are refused."""
KEPT_SECONDS = 2.0
"""Ray exports less often."""
NODE_SECONDS = 3.0


class Exposition:
    """Gathers the metrics of all nodes, at most every `KEPT_SECONDS`, for a bounded number of requests at once."""

    def __init__(self, retry_after_s: int) -> None:
        self._places = ConcurrencyLimit(AT_ONCE, "requests for metrics", retry_after_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")  # apart from those that translate
        self._kept: tuple[float, str] | None = None

    async def answer(self, request: Request) -> Response:
        """Return the exposition; ApiError 429 where too many requests wait for it."""
        with self._places.slot():
            text = await asyncio.get_running_loop().run_in_executor(self._thread, self._gathered)
        return Response(text, media_type="text/plain; version=0.0.4")

    def _gathered(self) -> str:
        if self._kept is None or time.monotonic() - self._kept[0] > KEPT_SECONDS:
            text = _gather()
            self._kept = (time.monotonic(), text)
        return self._kept[1]


def add_metrics(app: FastAPI, retry_after_s: int) -> None:
    """Add the route /metrics."""
    app.add_api_route("/metrics", Exposition(retry_after_s).answer, methods=["GET"], include_in_schema=False)


def _gather() -> str:
    lines: list[str] = []
    # A proxy of the environment does not lead to the nodes.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with opener.open(url, timeout=NODE_SECONDS) as answer:
                lines += ours(answer.read().decode())
        except OSError as error:
            lines.append(f"# {url}: {error}")
    return "\n".join(dict.fromkeys(lines)) + "\n"
