"""`GET /metrics`: the metrics of the endpoint from the Ray exporters of every node."""

from __future__ import annotations

import asyncio
import urllib.request

import ray
from fastapi import FastAPI, Request, Response

from rgcluster.serve.telemetry import ours

__all__ = ["add_metrics"]


def add_metrics(app: FastAPI) -> None:
    """Add the route /metrics."""
    app.add_api_route("/metrics", _metrics, methods=["GET"], include_in_schema=False)


async def _metrics(request: Request) -> Response:
    text = await asyncio.to_thread(_gathered)
    return Response(text, media_type="text/plain; version=0.0.4")


def _gathered() -> str:
    lines: list[str] = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=3.0) as answer:
                lines += ours(answer.read().decode())
        except OSError as error:
            lines.append(f"# {url}: {error}")
    return "\n".join(dict.fromkeys(lines)) + "\n"
