"""A Ray cluster as an operator starts it: `ray start`, a process group for each node, ended by its pids."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from places import PROJECT

RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    """A free port, outside of those from which Ray takes its workers'."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if not 10002 <= port <= 19999:
            return port


@dataclass
class RayNode:
    """The processes of one `ray start`, known from the moment they were there."""

    process: subprocess.Popen[bytes]
    log: Path

    def below(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End the node at once, as when its machine is taken away."""
        held = [*self.below(), psutil.Process(self.process.pid)] if self.process.poll() is None else []
        for process in held:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)
        psutil.wait_procs(held, timeout=30)


@dataclass
class RayCluster:
    """A head with a dashboard that asks for a token, and nodes that join it."""

    token: str = "0123456789abcdef" * 4
    nodes: list[RayNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Short: Ray puts sockets below it, whose paths may not exceed 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="rgh", dir="/tmp"))
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))},
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(PROJECT),  # as an image in which the package is installed
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # A busy machine answers late; one whose process is gone is known to be at once.
            "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "5000",
            "RAY_health_check_failure_threshold": "6",
            # Processes import for seconds: those that wait are kept, as on a cluster of our own.
            "RAY_num_workers_soft_limit": "3", "RAY_idle_worker_killing_time_threshold_ms": "600000",
        }  # fmt: skip

    def start_head(self, cpus: int) -> RayNode:
        head = self._start(
            "--head", f"--port={self.port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={free_port()}", cpus=cpus,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while True:
            try:
                request = urllib.request.Request(
                    f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
                )
                with urllib.request.urlopen(request, timeout=5):
                    return head
            except OSError:
                assert head.process.poll() is None and time.monotonic() < deadline, head.log.read_text()[
                    -3000:
                ]
                time.sleep(0.5)

    def add_node(self, cpus: int) -> RayNode:
        return self._start(f"--address=127.0.0.1:{self.port}", cpus=cpus)

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, *options: str, cpus: int) -> RayNode:
        log = self.directory / f"node{len(self.nodes)}.log"
        # A directory each, as machines have: each node unpacks a job's files, over those that are there.
        own = self.directory / str(len(self.nodes))
        ports = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
        line = [
            str(RAY), "start", *options, "--block", f"--temp-dir={own}", f"--num-cpus={cpus}", "--num-gpus=0",
            f"--object-store-memory={256 << 20}", "--disable-usage-stats",
            *(f"--{name}-port={free_port()}" for name in ports),
        ]  # fmt: skip
        with log.open("wb") as sink:
            process = subprocess.Popen(
                line, env=self.environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        node = RayNode(process, log)
        self.nodes.append(node)
        return node


def signal_driver(head: RayNode, script: str) -> int:
    """Kill the driver of a job by its pid, which is returned."""
    drivers = []
    for process in head.below():
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if script in words and words[0].endswith("python"):
            drivers.append(process)
    (driver,) = drivers
    driver.send_signal(signal.SIGKILL)
    return int(driver.pid)
