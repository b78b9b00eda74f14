"""A listening socket shared by successive replicas: opened once, passed to each over a Unix socket.

No connection is refused while one replica replaces another: connections that are not accepted yet wait in the
backlog of the socket.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from rgcluster.errors import ConfigError

__all__ = ["BACKLOG", "ListeningSocket", "receive_socket"]

BACKLOG = 2048
"""Length of the accept queue; the kernel may limit it further."""
TIMEOUT_S = 10.0


class ListeningSocket:
    """Listens on host:port until it is closed; ConfigError where the address is not available."""

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
        self._folder = Path(tempfile.mkdtemp(prefix="rgcluster-"))  # accessible to this user only
        self.path = str(self._folder / "listener")
        self._unix_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._unix_socket.bind(self.path)
        self._unix_socket.listen()
        threading.Thread(target=self._pass_on, name="listener", daemon=True).start()

    def close(self) -> None:
        """Stop passing the socket on; the port is free once no replica holds it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # already closed, or not supported by the system
            self._unix_socket.shutdown(socket.SHUT_RDWR)
        for one in (self._unix_socket, self._socket):
            one.close()

    def _pass_on(self) -> None:
        while True:
            try:
                connection, _ = self._unix_socket.accept()
                with connection:
                    socket.send_fds(connection, [b"\0"], [self._socket.fileno()])
            except OSError:
                if self._unix_socket.fileno() < 0:
                    return  # closed


def receive_socket(path: str) -> socket.socket:
    """Return the listening socket that is passed on at `path`; OSError where no process does so."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    return socket.socket(fileno=descriptors[0])
