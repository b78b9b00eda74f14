"""A command that is asked to end while it starts ends in one line, whatever it was doing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from processes import descendants, lines_of_ray, start

from rgcluster.base.cluster.loss import LOST

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("words", "signals"),
    [
        (["demo", "--preset", "smoke"], ("SIGTERM", "SIGINT", "SIGTERM", "SIGINT")),
        (["serve"], ("SIGINT", "SIGTERM", "SIGINT", "SIGTERM")),
    ],
    ids=["demo", "serve"],
)
def test_a_command_that_is_ended_while_it_starts_says_so_in_one_line(
    words: list[str], signals: tuple[str, ...], tmp_path: Path, noise_run: Path
) -> None:
    run = noise_run if words == ["serve"] else tmp_path / "run"
    reached = 0
    for seconds, name in zip((3, 7, 11, 15), signals, strict=True):
        status = {"SIGTERM": 143, "SIGINT": 130}[name]
        process = start(*words, "--run", str(run))
        time.sleep(seconds)
        below = descendants(process.pid)
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=130)
        if process.returncode == -signal.Signals[name]:  # a busy machine: Python had not come to the command
            assert not errors and not below
            continue
        reached += 1
        assert process.returncode in (status, 0 if words == ["serve"] else status), (seconds, errors[-2000:])
        assert not lines_of_ray(errors), (seconds, errors)
        deadline = time.monotonic() + 60  # agents of Ray look for their raylet now and then
        while left := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, (seconds, [below[pid] for pid in left])
            time.sleep(0.5)
    assert reached


def test_a_command_whose_cluster_is_lost_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    process = start("demo", "--preset", "smoke", "--run", str(tmp_path / "run"))
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "shards" / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.2)
    (gcs,) = [pid for pid, title in descendants(process.pid).items() if "gcs_server" in title.split(" ")[0]]
    os.kill(gcs, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1 and LOST in errors, errors[-3000:]
