"""The endpoint on Ray Serve: what is killed under load, redeployed, measured, stopped."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from conftest import command
from nodes import free_port
from places import PROJECT
from processes import lines_of_ray
from serving import encoded, post, settings_for
from untrained import noise_images

from rgcluster.base.rundir import store_name
from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, ConfigError, DataError
from rgcluster.serve.deploy.deployments import build
from rgcluster.serve.deploy.launch import serving
from rgcluster.serve.settings import ServeSettings, named_runs, settings_of
from rgcluster.store.store import RayStore

ENDPOINT = "ServeReplica:rgcluster:endpoint"
IMAGE = encoded(noise_images(1, 48, seed=3)[0])


def below(word: str) -> list[psutil.Process]:
    """This test's own processes whose title holds the word."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def load(address: str, clients: int = 4) -> Iterator[list[int]]:
    """Ask without pause while the body runs; the list gets every answer's status."""
    statuses: list[int] = []
    stop = threading.Event()

    def client(number: int) -> None:
        kinds = ("on", "off", "random")
        while not stop.is_set():
            try:
                answer = post(
                    address, "translate", IMAGE, target="Male", guidance=kinds[number % 3], seed=number
                )
                statuses.append(answer.status_code)
            except requests.RequestException:
                statuses.append(0)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def more(statuses: list[int], count: int, seconds: float = 60) -> None:
    """Wait for that many more answers."""
    wanted, deadline = len(statuses) + count, time.monotonic() + seconds
    while len(statuses) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(statuses) >= wanted, "no more answers"


@pytest.mark.long
def test_killed_redeployed_and_stopped_under_load(ray_session: None, noise_run: Path) -> None:
    settings = settings_for(noise_run, min_replicas=2, max_replicas=2, cpus=0.1)
    with serving(settings, "127.0.0.1", free_port()) as endpoint:
        address = endpoint.address
        alone = post(address, "translate", IMAGE, target="Male", seed=1).json()
        with load(address) as statuses:
            more(statuses, 10)

            translators = below("translator-noise")
            assert len(translators) == 2
            translators[0].kill()
            more(statuses, 40)

            with RayStore.connect(store_name(Location(noise_run))) as store:
                os.kill(store.info()[0]["pid"], signal.SIGKILL)
            more(statuses, 40)

            changed = settings.model_copy(
                update={"limits": settings.limits.model_copy(update={"samples": 3})}
            )
            endpoint.deploy(changed)
            more(statuses, 20)
        assert set(statuses) == {200}
        refused = post(address, "translate", IMAGE, target="Male", samples=4)
        assert refused.status_code == 422, "the new limit is in force"
        again = post(address, "translate", IMAGE, target="Male", seed=1).json()
        assert again["images"] == alone["images"]
        metrics_are_exported(address)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/v1/health", timeout=5)


@pytest.mark.long
def test_one_replica_speaks_http_itself(ray_session: None, noise_run: Path) -> None:
    settings = settings_for(noise_run, cpus=0.1, limits={"waiting": 8})
    with serving(settings, "127.0.0.1", free_port()) as endpoint:
        address = endpoint.address
        assert endpoint.listener and not below("ProxyActor"), "no proxy is in between"
        alone = post(address, "translate", IMAGE, target="Male", seed=1).json()
        with load(address) as statuses:
            more(statuses, 10)

            with RayStore.connect(store_name(Location(noise_run))) as store:
                os.kill(store.info()[0]["pid"], signal.SIGKILL)
            more(statuses, 40)

            (before,) = below(ENDPOINT)
            limits = settings.limits.model_copy(update={"samples": 3})
            endpoint.deploy(settings.model_copy(update={"limits": limits}))
            before.wait(30)
            more(statuses, 20)
        assert set(statuses) == {200}
        refused = post(address, "translate", IMAGE, target="Male", samples=4)
        assert refused.status_code == 422, "the new limit is in force"

        (replica,) = below(ENDPOINT)
        replica.kill()
        replica.wait(10)
        again = post(address, "translate", IMAGE, target="Male", seed=1)  # waits for the next one
        assert again.json()["images"] == alone["images"]
        assert below(ENDPOINT)[0].pid != replica.pid

        with load(address, clients=24) as statuses:
            more(statuses, 200)
        assert set(statuses) == {200, 429}
        metrics_are_exported(address)

        slow = begun_request(address)
        threading.Timer(1.0, slow.sendall, [IMAGE[20:]]).start()
    assert slow.recv(12) == b"HTTP/1.1 200", "what is under way is finished"
    slow.close()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{address}/v1/health", timeout=5)


def begun_request(address: str) -> socket.socket:
    """A connection on which the first 20 bytes of the image have been sent."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/translate?target=Male HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
    connection.sendall(f"{head}Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE[:20])
    time.sleep(0.3)
    return connection


def metrics_are_exported(address: str) -> None:
    deadline = time.monotonic() + 40
    while "ray_rgcluster_request_seconds_count" not in (
        text := requests.get(f"{address}/metrics", timeout=30).text
    ):
        assert time.monotonic() < deadline, text[:500]
        time.sleep(1)
    assert "ray_rgcluster_batch_rows_bucket" in text and "ray_rgcluster_queue" in text
    assert 'route="/v1/translate"' in text


@pytest.mark.long
def test_the_command_serves_until_a_signal(noise_run: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    port = free_port()
    line = [sys.executable, "-c", "from rgcluster.cli import main; main()", "serve", "--run", str(noise_run)]
    environment = {**os.environ, "RGCLUSTER_API_KEY": "open sesame", "RAY_TMPDIR": "/tmp/rgserve"}
    os.makedirs("/tmp/rgserve", exist_ok=True)
    said = tmp_path / "said.txt"
    with open(said, "w") as file:
        options = ["--port", str(port), "--set", "threads=1"]
        server = subprocess.Popen([*line, *options], env=environment, stdout=file, stderr=file)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while not _ready(address):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        assert post(address, "translate", IMAGE, target="Male").status_code == 401
        photo, made = tmp_path / "photo.png", tmp_path / "made.png"
        photo.write_bytes(IMAGE)
        os.environ["RGCLUSTER_API_KEY"] = "open sesame"
        try:
            result = command("translate", str(photo), "--url", address, "--to", "Male", "--out", str(made))
        finally:
            del os.environ["RGCLUSTER_API_KEY"]
        assert result.returncode == 0, result.stderr
        local = tmp_path / "local.png"
        assert (
            command(
                "translate", str(photo), "--run", str(noise_run), "--to", "Male", "--out", str(local)
            ).returncode
            == 0
        )
        assert _near(made, local)
        taken = command("serve", "--run", str(noise_run), "--port", str(port))
        assert taken.returncode == 2 and "choose another" in taken.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(120)
    assert status == 0
    text = said.read_text()
    assert "Ctrl-C ends it" in text and not lines_of_ray(text) and "INFO" not in text, text


def _near(one: Path, other: Path) -> bool:
    import numpy as np
    from PIL import Image

    pictures = [np.asarray(Image.open(path)).astype(int) for path in (one, other)]
    return pictures[0].shape == pictures[1].shape and int(abs(pictures[0] - pictures[1]).max()) <= 2


def _ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/v1/ready", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_invalid_runs_are_refused_before_anything_starts(noise_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        build({"runs": {"a": str(tmp_path)}})
    (tmp_path / "config.yaml").write_text((noise_run / "config.yaml").read_text())
    with pytest.raises(CheckpointError, match="train this stage first"):
        build({"runs": {"a": str(tmp_path)}})
    with pytest.raises(ConfigError, match="did you mean 'limits.samples'"):
        settings_of({"runs": {"a": "x"}, "limits": {"sample": 3}})
    with pytest.raises(ConfigError, match="max_replicas"):
        settings_of({"runs": {"a": "x"}, "min_replicas": 3})
    with pytest.raises(ConfigError, match="http=direct is one replica, fronts asks for 2"):
        settings_of({"runs": {"a": "x"}, "http": "direct", "fronts": 2})
    with pytest.raises(ConfigError, match="leave http out"):
        build({"runs": {"a": "x"}, "http": "direct"})
    with pytest.raises(ConfigError, match="two runs named"):
        named_runs(["a/demo", "b/demo"])
    assert list(named_runs(["a/demo", "other=b/demo"])) == ["demo", "other"]


def test_the_file_for_serve_deploy_is_one(noise_run: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    tree = yaml.safe_load((PROJECT / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(tree).applications
    assert application.import_path == "rgcluster.serve.deploy.deployments:build"
    settings = settings_of(application.args)
    assert isinstance(settings, ServeSettings)
    assert build({**application.args, "runs": {"noise": str(noise_run)}})
