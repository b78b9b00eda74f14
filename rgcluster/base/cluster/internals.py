"""What this package uses of Ray's private parts, because Ray's public ones have no equivalent.

Read in the sources of Ray 2.60; each function says what to look for when another version moves it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["autoscaler_node_groups", "is_preempted", "num_cpus_here", "quiet_driver", "times_restarted"]

_LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"


@contextmanager
def quiet_driver() -> Iterator[None]:
    """Keep the C++ part of a driver that connects within the body from printing what is no business of users.

    Ray reads the level from the environment, which the processes that `ray.init` starts get, too; theirs must stay.
    So it is set while `ray._private.worker.connect` runs, which comes after they were started. Ray says so in a
    line on stderr, which is left out.
    """
    from ray._private import worker

    connect = worker.connect

    def quietly(*args: Any, **options: Any) -> Any:
        if _LOG_LEVEL in os.environ:
            return connect(*args, **options)
        with mock.patch.dict(os.environ, {_LOG_LEVEL: "fatal"}), _without_lines(_LOG_LEVEL.encode()):
            return connect(*args, **options)

    with mock.patch.object(worker, "connect", quietly):
        yield


@contextmanager
def _without_lines(mark: bytes) -> Iterator[None]:
    """Hold back what is written to the file descriptor of stderr; then write all lines but those with the mark."""
    sys.stderr.flush()
    real = os.dup(2)
    try:
        with tempfile.TemporaryFile() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(real, 2)
                held.seek(0)
                lines = [line for line in held if mark not in line]
                if lines:
                    os.write(2, b"".join(lines))
    finally:
        os.close(real)


def num_cpus_here() -> float:
    """Return the CPUs that a cluster started on this machine would have (`ray._private.utils`)."""
    from ray._private.utils import get_num_cpus

    return float(get_num_cpus())


def autoscaler_node_groups() -> list[Any]:
    """Return the kinds of machines that an autoscaler may add, none where there is no autoscaler.

    `ray.nodes()` knows only those that are there (`ray._private.state`).
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    return list(config.node_group_configs) if config is not None else []


def times_restarted(actor_id: str | None) -> int:
    """Return how often Ray restarted an actor; the public API tells only whether it did (`ray._private.state`)."""
    from ray._private.state import actors

    return int(actors(actor_id)["NumRestarts"])


def is_preempted() -> bool:
    """Return whether Ray told this Train worker that a machine of its group is about to be taken away.

    `ray.train.get_preemption_info` is a barrier over all workers, too slow for every step
    (`ray.train.v2._internal.execution.context`).
    """
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        return get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:  # no worker of Ray Train
        return False
