"""Forks workers: `python -m rgcluster.base.cluster.forks.server SOCKET PARENT FIRST THEN`.

One thread, which imports Ray and torch but never uses them. The modules `FIRST` are imported at once, while Ray
starts. Ray reads variables of the environment when it is imported, some of which only its workers have, so the first
worker's environment is taken over before the modules `THEN` are imported; a later worker whose environment differs in
what is read then gets no fork.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from rgcluster.base.cluster.internals import ids_from_the_system, run_exit_handlers

__all__ = ["serve"]

PR_SET_PDEATHSIG = 1
READ_WHEN_IMPORTED = ("GOMP_", "KMP_", "LD_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "RAY_", "TORCH")
"""Beginnings of the names of variables that libraries read while they are imported."""
REQUEST_SECONDS = 10.0
"""Longest wait for the rest of a request."""

Request = tuple[list[str], str, dict[str, str]]
"""Arguments (the first is the program's file), working directory, environment."""


class _Server:
    """The socket, and the stub of each fork."""

    def __init__(self, path: str, then: Iterable[str]) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._then = then
        self._adopted: dict[str, str] | None = None
        self._distinct = True
        self._stubs: dict[int, socket.socket] = {}
        self._waiting = selectors.DefaultSelector()
        self._ended, wakes = socket.socketpair()
        self._wakes = wakes
        wakes.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        for readable in (self._listener, self._ended):
            self._waiting.register(readable, selectors.EVENT_READ)

    def run(self) -> NoReturn:
        """Fork for every stub that asks, tell it how its fork ended, and kill the fork of a stub that was killed."""
        while True:
            for key, _ in self._waiting.select():
                if key.fileobj is self._listener:
                    with suppress(OSError, ValueError, struct.error):
                        self._answer(self._listener.accept()[0])
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._reap()
                elif key.data in self._stubs:
                    self._waiting.unregister(key.fileobj)
                    with suppress(ProcessLookupError):
                        os.kill(key.data, signal.SIGKILL)

    def _answer(self, stub: socket.socket) -> None:
        """Fork, and tell the stub the number of the process; 0 where it has to start its worker itself."""
        stub.settimeout(REQUEST_SECONDS)
        pid, files = 0, list[int]()
        try:
            head, files, _, _ = socket.recv_fds(stub, 4, 3)
            arguments, directory, environment = json.loads(
                stub.recv(struct.unpack("!I", head)[0], socket.MSG_WAITALL)
            )
            if self._would_do(environment):
                pid = self._fork((arguments, directory, environment), files, stub)
                self._stubs[pid] = stub  # before it is told: it may be gone, which ends the fork
                self._waiting.register(stub, selectors.EVENT_READ, pid)
        finally:
            for file in files:
                os.close(file)
            stub.sendall(struct.pack("!i", pid))

    def _would_do(self, environment: Mapping[str, str]) -> bool:
        """Return whether a fork has imported its modules as a worker with this environment would."""
        read = {name: value for name, value in environment.items() if name.startswith(READ_WHEN_IMPORTED)}
        if self._adopted is None:
            self._adopted = read
            _take(environment)
            _import(self._then)
            gc.freeze()  # its pages stay shared
            self._distinct = _are_distinct()
        return read == self._adopted and self._distinct

    def _fork(self, request: Request, files: list[int], stub: socket.socket) -> int:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._waiting.close()
            for other in (self._listener, self._ended, self._wakes, stub, *self._stubs.values()):
                other.close()
            _become(request, files, server)
        return pid

    def _reap(self) -> None:
        while self._stubs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            stub = self._stubs.pop(pid)
            with suppress(KeyError):  # the stub was killed before
                self._waiting.unregister(stub)
            with suppress(OSError):
                stub.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
            stub.close()


def serve(path: str, parent: int, first: Iterable[str], then: Iterable[str]) -> None:
    """Fork workers for whoever asks at the socket `path` until the process `parent` ends.

    No fork outlives this process. The socket and its folder go with it: a starter that is killed removes nothing.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    _end_with(parent, signal.SIGTERM)
    # Ray's workers compute with one thread unless they are told otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        server = _Server(path, tuple(then))
        _import(first)
        server.run()
    finally:
        with suppress(OSError):
            os.unlink(path)
            os.rmdir(os.path.dirname(path))


def _import(names: Iterable[str]) -> None:
    for name in names:
        with suppress(ImportError), ids_from_the_system():  # the worker that needs it says so
            import_module(name)


def _are_distinct() -> bool:
    """Return whether forks give different ids to what they make: not if Ray's generator was used before, in here."""
    if "ray" not in sys.modules:
        return True
    ids = set()
    for _ in range(2):
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            from ray import WorkerID

            os.write(writable, WorkerID.from_random().binary())
            os._exit(0)
        os.waitpid(pid, 0)
        ids.add(os.read(readable, 64))
        os.close(readable)
        os.close(writable)
    return len(ids) == 2


def _take(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _end_with(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def _become(request: Request, files: list[int], server: int) -> NoReturn:
    """Run the program of a request as if this process had been started for it."""
    arguments, directory, environment = request
    code = 1
    try:
        os.setsid()  # Ray kills a worker's process group
        _end_with(server, signal.SIGKILL)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(directory)
        _take(environment)
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            run_exit_handlers()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    socket_path, parent_pid, *lists = sys.argv[1:]
    serve(socket_path, int(parent_pid), *(names.split() for names in lists))
