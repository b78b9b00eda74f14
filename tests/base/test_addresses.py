"""Addresses: the form is checked at once, and whether anybody answers within seconds; the right one is shown."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest
import ray
from conftest import command
from inside import run_inside
from ray.core.generated.gcs_service_pb2 import CheckAliveReply, CheckAliveRequest
from ray.core.generated.gcs_service_pb2_grpc import (
    NodeInfoGcsServiceServicer,
    add_NodeInfoGcsServiceServicer_to_server,
)

from rgcluster import Client
from rgcluster.base import session
from rgcluster.base.cluster import address as module
from rgcluster.base.cluster.address import check_driver_address, dashboard_address, require_endpoint
from rgcluster.base.cluster.internals import cluster_version
from rgcluster.errors import ClusterUnavailable, ConfigError

HTTP2_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@contextmanager
def listening(response: bytes) -> Iterator[str]:
    """A server that says `response` to everybody who says something."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(response)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head:8265", "of a dashboard, .*`rgcluster submit --address http://head:8265`.*RAY_ADDRESS=head:6379"),
        ("https://head", "of a dashboard.*set RAY_ADDRESS=head:6379"),
        ("ray://head:10001", "Ray Client is not supported.*RAY_ADDRESS=head:6379.*--address http://head:8265"),
        ("head", "RAY_ADDRESS=head: no port; set RAY_ADDRESS=head:6379"),
        ("10.0.0.1", "no port; set RAY_ADDRESS=10.0.0.1:6379"),
        ("[::1]", r"no port; set RAY_ADDRESS=\[::1\]:6379"),
        ("tcp://head:6379", "unknown kind of address; set RAY_ADDRESS=head:6379"),
        ("head:port", "not an address; write HOST:6379"),
        ("head:99999", "not an address"),
        ("the head:6379", "not an address"),
        ("", "not an address"),
        (":6379", "not an address"),
        ("head:6379/path", "not an address"),
    ],
)  # fmt: skip
def test_a_driver_is_told_the_right_form(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_what_answers", lambda host, port: pytest.fail("asked the network"))
    with pytest.raises(ConfigError, match=message) as told:
        check_driver_address("RAY_ADDRESS", address)
    assert len(str(told.value).splitlines()) == 1


def test_what_answers_is_told_apart(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("auto", "local"):
        check_driver_address("RAY_ADDRESS", name)
    with listening(HTTP2_SETTINGS) as cluster:
        check_driver_address("RAY_ADDRESS", cluster)
        assert dashboard_address("--address", cluster) == cluster
    with pytest.raises(
        ConfigError, match="a web server, perhaps the dashboard, answers there; set RAY_ADDRESS=127"
    ):
        check_driver_address("RAY_ADDRESS", web)
    assert dashboard_address("--address", web) == f"http://{web}"
    with listening(b"SSH-2.0-OpenSSH\r\n") as other:
        with pytest.raises(ConfigError, match="something other than a Ray cluster answers there"):
            check_driver_address("RAY_ADDRESS", other)
        with pytest.raises(
            ConfigError, match="no Ray cluster answers there; the dashboard is http://127.0.0.1:8265"
        ):
            dashboard_address("--address", other)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    start = time.monotonic()
    for wrong in ("127.0.0.1:9", "no.such.host.invalid:6379", "192.0.2.1:6379"):
        with pytest.raises(
            ConfigError, match="nothing answers at this address within 1 s; `ray start --head`"
        ):
            check_driver_address("RAY_ADDRESS", wrong)
    assert time.monotonic() - start < 10


def test_a_silent_server_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(ConfigError, match="something other"):
            check_driver_address("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")


def test_a_real_cluster_is_one(ray_session: None) -> None:
    check_driver_address("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    assert cluster_version(ray.get_runtime_context().gcs_address, 5.0) == ray.__version__


class Head(NodeInfoGcsServiceServicer):
    """A cluster that another version of Ray runs, or that wants a token."""

    def __init__(self, version: str) -> None:
        self.version = version

    def CheckAlive(self, request: CheckAliveRequest, context: grpc.ServicerContext) -> CheckAliveReply:  # noqa: N802
        if not self.version:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return CheckAliveReply(ray_version=self.version)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("", "wants another token: set RAY_AUTH_MODE and RAY_AUTH_TOKEN as on the cluster"),
        ("2.1.0", f"has Ray 2.1.0, this machine {ray.__version__}; install the same version"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_not_tried_for_long(
    version: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("tried to join"))
    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(Head(version), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with pytest.raises(ConfigError, match=message):
            session._connect(address)
    finally:
        server.stop(None)


def test_a_server_that_only_speaks_like_a_cluster_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("tried to join"))
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with pytest.raises(ConfigError, match=f"no Ray cluster at {address}: `ray start --head` starts one"):
            session._connect(address)
    finally:
        server.stop(None)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "jobs are submitted to the cluster's dashboard, here perhaps http://head:8265"),
        ("head", "no port; write http://head:8265"),
        ("http://", "not an address; write http://HOST:8265"),
        ("http://head:port", "not an address"),
    ],
)
def test_a_submission_is_told_the_right_form(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dashboard_address("--address", address)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "not the address of an endpoint; write http://127.0.0.1:8000"),
        ("faces.example.org", "write http://faces.example.org"),
        ("ftp://host:8000", "write http://host:8000"),
        ("http://", "write http://HOST:8000"),
        ("http://host:port", "write http://HOST:8000"),
        ("", "write http://HOST:8000"),
    ],
)
def test_an_endpoint_needs_a_url(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Client(url)


def test_an_endpoint_that_no_server_serves_is_told_soon(monkeypatch: pytest.MonkeyPatch, web: str) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    with pytest.raises(
        ConfigError, match="nothing answers at this address within 1 s; `rgcluster serve --run DIR`"
    ):
        require_endpoint("http://127.0.0.1:9")
    require_endpoint(f"http://{web}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["translate", "x.jpg", "--url", "127.0.0.1:8000", "--to", "Male", "--out", "o.png"], "http://127.0.0.1:8000"),
        (["translate", "x.jpg", "--url", "http://127.0.0.1:9", "--to", "Male", "--out", "o.png"], "nothing answers"),
        (["submit", "pipeline", "--address", "http://127.0.0.1:9", "--", "--run", "/r"], "no Ray dashboard answers"),
        (["submit", "pipeline", "--run", "/r", "--address", "http://127.0.0.1:9"], "no Ray dashboard answers"),
        (["submit", "pipeline", "--runn", "/r"], "pipeline: no such option: --runn"),
        (["submit", "pipeline", "--address", "ray://head:10001", "--", "--run", "/r"], "perhaps http://head:8265"),
    ],
)  # fmt: skip
def test_commands_end_with_one_line_and_status_two(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "pipeline.py").write_text("")
    before = sorted(tmp_path.rglob("*"))
    status, errors = run_inside(*arguments)
    assert status == 2 and words in errors and errors.count("\n") == 1, errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_at_a_dead_cluster_ends_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    result = command("demo", "--preset", "smoke", "--run", str(tmp_path / "run"), timeout=300)
    assert result.returncode == 2, result.stderr
    assert "RAY_ADDRESS=127.0.0.1:9: nothing answers at this address within 5 s" in result.stderr
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"], ["demo", "--dry-run"], ["train", "all", "--data", "s", "--run", "r"], ["evaluate", "--run", "r"],
        ["table", "2", "--run", "r"], ["sweep", "--run", "r"], ["store", "build", "--data", "s", "--run", "r"],
        ["store", "list"], ["data", "shard", "f", "s"], ["data", "check", "f"], ["serve", "--run", "r"],
    ],
    ids=lambda words: " ".join(words[:2]),
)  # fmt: skip
@pytest.mark.parametrize("address", ["127.0.0.1:9", "silent", "http://127.0.0.1:9", "head"])
def test_every_command_that_needs_a_cluster_refuses_a_dead_one_within_ten_seconds(
    arguments: list[str], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests did before
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray began to wait for it"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        named = f"127.0.0.1:{silent.getsockname()[1]}" if address == "silent" else address
        monkeypatch.setenv("RAY_ADDRESS", named)
        start = time.monotonic()
        status, errors = run_inside(*arguments)
        assert time.monotonic() - start < 10
    assert (status, errors.count("\n")) == (2, 1), errors
    assert errors.startswith(f"rgcluster: RAY_ADDRESS={named}: ") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["127.0.0.1:9", None])
def test_a_cluster_that_was_killed_is_not_waited_for(
    left: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: pytest.fail("Ray began to wait for it"))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # those of other tests
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if left:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(left)
    status, errors = run_inside("store", "list")
    assert status == 2 and errors.count("\n") == 1
    assert errors.startswith("rgcluster: no Ray cluster a") and "`ray start --head` starts one" in errors
    assert not left or ":9 any more, where the last one was started" in errors, errors


def test_a_busy_machine_on_which_ray_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(**options: object) -> None:
        raise Exception("The current node timed out during startup. The GCS may be overloaded.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    ended: list[str] = []
    monkeypatch.setattr(
        session, "_shut_down", lambda: ended.append("what had started")
    )  # not this suite's Ray
    with (
        pytest.raises(ClusterUnavailable, match="keep the machine busy; run the same command again"),
        session.ray_session(),
    ):
        pytest.fail("no cluster was started")
    assert ended
