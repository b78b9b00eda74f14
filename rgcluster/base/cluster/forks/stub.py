"""Stands where Ray starts a worker: asks the server for a fork, lives as long as that, and ends as it ends.

Run as a file, by `python -I -S stub.py PYTHON SOCKET ARGUMENTS...`: it imports nothing of the package, so that it is
there at once. Where no fork is to be had it becomes `PYTHON ARGUMENTS...`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys


def main() -> None:
    """Be the worker that `sys.argv` asks for."""
    python, path, *arguments = sys.argv[1:]
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(path)
    except OSError:
        os.execv(python, [python, *arguments])
    request = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    try:
        socket.send_fds(server, [struct.pack("!I", len(request))], [0, 1, 2])
        server.sendall(request)
        pid = receive(server)
    except OSError:  # the server ended, and the cluster is about to
        sys.exit(1)
    if not pid:
        os.execv(python, [python, *arguments])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: os.kill(pid, received))
    try:
        code = receive(server)
    except OSError:  # the server ended, and its forks with it
        code = -signal.SIGKILL
    if code < 0:
        if -code in (signal.SIGTERM, signal.SIGINT):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def receive(server: socket.socket) -> int:
    """Return a number that the server sends; ConnectionError where it ended."""
    data = server.recv(4, socket.MSG_WAITALL)
    if len(data) < 4:
        raise ConnectionError
    return int(struct.unpack("!i", data)[0])


if __name__ == "__main__":
    main()
