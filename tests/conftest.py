"""Fixtures that several test files share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from untrained import untrained_run

# Read by Ray when it is imported, so they stand before any test imports it.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

# The networks of the tests are small: more threads only wait for each other.
torch.set_num_threads(1)


# Machines that run tests are busy: how long an example takes says nothing about the code.
settings.register_profile("rgcluster", deadline=None)
settings.load_profile("rgcluster")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray cluster for every test that needs it."""
    import ray

    from rgcluster.base.cluster.forks.launch import forked_workers
    from rgcluster.base.cluster.internals import without_helpers
    from rgcluster.base.session import PRESTART

    # Short: Ray puts sockets below it, whose paths may not exceed 107 characters.
    directory = tempfile.mkdtemp(prefix="rg", dir="/tmp")
    with pytest.MonkeyPatch.context() as patched:
        # With these the workers are let into the tests' S3 server.
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "testing")
        patched.setenv(PRESTART, "0")
        with forked_workers() as executable:
            with without_helpers(exporter=True):
                ray.init(
                    address="local",
                    num_cpus=4,
                    include_dashboard=False,
                    object_store_memory=512 << 20,
                    _temp_dir=directory,
                    log_to_driver=False,
                    namespace="rgcluster-tests",
                    runtime_env={"py_executable": executable} if executable else None,
                )
            yield
            ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, for its fixtures, all of `ray_session` in one, and of `smoke_run` in another.

    Those two take longest, so they begin. Long tests of `smoke_run` take longer than the run: they go anywhere.
    """
    groups = {}
    for item in items:
        for rank, fixture in enumerate(("smoke_run", "ray_session")):
            if fixture in getattr(item, "fixturenames", ()) and not (
                rank == 0 and item.get_closest_marker("long")
            ):
                groups[item.path] = (rank, fixture)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, (2, str(item.path)))[1]))
    items.sort(key=lambda item: groups.get(item.path, (2, ""))[0])


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `rgcluster demo --preset smoke`, made by the real command, once for all processes."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    run, seconds = root / "smoke" / "run", root / "smoke" / "run" / "seconds"
    with (root / "smoke.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not seconds.exists():
            start = time.monotonic()
            result = command("demo", "--preset", "smoke", "--run", str(run), timeout=850)
            assert result.returncode == 0, result.stderr[-3000:]
            seconds.write_text(str(time.monotonic() - start))
    return run


@pytest.fixture(scope="session")
def noise_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of networks that never learnt anything, for what serves runs."""
    run = tmp_path_factory.mktemp("serve") / "noise"
    untrained_run(run)
    return run


def command(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the `rgcluster` command as a user does."""
    line = [sys.executable, "-m", "rgcluster", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout)
