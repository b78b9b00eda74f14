"""Starts the server of forks, for the cluster that a command starts on this machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["SERVING", "SWITCH", "TRAINING", "forked_workers", "forked_workers_ahead"]

SWITCH = "RGCLUSTER_FORKS"
"""Variable of the environment; 0 lets Ray start its workers one by one."""
FIRST = ("torch", "torch._dynamo", "pandas", "pyarrow.parquet", "faiss")
"""What workers import of libraries that do not know Ray."""
THEN = ("ray._private.workers.default_worker",)
"""What they import then, Ray's program, before modules of this package."""
TRAINING = ("rgcluster.pipeline.run",)
"""All that trains and measures. By name: the server alone imports it."""
SERVING = (
    "ray.serve._private.controller",
    "ray.serve._private.replica",
    "rgcluster.serve.deploy.direct",
    "rgcluster.serve.deploy.live",
    "rgcluster.serve.http.application",
)
"""All that serves."""
LONGEST_SOCKET_PATH = 107
SERVER = "rgcluster.base.cluster.forks.server"
STUB = Path(__file__).with_name("stub.py")
DEVICES = Path("/dev")
END_SECONDS = 5.0

_ahead: list[str] = []
"""What `forked_workers_ahead` holds in this process, the inner one last."""


@contextmanager
def forked_workers(modules: Iterable[str] = TRAINING) -> Iterator[str | None]:
    """Hold a server of forks for the body, which `py_executable` of a Ray runtime environment names.

    The forks have imported `modules`, or those of `forked_workers_ahead` within its body. None where workers have to
    start one by one: on systems other than Linux, on a machine with a GPU, where forks are untested, or with
    RGCLUSTER_FORKS=0.
    """
    if _ahead:
        yield _ahead[-1]
        return
    with TemporaryDirectory(prefix="rgforks-", ignore_cleanup_errors=True) as folder:
        path = str(Path(folder) / "socket")
        if not _possible() or len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            yield None
            return
        server = subprocess.Popen(
            [sys.executable, "-m", SERVER, path, str(os.getpid()), " ".join(FIRST), " ".join((*THEN, *modules))],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            yield shlex.join([sys.executable, "-I", "-S", str(STUB), sys.executable, path])
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(END_SECONDS)
            server.kill()


@contextmanager
def forked_workers_ahead(modules: Iterable[str] = TRAINING) -> Iterator[None]:
    """Start the server that `forked_workers` within the body will use: it imports while this process imports."""
    with forked_workers(modules) as executable:
        if executable is None:
            yield
            return
        _ahead.append(executable)
        try:
            yield
        finally:
            _ahead.pop()


def _possible() -> bool:
    return sys.platform == "linux" and os.environ.get(SWITCH) != "0" and not any(DEVICES.glob("nvidia[0-9]*"))
