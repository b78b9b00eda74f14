"""Serving from this machine: start, wait until every model is warm, stop in order."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Read when Serve is imported, here and in the processes that Ray starts from here.
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
# Ray starts its processes at niceness 15: on a busy machine an endpoint would starve beside everything else.
os.environ.setdefault("RAY_worker_niceness", "0")

from ray import serve  # noqa: E402
from ray.serve.config import HTTPOptions  # noqa: E402

from rgcluster.errors import ConfigError, RGClusterError  # noqa: E402
from rgcluster.inference.run import store_name  # noqa: E402
from rgcluster.serve.deployments import APPLICATION, build  # noqa: E402
from rgcluster.serve.settings import ServeSettings  # noqa: E402
from rgcluster.session import ray_session  # noqa: E402
from rgcluster.storage import Location  # noqa: E402
from rgcluster.store.store import list_stores, stop_store  # noqa: E402

__all__ = ["deploy", "serving", "wait_for_signal"]

KEEP_ALIVE_S = 60


def deploy(settings: ServeSettings) -> None:
    """Deploy, or redeploy, on the Serve instance that runs; return when every model is warm."""
    application = build(settings.model_dump(mode="json"))
    try:
        serve.run(application, name=APPLICATION, route_prefix="/", blocking=False)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RGClusterError(f"the endpoint did not start: {lines[-1] if lines else 'see the log'}") from None


@contextmanager
def serving(settings: ServeSettings, host: str, port: int) -> Iterator[str]:
    """Serve for the body; yield the address. Requests under way are finished before it ends.

    ConfigError where the port is taken.
    """
    build(settings.model_dump(mode="json"))  # the user's mistakes before Ray starts
    _require_free(host, port)
    with ray_session():
        before = set(list_stores())
        serve.start(http_options=HTTPOptions(host=host, port=port, keep_alive_timeout_s=KEEP_ALIVE_S))
        try:
            deploy(settings)
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{port}"
        finally:
            serve.shutdown()
            for run in settings.runs.values():
                name = store_name(Location(run))
                if name not in before and name in list_stores():
                    stop_store(name)


def wait_for_signal() -> None:
    """Return on SIGINT or SIGTERM."""
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.wait(1.0):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port}: {error.strerror}; choose another with --port or --host"
            ) from None
