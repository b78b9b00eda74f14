"""Checkpoints before their time: a request to stop, a cloud's notice, a node that Ray drains."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from stages import SETTINGS, Studio

from rgcluster.base.checkpoint.manifest import MANIFEST
from rgcluster.base.cluster.spot import CLOUDS, MetadataService, metadata_service
from rgcluster.base.logs.notices import read_notices
from rgcluster.base.rundir import PREEMPTED, STOP
from rgcluster.base.storage import Location
from rgcluster.errors import StorageError, Terminated
from rgcluster.train import checkpoints, preemption
from rgcluster.train.loop import train_stage
from rgcluster.train.preemption import (
    NOTICED,
    STOPPED,
    PreemptionWatch,
    clear_requests,
    request_stop,
    stoppable,
)

STAGE = "translation"


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(preemption, "SECONDS", 0.02)
    monkeypatch.setattr(preemption, "metadata_service", lambda: None)
    return Studio(tmp_path, monkeypatch)


def steps(directory: Path) -> list[int]:
    return sorted(int(path.parent.name[5:]) for path in (directory / "checkpoints").glob(f"*/{MANIFEST}"))


def train_until(studio: Studio, step: int, event: Any) -> None:
    """Train, with `event` happening during a step, and time for it to be noticed."""
    subject = studio.stage(STAGE, **SETTINGS)
    take_step = subject.step

    def take(number: int, item: Any) -> Any:
        if number + 1 == step:
            event()
            time.sleep(0.3)
        return take_step(number, item)

    subject.step = take  # type: ignore[method-assign]
    train_stage(subject)


def test_a_request_to_stop_is_a_checkpoint_at_the_step_and_nothing_is_lost(
    studio: Studio, tmp_path: Path
) -> None:
    whole = studio.train(STAGE, "whole", **SETTINGS)
    directory = tmp_path / "run" / STAGE
    with pytest.raises(Terminated, match="asked to stop; the same command continues after step 7") as ended:
        train_until(studio, 7, lambda: request_stop(Location(directory)))
    assert ended.value.exit_status == 143
    assert steps(directory) == [7]
    assert read_notices(Location(directory)) == [f"checkpoint of step 7: {STOPPED}"]
    clear_requests(Location(directory))
    lines = studio.train(STAGE, **SETTINGS)
    # The report after the stop is the mean of fewer steps; the later ones, and the networks, are the same.
    assert [line["step"] for line in lines] == [line["step"] for line in whole] and lines[-1] == whole[-1]
    digests = [
        json.loads((tmp_path / run / STAGE / "model" / MANIFEST).read_text())["sha256"]
        for run in ("run", "whole")
    ]
    assert digests[0] == digests[1]


def test_a_notice_is_one_more_checkpoint_and_training_goes_on(studio: Studio, tmp_path: Path) -> None:
    directory = tmp_path / "run" / STAGE
    train_until(studio, 7, lambda: (directory / PREEMPTED).write_text("rank 1\n"))
    assert read_notices(Location(directory)) == [f"checkpoint of step 7: {NOTICED}"]
    assert (directory / "model" / MANIFEST).exists()


def test_a_notice_tells_of_no_checkpoint_that_is_not_written(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*arguments: Any) -> None:
        time.sleep(0.1)  # the notice must not come before
        raise StorageError("no space left")

    monkeypatch.setattr(checkpoints, "save_snapshot", full_disk)
    directory = tmp_path / "run" / STAGE
    with pytest.raises(StorageError, match="no space left"):
        train_until(studio, 7, lambda: (directory / PREEMPTED).write_text("rank 1\n"))
    assert read_notices(Location(directory)) == []


def test_a_node_that_ray_drains_is_a_notice(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(studio, 7, lambda: monkeypatch.setattr(preemption, "is_preempted", lambda: True))
    assert read_notices(Location(tmp_path / "run" / STAGE)) == [f"checkpoint of step 7: {NOTICED}"]


def test_no_checkpoint_of_losses_that_are_no_numbers(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgcluster.train.loop.Meter.is_finite", lambda self: False)
    with pytest.raises(Terminated):
        train_until(studio, 7, lambda: request_stop(Location(tmp_path / "run" / STAGE)))
    assert steps(tmp_path / "run" / STAGE) == []


def test_a_meter_knows_whether_its_losses_are_numbers(studio: Studio) -> None:
    from rgcluster.train.meter import Meter

    meter = Meter(studio.stage(STAGE))
    assert meter.is_finite()
    meter.add({"total": torch.tensor(1.0)})
    assert meter.is_finite()
    meter.add({"total": torch.tensor(float("nan"))})
    assert not meter.is_finite()


@pytest.fixture
def metadata() -> Iterator[tuple[str, dict[str, tuple[int, str]], list[tuple[str, str, dict[str, str]]]]]:
    """A metadata service: its address, its responses by path, and what it was asked."""
    responses: dict[str, tuple[int, str]] = {}
    asked: list[tuple[str, str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked.append((self.command, self.path, headers))
            status, text = responses.get(self.path.split("?")[0], (404, ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", responses, asked
    server.shutdown()
    server.server_close()


def local(cloud: str, address: str) -> MetadataService:
    """A cloud's service as it is, but for where it is."""
    service = CLOUDS[cloud]
    return MetadataService(
        service.notice.replace("http://169.254.169.254", address), service.headers, service.nothing,
        service.token.replace("http://169.254.169.254", address),
    )  # fmt: skip


def test_the_notice_of_each_cloud_is_understood(metadata: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no way to the machine's own service
    address, responses, asked = metadata
    amazon, google, azure = (local(cloud, address) for cloud in CLOUDS)
    responses["/latest/api/token"] = (200, "secret")
    assert not amazon.is_preempted()
    assert asked[-1][2]["x-aws-ec2-metadata-token"] == "secret"
    responses["/latest/meta-data/spot/instance-action"] = (
        200,
        '{"action": "terminate", "time": "2026-01-01"}',
    )
    assert amazon.is_preempted()
    responses["/computeMetadata/v1/instance/preempted"] = (200, "FALSE")
    assert not google.is_preempted() and asked[-1][2]["metadata-flavor"] == "Google"
    responses["/computeMetadata/v1/instance/preempted"] = (200, "TRUE")
    assert google.is_preempted()
    responses["/metadata/scheduledevents"] = (200, '{"DocumentIncarnation": 1, "Events": []}')
    assert not azure.is_preempted() and asked[-1][2]["metadata"] == "true"
    responses["/metadata/scheduledevents"] = (200, '{"Events": [{"EventType": "Preempt"}]}')
    assert azure.is_preempted()


def test_the_cloud_is_told_by_the_machines_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("Amazon EC2\n", CLOUDS["Amazon EC2"]), ("LENOVO\n", None)):
        (tmp_path / "vendor").write_text(text)
        monkeypatch.setattr("rgcluster.base.cluster.spot.VENDOR", tmp_path / "vendor")
        assert metadata_service() is expected
    monkeypatch.setattr("rgcluster.base.cluster.spot.VENDOR", tmp_path / "none")
    assert metadata_service() is None


def test_a_notice_of_any_machine_reaches_the_first_worker(
    metadata: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, responses, _ = metadata
    responses["/computeMetadata/v1/instance/preempted"] = (200, "FALSE")
    monkeypatch.setattr(preemption, "SECONDS", 0.02)
    monkeypatch.setattr(preemption, "NOTICE_SECONDS", 0.02)
    directory = Location(tmp_path / "stage")
    (directory / PREEMPTED).write_text("rank 5\n")  # of a machine that is gone
    monkeypatch.setattr(preemption, "metadata_service", lambda: None)
    with PreemptionWatch(directory, 0) as first:
        with PreemptionWatch(directory, 3, local("Google", address)):
            time.sleep(0.3)
            assert first.requested() is None
            responses["/computeMetadata/v1/instance/preempted"] = (200, "TRUE")
            deadline = time.monotonic() + 10
            while first.requested() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        assert first.requested() == NOTICED
        first.answered()
        assert first.requested() is None
    assert (directory / PREEMPTED).read_text() == "rank 3\n"


def test_a_service_that_is_not_there_is_asked_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "NOTICE_SECONDS", 0.01)
    with PreemptionWatch(Location(tmp_path), 1, local("Google", "http://127.0.0.1:9")) as watch:
        (thread,) = watch._threads
        thread.join(10)
        assert not thread.is_alive()


def test_sigterm_is_a_request_to_stop_and_a_second_one_ends_at_once(tmp_path: Path) -> None:
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        directory = Location(tmp_path / "run" / STAGE)
        with stoppable(lambda: request_stop(directory)):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert (directory / STOP).exists() and not ended
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert ended == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert len(ended) == 2
        clear_requests(directory)
        assert not (directory / STOP).exists()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_storage_that_takes_no_request_ends_at_once() -> None:
    def refuse() -> None:
        raise StorageError("down")

    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        with stoppable(refuse):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        assert ended == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
