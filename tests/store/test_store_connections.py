"""Socket connections between a client and the shards on its machine: frames, access, and how they end."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from stores import images_of, sample, write

from rgcluster.errors import DataError
from rgcluster.store.actors.connections import ShardConnections
from rgcluster.store.actors.frames import receive, send
from rgcluster.store.actors.socket_server import SocketServer, address
from rgcluster.store.disk import writer
from rgcluster.store.shard.host import Host
from rgcluster.store.shard.requests import HostCall, ShardRequest
from rgcluster.store.shard.shard import IndexSettings

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets exist on Linux only"),
    pytest.mark.timeout(60),
]

MOST = 1 << 20
SNAPSHOT = "0badf00d"
"""The token of the host's snapshot."""

ARRAYS = st.sampled_from([np.uint8, np.int64, np.float32, np.float64]).flatmap(
    lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | ARRAYS,
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_sent_arrives(value: Any) -> None:
    here, there = socket.socketpair()
    with here, there:
        send(here, value)
        send(here, "next")
        assert same(value, receive(there, MOST))
        assert receive(there, MOST) == "next"


def test_large_arrays_and_views_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    big = np.arange(3_000_000, dtype=np.int64).reshape(1000, 3000)[::2, ::3]
    sender = threading.Thread(target=send, args=(pair[0], (big, np.int64(3))))
    sender.start()
    answer = receive(pair[1], 1 << 30)
    sender.join()
    np.testing.assert_array_equal(answer[0], big)
    assert answer[1] == 3 and answer[0].flags.writeable


@pytest.mark.parametrize("value", [1.5, {"a": 1}, b"x", np.array(["x"]), np.zeros(2, bool), object()])
def test_other_types_are_not_sent(pair: tuple[socket.socket, socket.socket], value: Any) -> None:
    with pytest.raises(TypeError):
        send(pair[0], (1, value))


def frame(text: str, magic: bytes = b"RGS1") -> bytes:
    return struct.pack("<4sI", magic, len(text)) + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frame("[1]", magic=b"RGS2"),
        frame("[1"),
        frame('{"type": "<f4", "shape": [1048577]}'),
        frame('{"type": "<f4", "shape": [-1, -4]}'),
        frame('{"type": "<f4", "shape": [1.5]}'),
        frame('{"type": "<f4", "shape": "ab"}'),
        frame('{"type": "|O8", "shape": [1]}'),
        frame('{"shape": [1]}'),
        frame("[" * 100_000),
        struct.pack("<4sI", b"RGS1", 1 << 31),
        frame('{"type": "<f4", "shape": [2]}') + b"1234",
        b"RG",
    ],
)
def test_invalid_frames_are_rejected(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    pair[0].sendall(data)
    pair[0].close()
    with pytest.raises(ConnectionError):
        receive(pair[1], MOST)


def test_a_missing_response_times_out(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(frame('{"type": "<f4", "shape": [2]}'))
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        receive(pair[1], MOST, start + 0.2)
    assert 0.2 <= time.monotonic() - start < 5


def test_data_that_arrived_in_time_is_read_later(pair: tuple[socket.socket, socket.socket]) -> None:
    send(pair[0], np.arange(5))
    np.testing.assert_array_equal(receive(pair[1], MOST, time.monotonic() - 9), np.arange(5))
    with pytest.raises(TimeoutError):
        receive(pair[1], MOST, time.monotonic() - 9)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    ids, vectors = sample(300)
    with monkeypatch.context() as patched:
        patched.setattr(writer.uuid, "uuid4", lambda: uuid.UUID(SNAPSHOT * 4))
        return Host(str(write(tmp_path / "s", ids, vectors, 1)), 0, 1, IndexSettings(), "store")


def serving(call: Any) -> ShardConnections:
    """Start a server and connect to it."""
    key = secrets.token_hex(8)
    path = address(key, 0, 0)
    assert path is not None
    SocketServer(path, call)
    return connected(key)


def connected(key: str) -> ShardConnections:
    """Connections to one shard, once its server is up."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connections = ShardConnections(key)
        response = connections.request((0, 0), ShardRequest(SNAPSHOT, "held_version"), soon())
        if response is not None:
            response.cancel()
            return connections
        time.sleep(0.01)
    raise AssertionError("no server")


def soon() -> float:
    return time.monotonic() + 20


def call_over(connections: ShardConnections, method: str, *args: Any, snapshot: str = SNAPSHOT) -> Any:
    response = connections.request((0, 0), ShardRequest(snapshot, method, args), soon())
    assert response is not None
    try:
        return response.result(soon())
    finally:
        response.cancel()


def test_a_connection_returns_the_results_of_the_host(host: Host) -> None:
    connections = serving(host.call)
    ids, vectors = sample(300)
    for _ in range(3):
        found = call_over(connections, "search", vectors[:9], 4, ids[:9, None], (0, 1))
        for ours, own in zip(
            found,
            host.call(ShardRequest(SNAPSHOT, "search", (vectors[:9], 4, ids[:9, None], (0, 1)))),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, own)
        np.testing.assert_array_equal(call_over(connections, "fetch", ids[:5]), images_of(ids[:5]))
        np.testing.assert_array_equal(call_over(connections, "ids")[1], np.sort(ids))
    connections.close()


def test_a_closed_server_does_not_respond(host: Host) -> None:
    key = secrets.token_hex(8)
    server = SocketServer(address(key, 0, 0) or "", host.call)
    connections = connected(key)
    assert call_over(connections, "held_version") == 0
    server.close()
    with pytest.raises(ConnectionError):
        call_over(connections, "held_version")


def test_many_threads_send_at_once(host: Host) -> None:
    connections, (ids, vectors) = serving(host.call), sample(300)
    wrong: list[int] = []

    def ask(row: int) -> None:
        for turn in range(40):
            at = (row * 40 + turn) % 300
            if call_over(connections, "search", vectors[at : at + 1], 1, None, None)[1][0, 0] != ids[at]:
                wrong.append(at)

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_typed_errors_arrive_and_the_connection_stays_usable(host: Host) -> None:
    connections = serving(host.call)
    with pytest.raises(DataError, match="the image 1 is not in the store"):
        call_over(connections, "fetch", np.array([1]))
    assert call_over(connections, "held_version") == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_other_error_closes_the_connection() -> None:
    def call(request: ShardRequest) -> Any:
        if request.method == "vectors":
            raise ZeroDivisionError
        return request.snapshot

    connections = serving(call)
    with pytest.raises(ConnectionError):
        call_over(connections, "vectors")
    assert call_over(connections, "held_version") == SNAPSHOT
    time.sleep(0.2)  # until the thread has reported its error


class DisguisedWrite(ShardRequest):
    is_read = True  # type: ignore[assignment]


def test_only_reads_use_a_connection(host: Host) -> None:
    connections = serving(host.call)
    for method in ("write", "catch_up"):
        assert connections.request((0, 0), ShardRequest(SNAPSHOT, method), soon()) is None
    assert HostCall(0, "adopt").request is None
    assert connections.request((0, 0), ShardRequest(SNAPSHOT, "search", (object(), 1)), soon()) is None
    response = connections.request(
        (0, 0), DisguisedWrite(SNAPSHOT, "catch_up"), soon()
    )  # a shard refuses it all the same
    assert response is not None
    with pytest.raises(ConnectionError):
        response.result(soon())
    assert connections.request((7, 0), ShardRequest(SNAPSHOT, "held_version"), soon()) is None


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=sys.stdout)
child.wait()
"""
CHILD = """
import sys, time
from rgcluster.store.actors.socket_server import SocketServer, address
SocketServer(address(sys.argv[1], 0, 0), lambda request: request.snapshot)
print(__import__("os").getpid(), flush=True)
time.sleep(50)
"""


def test_a_process_whose_raylet_died_does_not_respond() -> None:
    key = secrets.token_hex(8)
    line = [sys.executable, "-c", PARENT, CHILD, key]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            connections = connected(key)
            assert call_over(connections, "held_version", snapshot="4") == "4"
            parent.kill()
            parent.wait()
            with pytest.raises(ConnectionError):
                call_over(connections, "held_version", snapshot="4")
        finally:
            os.kill(child, 9)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_another_user_is_rejected(host: Host) -> None:
    connections = serving(host.call)
    assert call_over(connections, "held_version") == 0
    path = address(connections._key, 0, 0)
    assert path is not None
    script = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1].replace('@', chr(0))); s.settimeout(10);"
        "text = b'[0, \"held_version\", []]'; s.sendall(b'RGS1' + len(text).to_bytes(4, 'little') + text);"
        "print(len(s.recv(100)))"
    )
    line = [sys.executable, "-c", script, path.replace("\0", "@")]
    result = subprocess.run(line, capture_output=True, text=True, timeout=30)
    # No response: the connection was closed before or after the request.
    assert (
        result.stdout.strip() == "0"
        or "ConnectionResetError" in result.stderr
        or "BrokenPipe" in result.stderr
    )


def test_a_client_does_not_trust_another_users_socket(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    connections = serving(host.call)
    connections.close()
    monkeypatch.setattr("rgcluster.store.actors.connections.same_user", lambda connection: False)
    assert (
        ShardConnections(connections._key).request((0, 0), ShardRequest(SNAPSHOT, "held_version"), soon())
        is None
    )


def test_refused_connections_are_not_retried_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    connections, attempts = ShardConnections("no-server"), list[Any]()
    monkeypatch.setattr("rgcluster.store.actors.connections._connect", attempts.append)
    for _ in range(3):
        assert connections.request((0, 0), ShardRequest(SNAPSHOT, "held_version"), soon()) is None
    assert len(attempts) == 1
