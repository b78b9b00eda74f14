"""`rgcluster bench serve --peers`: servers started, compared in turns, suspended and ended; LitServe's hooks."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from inside import run_inside
from peers_alone import peers_alone
from serving import encoded
from starlette.datastructures import FormData, Headers
from untrained import noise_images, untrained_run

from rgcluster.bench import serve
from rgcluster.bench.clients import Load
from rgcluster.bench.peers import serving
from rgcluster.bench.peers.litserve import LitServe, TranslatorAPI
from rgcluster.bench.peers.server import ServerPeer
from rgcluster.bench.peers.serving import bench_servers
from rgcluster.errors import RGClusterError
from rgcluster.serve.settings import settings_of

SETTINGS = settings_of({"runs": {"noise": "/nowhere"}, "threads": 1, "batch_rows": 8})


LISTENING = ["--bind", "127.0.0.1", "--protocol", "HTTP/1.1"]


class Python(ServerPeer):
    """The server of the standard library, which answers GET / once it listens."""

    library, name, module, ready = "http", "Python", "http.server", "/"

    def request(self, image: bytes, target: str, kind: Any, seed: int) -> bytes:
        return f"GET /?{seed} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class Counted(ServerPeer):
    """No process; says what is asked of it."""

    library, name = "numpy", "counted"
    said: list[str] = []

    def __init__(self, arguments: Any, port: int) -> None:
        self.said.append("start")

    def request(self, image: bytes, target: str, kind: Any, seed: int) -> bytes:
        raise NotImplementedError

    def load(self, image: bytes, target: str, kind: Any, clients: int, each: int) -> Load:
        self.said.append(f"theirs {clients}")
        return Load([0.2] * clients * each, elapsed=1.0)

    @contextmanager
    def resting(self) -> Iterator[None]:
        self.said.append("rest")
        yield
        self.said.append("go on")

    def stop(self) -> None:
        self.said.append("stop")


class Missing(Counted):
    library, name = "no_such_library", "missing"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that answers in .1 s, one in its first load failed."""

    def load(self: Any, kind: Any, clients: int, each: int) -> Load:
        Counted.said.append(f"ours {clients}")
        return Load([0.1] * clients * each, failed=1, elapsed=0.5)

    @contextmanager
    def served(settings: Any, host: str, port: int) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(address="http://nowhere")

    monkeypatch.setattr(serve.Endpoint, "load", load)
    monkeypatch.setattr(serving, "_question", lambda run: (b"image", "1,0"))
    monkeypatch.setattr(serving, "serving", served)
    monkeypatch.setattr(serving, "TURNS", 2)
    Counted.said.clear()


def test_the_endpoint_takes_turns_with_a_server(quick: None) -> None:
    said: list[str] = []
    rows = bench_servers(SETTINGS, 1, 5, said.append, (Missing, Counted))
    assert "missing: skipped, not installed: `pip install 'rgcluster[peers]'`" in said
    one, many = (["rest", f"ours {n}", "go on", f"theirs {n}"] * 2 for n in (1, 16))
    assert Counted.said == ["start", *(one + many) * 2, "stop"]
    found = {(row.case, row.metric): row for row in rows}
    for kind in ("without retrieval", "with retrieval"):
        for clients in (1, 16):
            case = f"{kind}, {clients} clients"
            latency = found[case, "p50"]
            assert (latency.value, latency.baseline_value) == pytest.approx((100, 200))
            assert latency.ratio == pytest.approx(0.5) and latency.baseline == "counted"
            assert found[case, "throughput"].value == pytest.approx(10 * clients)
            assert found[case, "throughput"].baseline_value == pytest.approx(5 * clients)
            assert (found[case, "failed"].value, found[case, "failed"].baseline_value) == (2, 0)


def test_a_server_is_stopped_when_the_comparison_fails(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Load:
        raise ConnectionError

    monkeypatch.setattr(Counted, "load", broken)
    with pytest.raises(ConnectionError):
        bench_servers(SETTINGS, 1, 5, lambda line: None, (Counted,))
    assert Counted.said[-1] == "stop"


def test_without_any_peer_nothing_is_served(quick: None) -> None:
    assert bench_servers(SETTINGS, 1, 5, lambda line: None, (Missing,)) == []
    assert Counted.said == []


def test_a_server_starts_answers_and_ends() -> None:
    peer = Python(LISTENING, serving._free_port())
    try:
        load = peer.load(b"", "", "off", 2, 3)
        assert len(load.seconds) == 6 and load.failed == 0
        process = psutil.Process(peer._process.pid)
    finally:
        peer.stop()
    assert not process.is_running()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(peer.address.rsplit(":", 1)[1])), timeout=1)


def test_a_server_that_ends_early_is_named_with_its_last_line() -> None:
    expected = (
        r"Python ended before it was ready: .*unrecognized arguments: --nothing; `.* --nothing 80` shows why"
    )
    with pytest.raises(RGClusterError, match=expected):
        Python(["--nothing"], 80)


def test_a_server_that_is_late_is_named_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Python, "ready", "/no-such-file")
    port = serving._free_port()
    with pytest.raises(RGClusterError, match="Python was not ready in time: "):
        Python(LISTENING, port, wait=1.0)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


PARENT = """
import subprocess, sys, time
command = "import time; from rgcluster.bench.peers.server import end_with_parent as end; end(); "
command += "import subprocess; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE, start_new_session=True).wait()
"""


def test_no_process_of_a_server_is_left_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    first = child.parent()
    assert first is not None
    parent.kill()
    parent.wait()
    _until(lambda: not any(_lives(one) for one in (first, child)))


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_what_works_for_a_server_rests() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); input()']).wait()"
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout and first.stdout.readline()
    worker = psutil.Process(first.pid).children()[0]
    peer = Python.__new__(Python)
    peer._process = first
    with peer.resting():
        _until(lambda: worker.status() == psutil.STATUS_STOPPED)
        assert psutil.Process(first.pid).status() != psutil.STATUS_STOPPED
    _until(lambda: worker.status() != psutil.STATUS_STOPPED)
    first.communicate(b"\n", timeout=10)


def test_hooks_give_the_picture_of_the_translator(tmp_path: Path) -> None:
    pytest.importorskip("litserve")
    untrained_run(tmp_path)
    api = TranslatorAPI(SETTINGS.model_copy(update={"runs": {"noise": str(tmp_path)}}))
    assert api.max_batch_size == SETTINGS.batch_rows
    api.setup("cpu")
    size, n = api._config.data.image_size, api._config.num_attributes
    pixels = noise_images(1, size)[0]
    form = _parsed(LitServe.__new__(LitServe), encoded(pixels), serve.full_target(n), "on", 7)
    job = api.decode_request(form)  # type: ignore[arg-type]
    assert np.array_equal(job.pixels, pixels) and job.guidance == "on" and job.seed == 7
    outcome = api.predict([job])[0]
    answer = api.encode_response(outcome)
    assert answer.media_type == "image/png" and bytes(answer.body).startswith(b"\x89PNG")
    assert np.array_equal(api.predict(job).images, outcome.images)
    with pytest.raises(RGClusterError):
        api.encode_response(RGClusterError("the store is gone"))


def _parsed(peer: LitServe, image: bytes, target: str, kind: Any, seed: int) -> FormData:
    """Return the form of a peer's request as LitServe parses it."""
    import asyncio

    from starlette.formparsers import MultiPartParser

    peer.address = "http://127.0.0.1:1"
    head, _, body = peer.request(image, target, kind, seed).partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(fields["Content-Length"]) == len(body)

    async def stream() -> Any:
        yield body

    return asyncio.run(MultiPartParser(Headers(fields), stream()).parse())


def test_the_command_compares_servers_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = peers_alone(monkeypatch, (serving, "bench_servers"), (serve, "bench_serve"))
    monkeypatch.chdir(tmp_path)
    assert run_inside("bench", "serve", "--run", "x", "--peers", "--requests", "9") == (0, "")
    assert [(port, requests) for _, port, requests, _ in given] == [(8765, 9)]
