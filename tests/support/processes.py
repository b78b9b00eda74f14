"""The `rgcluster` command as a process of its own: started, watched, killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from rgcluster.base.storage import Location
from rgcluster.train.records.metrics import read_metrics

OF_RAY = (
    "Traceback", "core_worker", "raylet", "SIGTERM", "*** ", "graceful_shutdown", "gcs_", "RAY_BACKEND_LOG_LEVEL",
    "constructor arguments", "ray::", "(pid=",
)  # fmt: skip
"""Marks of lines that come from inside of Ray."""


def lines_of_ray(text: str) -> list[str]:
    """What a user must not see of Ray's inside."""
    return [line for line in text.splitlines() if any(mark in line for mark in OF_RAY)]


def copy_without(run: Path, target: Path, *stages: str) -> Path:
    """A copy of a finished run in which `stages` have not been begun."""
    shutil.copytree(run, target)
    for stage in stages:
        shutil.rmtree(target / stage)
    # The copy's own shards, so that nothing is shared with the original.
    (target / "data.json").write_text(json.dumps({"shards": str(target / "shards")}))
    return target


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the command in a session of its own, so that a signal reaches it alone."""
    line = [sys.executable, "-c", "from rgcluster.cli import main; main()", *arguments]
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )


def descendants(root: int) -> dict[int, str]:
    """Process ids and titles below `root`."""
    children: dict[int, list[int]] = {}
    titles = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
    found, queue = {}, [root]
    while queue:
        for child in children.get(queue.pop(), []):
            found[child] = titles.get(child, "")
            queue.append(child)
    return found


def await_step(directory: Path, step: int, process: subprocess.Popen[str], seconds: float = 240) -> None:
    """Wait until the stage's metrics reach `step`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = read_metrics(Location(directory))
        if lines and lines[-1]["step"] >= step:
            return
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.1)
    raise AssertionError(f"{directory} did not reach step {step}")
