"""Joins the Ray cluster that the environment names, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Read when ray is imported, so set before that.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# A scattered call that fails in one shard fails in the others, too; the first error is the one that is raised.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# Ray ends idle processes after a second, and a new one imports for seconds: on a cluster of our own, keep them.
os.environ.setdefault("RAY_num_workers_soft_limit", "4")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")

import ray  # noqa: E402

from rgcluster.config import ClusterConfig  # noqa: E402
from rgcluster.errors import ConfigError  # noqa: E402
from rgcluster.weights import chosen_paths  # noqa: E402

__all__ = ["Resources", "cluster_session", "interruptible", "ray_session", "resources"]

CPUS_FOR_WORKERS = 0.5
"""Share of the cluster's CPUs that Train workers reserve at most: reading and embedding need the rest."""


@dataclass(frozen=True)
class Resources:
    """What a stage's workers get."""

    workers: int
    cpus_per_worker: float
    threads: int
    gpu: bool
    min_workers: int = 0

    @property
    def range(self) -> int | tuple[int, int]:
        """Ray Train's `num_workers`: one number, or the fewest and the most."""
        return (self.min_workers, self.workers) if self.min_workers else self.workers


@contextmanager
def ray_session(*, dashboard: bool = False) -> Iterator[None]:
    """Hold a connection to Ray for the body; a cluster started here ends with it.

    Trials that Ray Tune stops are cleaned up through the dashboard.
    """
    if ray.is_initialized():
        yield
        return
    # It would say on every start that Ray's tokens are on, which they should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        # A local cluster's processes inherit the environment; another cluster's must be told of weights.
        told = chosen_paths()
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.WARNING,
            runtime_env={"env_vars": told} if told else None,
        )  # fmt: skip
    else:
        ray.init(
            address="local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.WARNING,
            object_store_memory=_object_store_bytes(),
        )  # fmt: skip
    for name in ("ray.data", "ray.train"):  # progress and failures are reported by this package
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def cluster_session() -> Iterator[None]:
    """Hold a connection to a Ray cluster that is running already; ConfigError where there is none."""
    os.environ.setdefault("RAY_ADDRESS", "auto")
    try:
        with ray_session():
            yield
    except ConnectionError:
        raise ConfigError(
            f"no Ray cluster at {os.environ['RAY_ADDRESS']}: `ray start --head` starts one on this machine, "
            "RAY_ADDRESS names another"
        ) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Make Ctrl-C a KeyboardInterrupt within the body and after it.

    Ray Train answers the first Ctrl-C by leaving the process with status 0 or 1, and its handler stays when
    training is over, so that later ones would do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def resources(config: ClusterConfig, trials: int = 1) -> Resources:
    """Return the workers of a stage and their shares of the cluster, which `trials` runs use at once."""
    total = ray.cluster_resources()
    gpus = int(total.get("GPU", 0)) // trials if config.gpu == "auto" else 0
    cpus = float(total.get("CPU", 1)) / trials
    workers = config.workers or gpus or 1
    # A worker lies on one machine, however many there are.
    machine = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=cpus)
    cores = max(1, min(int(cpus) // workers, int(machine)))
    cpus_per_worker = min(float(cores), cpus * CPUS_FOR_WORKERS / workers, machine * CPUS_FOR_WORKERS)
    return Resources(workers, cpus_per_worker, config.threads or cores, gpus > 0, config.min_workers)


def _object_store_bytes() -> int:
    """A fifth of the memory, at most 4 GiB: Ray's own third is more than a laptop can spare."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4 << 30, memory // 5)
