"""A library that serves a translator over HTTP, as the comparison uses it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

import psutil
import requests

from rgcluster.bench.clients import Load, run_clients
from rgcluster.bench.peers.peer import Peer
from rgcluster.errors import RGClusterError

if TYPE_CHECKING:  # the translators take seconds to import
    from rgcluster.translate.variants import Guidance

__all__ = ["ServerPeer", "end_with_parent"]

START_SECONDS = 300.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.2


class ServerPeer(Peer):
    """A server on 127.0.0.1, in processes of its own, around the translator of one run."""

    module: ClassVar[str]
    """What `python -m` runs."""
    ready: ClassVar[str]
    """Path that answers 200 once the translator is warmed up."""

    def __init__(self, arguments: Sequence[str], port: int, wait: float = START_SECONDS) -> None:
        """Start the module with the arguments and wait until it is ready; RGClusterError where it is not in time."""
        self.address = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", self.module, *arguments, str(port)]
        self._log = tempfile.TemporaryFile()
        # A session of its own makes one group of the server's processes.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True
        )
        try:
            self._wait(time.monotonic() + wait)
        except BaseException:
            self.stop()
            raise

    @abstractmethod
    def request(self, image: bytes, target: str, kind: Guidance, seed: int) -> bytes:
        """Return the HTTP request for a translation of a PNG file."""

    def load(self, image: bytes, target: str, kind: Guidance, clients: int, each: int) -> Load:
        """Run clients that request translations."""
        return run_clients(self.address, lambda seed: self.request(image, target, kind, seed), clients, each)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Suspend the server's workers: one that polls an empty queue would take a core from whatever else runs.

        The server's first process goes on, and still ends the others if this process is killed.
        """
        processes = psutil.Process(self._process.pid).children(recursive=True)
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def stop(self) -> None:
        """End the server's processes."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):  # none is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()  # waits, and closes the pipe
        self._log.close()

    def _wait(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RGClusterError(
                    f"{self.name} ended before it was ready: {self._last_line()}; {self._remedy}"
                )
            with suppress(requests.RequestException):
                if requests.get(f"{self.address}{self.ready}", timeout=5).status_code == 200:
                    return
            time.sleep(POLL_SECONDS)
        raise RGClusterError(f"{self.name} was not ready in time: {self._last_line()}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"`{shlex.join(self._command)}` shows why"

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def end_with_parent() -> None:
    """In the server's first process: end all of its processes once the process that started it is gone."""

    def watch() -> None:
        os.read(0, 1)  # returns when the other end of the pipe is closed, by whatever ends the parent
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
