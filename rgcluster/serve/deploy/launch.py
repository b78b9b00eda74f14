"""Starting and stopping the endpoint on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# Read when Serve is imported, here and in the processes that Ray starts from here.
os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
# Ray starts its processes at niceness 15: on a busy machine an endpoint would starve beside everything else.
os.environ.setdefault("RAY_worker_niceness", "0")

from ray import serve  # noqa: E402
from ray.serve import Application  # noqa: E402
from ray.serve.config import HTTPOptions, ProxyLocation  # noqa: E402

from rgcluster.base.cluster.forks.launch import SERVING  # noqa: E402
from rgcluster.base.cluster.internals import shut_serve_down  # noqa: E402
from rgcluster.base.rundir import store_name  # noqa: E402
from rgcluster.base.session import cluster_nodes, ray_session  # noqa: E402
from rgcluster.base.storage import Location  # noqa: E402
from rgcluster.errors import RGClusterError  # noqa: E402
from rgcluster.serve.backend import describe  # noqa: E402
from rgcluster.serve.deploy.direct import build_direct  # noqa: E402
from rgcluster.serve.deploy.listening import ListeningSocket  # noqa: E402
from rgcluster.serve.deploy.plan import QUIET_THREADS, serves_directly  # noqa: E402
from rgcluster.serve.deploy.server import KEEP_ALIVE_S  # noqa: E402
from rgcluster.serve.settings import HOST_PATTERN, ServeSettings  # noqa: E402
from rgcluster.store.store import list_stores, stop_store  # noqa: E402

__all__ = ["DeployedEndpoint", "serving", "wait_for_signal"]

APPLICATION = "rgcluster"


@dataclass(frozen=True)
class DeployedEndpoint:
    """A running endpoint. `listener` is set where a replica serves HTTP itself, None behind Serve's proxy."""

    address: str
    listener: ListeningSocket | None
    host: str = "127.0.0.1"

    def deploy(self, settings: ServeSettings) -> None:
        """Deploy, or redeploy under load; return when every model is warmed up.

        The host that the endpoint listens on is allowed in the Host header.
        """
        if HOST_PATTERN.fullmatch(self.host):
            hosts = (*settings.allowed_hosts, self.host.lower())
            settings = settings.model_copy(update={"allowed_hosts": hosts})
        if self.listener:
            _run(build_direct(settings, self.listener.path), None)
        else:
            # Imports torch, which an endpoint on one machine is spared.
            from rgcluster.serve.deploy.deployments import build_proxied

            _run(build_proxied(settings), "/")


def _run(application: Application, route: str | None) -> None:
    try:
        serve.run(application, name=APPLICATION, route_prefix=route, blocking=False)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise RGClusterError(f"the endpoint did not start: {lines[-1] if lines else 'see the log'}") from None


@contextmanager
def serving(settings: ServeSettings, host: str, port: int) -> Iterator[DeployedEndpoint]:
    """Serve for the duration of the block. Requests in progress are finished before it ends.

    ConfigError where the port is taken.
    """
    for name, run in settings.runs.items():  # reports invalid runs before Ray starts
        describe(name, run)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this process; replicas have their own
    listener = ListeningSocket(host, port)
    shown = f"[{host}]" if ":" in host else host
    try:
        with ray_session(exporter=True, variables=QUIET_THREADS["env_vars"], modules=SERVING):
            before = set(list_stores())
            direct = serves_directly(settings, cluster_nodes())
            if direct:
                serve.start(proxy_location=ProxyLocation.Disabled)
            else:
                listener.close()
                serve.start(http_options=HTTPOptions(host=host, port=port, keep_alive_timeout_s=KEEP_ALIVE_S))
            try:
                endpoint = DeployedEndpoint(f"http://{shown}:{port}", listener if direct else None, host)
                endpoint.deploy(settings)
                yield endpoint
            finally:
                listener.close()
                shut_serve_down()
                for run in settings.runs.values():
                    name = store_name(Location(run))
                    if name not in before and name in list_stores():
                        stop_store(name)
    finally:
        listener.close()


def wait_for_signal() -> None:
    """Wait for SIGINT or SIGTERM."""
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
