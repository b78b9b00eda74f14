"""Forked workers: each is what a process of its own would have been, and ends with its stub and its server."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rgcluster.base.cluster.forks import launch
from rgcluster.base.cluster.forks.launch import SERVER, STUB, SWITCH, forked_workers, forked_workers_ahead

REPORT = """
import os, signal, sys, time
def told(*anything):
    print("told", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, told)
print(os.getpid(), os.getppid(), "colorsys" in sys.modules, "wave" in sys.modules, os.getcwd(),
      os.environ.get("OF_MINE"), sys.argv[1:], __name__, flush=True)
"""
"""Says what it is. The server has imported `colorsys` at once and `wave` for the first worker."""

Worker = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def server_of(folder: Path, first: str, then: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose socket, and modules of its own, lie in the folder."""
    place = folder / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", SERVER, str(place), str(os.getpid()), first, then], cwd=folder
    )
    try:
        deadline = time.monotonic() + 60
        while not place.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of two modules that the standard library rarely needs."""
    with server_of(tmp_path, "colorsys", "wave none") as process:
        yield process


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """Starts the program above, and more lines of it, through a stub."""
    started: list[subprocess.Popen[str]] = []

    def start(more: str = "", *arguments: str, **environment: str) -> subprocess.Popen[str]:
        program = tmp_path / f"program{len(started)}.py"
        program.write_text(REPORT + more)
        line = [sys.executable, "-I", "-S", str(STUB), sys.executable, str(tmp_path / "socket"), str(program)]
        process = subprocess.Popen(
            [*line, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=tmp_path, env={**os.environ, **environment},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def report(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split(" ")


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_fork_is_the_program_that_was_asked_for(
    server: subprocess.Popen[bytes], worker: Worker, tmp_path: Path
) -> None:
    process = worker("", "a b", "ü", OF_MINE="1")
    pid, parent, first, then, *rest = report(process)
    assert int(parent) == server.pid and int(pid) != process.pid
    assert (first, then) == ("True", "True")
    assert " ".join(rest) == f"{tmp_path} 1 ['a b', 'ü'] __main__\n"
    assert process.wait(30) == 0
    again = worker()
    assert report(again)[5] == "None", "the environment of another worker"
    assert again.wait(30) == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("sys.exit(7)", 7),
        ("sys.exit('no')", 1),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ],
)
def test_a_stub_ends_as_its_fork_did(
    server: subprocess.Popen[bytes], worker: Worker, end: str, code: int
) -> None:
    process = worker(end)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert ("ZeroDivisionError" in errors) == (end == "1 / 0")


def test_a_signal_to_the_stub_reaches_the_fork(server: subprocess.Popen[bytes], worker: Worker) -> None:
    process = worker("time.sleep(60)")
    report(process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out == "told\n" and process.returncode == 3


@pytest.mark.parametrize("killed", ["stub", "server"])
def test_a_fork_ends_with_what_stands_for_it(
    server: subprocess.Popen[bytes], worker: Worker, killed: str
) -> None:
    process, other = worker("time.sleep(60)"), worker("time.sleep(60)")
    fork, still = int(report(process)[0]), int(report(other)[0])
    (process if killed == "stub" else server).kill()
    assert gone(fork)
    assert process.wait(30) == -signal.SIGKILL
    if killed == "stub":
        assert psutil.pid_exists(still) and report(worker())[2] == "True"
    else:
        assert gone(still)


def test_a_fork_has_a_process_group_of_its_own(server: subprocess.Popen[bytes], worker: Worker) -> None:
    """Ray kills the group of a worker that it ends."""
    process = worker("time.sleep(60)")
    fork = int(report(process)[0])
    os.killpg(os.getpgid(fork), signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL and server.poll() is None


def test_a_worker_of_another_environment_starts_anew(server: subprocess.Popen[bytes], worker: Worker) -> None:
    assert report(worker())[2] == "True"
    for name in ("RAY_JOB_ID", "OMP_NUM_THREADS", "PYTHONPATH"):
        process = worker("sys.exit(5)", **{name: "7"})
        pid, _, first, *_ = report(process)
        assert int(pid) == process.pid and first == "False"
        assert process.wait(30) == 5


def test_without_a_server_workers_start_anew(worker: Worker) -> None:
    process = worker()
    assert int(report(process)[0]) == process.pid and process.wait(30) == 0


def test_a_stub_that_is_gone_when_it_is_answered_ends_no_server(
    server: subprocess.Popen[bytes], worker: Worker, tmp_path: Path
) -> None:
    program = tmp_path / "long.py"
    program.write_text("import time\ntime.sleep(60)\n")
    request = json.dumps([[str(program)], str(tmp_path), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as asks, open(os.devnull, "r+") as null:
        asks.connect(str(tmp_path / "socket"))
        socket.send_fds(asks, [struct.pack("!I", len(request))], [null.fileno()] * 3)
        asks.sendall(request)
    assert report(worker())[2] == "True"
    for child in psutil.Process(server.pid).children():
        assert gone(child.pid)
    assert report(worker())[2] == "True" and server.poll() is None


def test_what_is_no_request_ends_no_server(
    server: subprocess.Popen[bytes], worker: Worker, tmp_path: Path
) -> None:
    for message in (b"", b"\0", b"\0\0\0\2{}", b"\0\0\0\4none"):
        with socket.socket(socket.AF_UNIX) as asks:
            asks.connect(str(tmp_path / "socket"))
            asks.sendall(message)
            asks.shutdown(socket.SHUT_WR)
    assert report(worker())[2] == "True" and server.poll() is None


def test_nothing_is_forked_once_rays_ids_would_be_the_same(worker: Worker, tmp_path: Path) -> None:
    """As a new version of Ray, or of what is imported, might bring about."""
    (tmp_path / "draws.py").write_text("from ray import WorkerID\nWorkerID.from_random()\n")
    with server_of(tmp_path, "", "draws") as process:
        for _ in range(2):
            started = worker()
            assert int(report(started)[0]) == started.pid and started.wait(60) == 0
        assert process.poll() is None


def test_a_server_ends_with_the_process_that_started_it_and_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "own" / "socket"
    path.parent.mkdir()
    code = f"""
import subprocess, sys, os, time
server = subprocess.Popen([sys.executable, "-m", {SERVER!r}, {str(path)!r}, str(os.getpid()), "", ""])
while not os.path.exists({str(path)!r}) and server.poll() is None:
    time.sleep(.02)
print(server.pid, flush=True)
time.sleep(60)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    assert gone(pid)
    assert not path.parent.exists()


def test_the_server_of_a_session_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FIRST", ())
    monkeypatch.delenv(SWITCH, raising=False)
    with forked_workers() as executable:
        assert executable and str(STUB) in executable
        path = executable.split()[-1]
        (server,) = [child for child in psutil.Process().children() if path in child.cmdline()]
    assert gone(server.pid)


def test_a_server_that_was_started_ahead_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FIRST", ())
    monkeypatch.delenv(SWITCH, raising=False)
    before = len(psutil.Process().children())
    with forked_workers_ahead(("wave",)):
        with forked_workers() as executable, forked_workers() as again:
            assert executable == again is not None
        (server,) = [
            child for child in psutil.Process().children() if executable.split()[-1] in child.cmdline()
        ]
        assert server.cmdline()[-1].endswith(" wave") and len(psutil.Process().children()) == before + 1
    assert gone(server.pid)
    with forked_workers() as later:
        assert later != executable


@pytest.mark.parametrize("reason", ["switch", "gpu", "system"])
def test_workers_start_one_by_one_where_forks_would_not_do(
    reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(SWITCH, "0" if reason == "switch" else "1")
    if reason == "system":
        monkeypatch.setattr(launch.sys, "platform", "darwin")
    if reason == "gpu":
        (tmp_path / "nvidia0").touch()
        monkeypatch.setattr(launch, "DEVICES", tmp_path)
    with forked_workers() as executable:
        assert executable is None


def test_rays_actors_are_forks(ray_session: None) -> None:
    import ray

    class Actor:
        def look(self) -> tuple[list[str], str, float, float]:
            import numpy as np

            parent = psutil.Process(os.getppid()).cmdline()
            return parent, ray.WorkerID.from_random().hex(), random.random(), float(np.random.random())

    actors = [ray.remote(num_cpus=0)(Actor).remote() for _ in range(3)]
    parents, *numbers = zip(*ray.get([actor.look.remote() for actor in actors]), strict=True)
    assert all(SERVER in parent for parent in parents)
    assert [len(set(drawn)) for drawn in numbers] == [3, 3, 3], (
        "forks go on with one another's random numbers"
    )
    for actor in actors:
        ray.kill(actor)
