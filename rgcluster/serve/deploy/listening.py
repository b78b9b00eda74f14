"""One listening socket for replicas that come and go: opened once, handed to each over a Unix socket.

No connection is refused or lost while one replica follows another: what none has accepted yet waits in the
socket's queue for the next.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from rgcluster.errors import ConfigError

__all__ = ["BACKLOG", "Listener", "taken_over"]

BACKLOG = 2048
"""Connections that wait to be accepted; the kernel's own limit may be lower."""
PATIENCE_S = 10.0


class Listener:
    """Listens on host:port until it is closed; ConfigError where that cannot be had."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"{host}:{port}: {error.strerror}; choose another with --port or --host"
            ) from None
        self.port = int(self._socket.getsockname()[1])
        self._folder = Path(tempfile.mkdtemp(prefix="rgcluster-"))  # nobody else may enter it
        self.path = str(self._folder / "listener")
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(self.path)
        self._door.listen()
        threading.Thread(target=self._hand_out, name="listener", daemon=True).start()

    def close(self) -> None:
        """Hand out no more; the port is free when no replica listens either."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # closed before, or a system where this wakes nobody
            self._door.shutdown(socket.SHUT_RDWR)
        for one in (self._door, self._socket):
            one.close()

    def _hand_out(self) -> None:
        while True:
            try:
                visitor, _ = self._door.accept()
                with visitor:
                    socket.send_fds(visitor, [b"\0"], [self._socket.fileno()])
            except OSError:
                if self._door.fileno() < 0:
                    return  # closed


def taken_over(path: str) -> socket.socket:
    """Return the listening socket that is handed out at `path`; OSError where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(PATIENCE_S)
        door.connect(path)
        _, numbers, _, _ = socket.recv_fds(door, 1, 1)
    return socket.socket(fileno=numbers[0])
