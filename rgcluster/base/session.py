"""Joins the Ray cluster that the environment names, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

# Read when ray is imported, so set before that.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# A scattered call that fails in one shard fails in the others, too; the first error is the one that is raised.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
# Ray's own handler of SIGTERM prints stacks, and aborts a command that is ended while Ray starts.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
# A stage's actors are more processes than Ray expects of two cores; it would warn of that.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "PYTHON worker processes have been started")
# Ray ends idle processes after a second, and a new one imports for seconds: on a cluster of our own, keep them.
os.environ.setdefault("RAY_num_workers_soft_limit", "4")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")

import psutil  # noqa: E402
import ray  # noqa: E402

from rgcluster.base.cluster.address import ANSWER_SECONDS, check_driver_address, check_last_cluster  # noqa: E402
from rgcluster.base.cluster.forks.launch import TRAINING, forked_workers  # noqa: E402
from rgcluster.base.cluster.internals import (  # noqa: E402
    autoscaler_node_groups,
    cluster_version,
    last_cluster,
    num_cpus_here,
    quiet_driver,
    quiet_tokens,
    without_helpers,
)
from rgcluster.base.cluster.loss import announce_loss  # noqa: E402
from rgcluster.base.placement import CPUS_PER_READER, Claim, Node, Placement, describe_nodes, pack, place  # noqa: E402
from rgcluster.base.progress import explain_waits, waiting  # noqa: E402
from rgcluster.base.weights import chosen_paths  # noqa: E402
from rgcluster.config import Config  # noqa: E402
from rgcluster.errors import ClusterUnavailable, ConfigError  # noqa: E402

__all__ = [
    "cluster_nodes",
    "cluster_session",
    "interruptible",
    "placement",
    "ray_session",
    "this_machine",
]

TASK = Claim("task", 1, CPUS_PER_READER)
"""Minimum resources of almost all work on a cluster."""
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Whether Ray Train looks for draining nodes in an actor of its own; read by the driver, passed on by Ray."""
OF_OWN_CLUSTER = {
    WATCHER: "0",  # nobody drains the only machine of a cluster that ends with this process
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # as Ray Train wants it: its workers, too, can be forked
}
"""Variables of a cluster that is started here."""
PRESTART = "RAY_prestart_worker_first_driver"
"""Whether Ray starts a worker for each CPU before there is work."""
MOST_NODES = 512
"""Limit on the counted nodes of one kind that an autoscaler may add."""


@contextmanager
def ray_session(
    *,
    dashboard: bool = False,
    exporter: bool = False,
    needs: Claim | None = TASK,
    variables: Mapping[str, str] | None = None,
    modules: Iterable[str] = TRAINING,
) -> Iterator[None]:
    """Hold a connection to Ray for the body; a cluster started here ends with it.

    ConfigError where no cluster answers, or where it could never run what the body `needs` at least. A cluster
    started here has `variables` in the environment of all its processes; a worker whose runtime environment sets the
    same values can still be forked, and has imported `modules` then. It has a dashboard, through which Ray Tune cleans
    up trials that it stops, and Ray's exporter of metrics, which an endpoint reads, only where asked: both take time.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    own = not address or address == "local"
    with (
        _defaults({**OF_OWN_CLUSTER, **(variables or {})} if own else {}),
        nullcontext() if address else forked_workers(modules) as executable,
    ):
        quiet_tokens()
        with _sigterm_kept(), quiet_driver():
            if address:
                _connect(address)
            else:
                with nullcontext() if dashboard else without_helpers(exporter=exporter):
                    _start(dashboard, executable)
        try:
            for name in ("ray.data", "ray.train"):  # progress and failures are reported by this package
                logging.getLogger(name).setLevel(logging.ERROR)
            if needs is not None:
                _require(needs)
            with explain_waits(_what_is_free), announce_loss():
                yield
        finally:
            _shut_down()


@contextmanager
def _defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set those variables of the environment that are not set, for the body."""
    missing = values.keys() - os.environ.keys()
    os.environ.update({name: values[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _init(**options: Any) -> None:
    """Initialise Ray; leave nothing of it where that fails or is interrupted."""
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    except BaseException:
        _shut_down()
        raise


def _shut_down() -> None:
    """Leave the cluster, and end what was started here.

    An agent of Ray that had not come up when its cluster ended would look for it for minutes.
    """
    below: list[psutil.Process] = []
    try:
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it ended just now
                below += child.children(recursive=True) if child.name() == "raylet" else []
    finally:
        ray.shutdown()
    for process in below:
        with suppress(psutil.Error):
            process.kill()


def _start(dashboard: bool, executable: str | None) -> None:
    """Start a cluster on this machine, whose workers are what `executable` makes of them."""
    # Workers that start before Ray knows the job would be none of those.
    prestart = {PRESTART: "0"} if executable else {}
    try:
        with _defaults(prestart), waiting("Ray to start on this machine"):
            _init(
                address="local",
                include_dashboard=dashboard,
                object_store_memory=_object_store_bytes(),
                runtime_env={"py_executable": executable} if executable else None,
            )
    except Exception as error:  # Ray has no type for this one
        if "timed out during startup" not in str(error):
            raise
        raise ClusterUnavailable(
            "Ray did not start on this machine within its time limit, as happens where other programs keep the machine "
            "busy; run the same command again, or set RAY_ADDRESS to a running cluster"
        ) from None


def _connect(address: str) -> None:
    """Connect to a running cluster; ConfigError where none answers."""
    check_driver_address("RAY_ADDRESS", address)
    # A local cluster's processes inherit the environment; those of another cluster need the paths of the weights.
    weights = chosen_paths()
    try:
        if address == "auto":  # Ray would wait for minutes for one that was killed
            address = last_cluster()
            check_last_cluster(address)
        if address != "local":
            _require_same_ray(address)
        with waiting(f"the Ray cluster at {address}"):
            _init(address=address, runtime_env={"env_vars": weights} if weights else None)
    except ConnectionError:
        raise ConfigError(
            f"no Ray cluster at {address}: `ray start --head` starts one on this machine, RAY_ADDRESS=HOST:6379 "
            "names another"
        ) from None


def _require_same_ray(address: str) -> None:
    """Raise ConfigError where this process could not join the cluster, ConnectionError where none answers."""
    try:
        version = cluster_version(address, ANSWER_SECONDS)
    except PermissionError:
        raise ConfigError(
            f"the Ray cluster at {address} wants another token: set RAY_AUTH_MODE and RAY_AUTH_TOKEN as on the cluster"
        ) from None
    if version != ray.__version__:
        raise ConfigError(
            f"the Ray cluster at {address} has Ray {version}, this machine {ray.__version__}; install the same version"
        )


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray would replace by one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _require(claim: Claim) -> None:
    """Raise ConfigError where the cluster cannot run what is claimed, however long one waits."""
    nodes = cluster_nodes()
    if pack((claim,), nodes) is None:
        raise ConfigError(
            f"{claim} CPUs do not fit on {describe_nodes(nodes)}; add nodes to the "
            "cluster, or unset RAY_ADDRESS to work on this machine"
        )


def _what_is_free() -> str:
    """Return a description of what work on the cluster may be waiting for."""
    total, free = ray.cluster_resources().get("CPU", 0.0), ray.available_resources().get("CPU", 0.0)
    return f"its first result; {free:g} of the cluster's {total:g} CPUs are free"


@contextmanager
def cluster_session(needs: Claim | None = None) -> Iterator[None]:
    """Hold a connection to a Ray cluster that is running already; ConfigError where there is none."""
    os.environ.setdefault("RAY_ADDRESS", "auto")
    with ray_session(needs=needs):
        yield


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


def placement(config: Config, trials: int = 1) -> Placement:
    """Return how the stages lie on the cluster, which `trials` runs use at once; ConfigError where they do not fit."""
    return place(config, cluster_nodes(), trials)


def cluster_nodes() -> list[Node]:
    """Return the machines of the cluster, and those that its autoscaler may add."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = [_node(node["Resources"]) for node in alive]
    groups = [node.get("Labels", {}).get("ray.io/node-group") for node in alive]
    for group in autoscaler_node_groups():
        more = min(group.max_count, MOST_NODES) - groups.count(group.name)
        nodes += [_node(group.resources)] * max(0, more)
    return [node for node in nodes if node.cpus or node.gpus]


def this_machine() -> list[Node]:
    """Return what a cluster started here would have."""
    import torch  # takes seconds, which commands that need no placement are spared

    return [Node(num_cpus_here(), float(torch.cuda.device_count()))]


def _node(resources: Mapping[str, float]) -> Node:
    return Node(float(resources.get("CPU", 0.0)), float(resources.get("GPU", 0.0)))


def _object_store_bytes() -> int:
    """A fifth of the memory, at most 4 GiB: Ray's own third is more than a laptop can spare."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4 << 30, memory // 5)
