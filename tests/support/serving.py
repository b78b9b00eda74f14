"""An endpoint in this process: the whole front on a real port, its translator in a thread, no Ray."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
import uvicorn
from PIL import Image

from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.serve.backend import Backend, InProcess, describe
from rgcluster.serve.engine import Engine
from rgcluster.serve.http.application import create_app
from rgcluster.serve.settings import ServeSettings, settings_of
from rgcluster.store.client import Store
from rgcluster.store.local import LocalStore


def settings_for(run: Path, **changes: Any) -> ServeSettings:
    return settings_of({"runs": {"noise": str(run)}, "threads": 1, "batch_rows": 8, **changes})


def engine_for(run: Path, settings: ServeSettings, store: Store | None = None) -> Engine:
    return Engine(str(run), store or LocalStore(snapshot_of(Location(run))), settings)


@contextmanager
def endpoint(settings: ServeSettings, backend: Backend) -> Iterator[str]:
    """Serve for the body; yield the address."""
    served = [describe(name, run) for name, run in settings.runs.items()]
    app = create_app(settings, served, backend)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@contextmanager
def endpoint_of(run: Path, **changes: Any) -> Iterator[str]:
    settings = settings_for(run, **changes)
    with endpoint(settings, InProcess({"noise": engine_for(run, settings)})) as address:
        yield address


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def post(
    address: str,
    path: str,
    content: bytes,
    kind: str = "image/png",
    headers: Mapping[str, str] | None = None,
    **query: Any,
) -> requests.Response:
    return requests.post(
        f"{address}/v1/{path}",
        data=content,
        params=query,
        headers={"Content-Type": kind, **(headers or {})},
        timeout=60,
    )
