"""The cluster that a command starts on its own machine."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import psutil
from rgcluster.base.session import ray_session
with ray_session(exporter=False):
    import ray
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    for child in psutil.Process().children(recursive=True):
        print(" ".join(child.cmdline()))
"""


def test_it_runs_without_the_helpers_that_one_machine_has_no_use_for() -> None:
    result = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any("gcs_server" in line for line in lines) and any("raylet" in line for line in lines)
    helpers = ("dashboard/dashboard.py", "log_monitor.py", "autoscaler/_private/monitor.py", "v2/monitor.py")
    assert not [
        line for line in lines if any(name in line for name in helpers) and "raylet/raylet" not in line
    ]
    assert [line for line in lines if "--minimal" in line]  # the agent that exports no metrics
