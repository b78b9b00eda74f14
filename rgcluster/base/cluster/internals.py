"""What this package uses of Ray's private parts, because Ray's public ones have no equivalent.

Read in the sources of Ray 2.60; each function says what to look for when another version moves it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["autoscaler_node_groups", "is_preempted", "num_cpus_here", "times_restarted"]


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
