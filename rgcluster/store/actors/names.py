"""Names of a store's actors."""

from __future__ import annotations

import re

import ray
from ray.actor import ActorHandle
from ray.util import list_named_actors

from rgcluster.base.rundir import safe_name
from rgcluster.errors import ConfigError

__all__ = ["NAMESPACE", "actor_name", "find_actor", "require_name", "running_actors"]

NAMESPACE = "rgcluster"


def require_name(name: str) -> None:
    """Raise ConfigError if actors, and the tags of their metrics, cannot have this name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ConfigError(
            f"{name!r} cannot name a store: use letters of the English alphabet, digits, '.', '_' and '-'; "
            f"{safe_name(name)!r} would do"
        )


def actor_name(name: str, part: int, replica: int) -> str:
    """Return the Ray actor name of a shard's replica."""
    return f"store-{name}-{part}" + (f"r{replica}" if replica else "")


def find_actor(name: str, part: int, replica: int) -> ActorHandle | None:
    """Return the actor of a running store's shard; None if there is none."""
    try:
        return ray.get_actor(actor_name(name, part, replica), namespace=NAMESPACE)
    except ValueError:
        return None


def running_actors() -> list[tuple[str, int, int]]:
    """Return the store, shard and replica of every store actor in the cluster."""
    found = []
    for actor in list_named_actors(all_namespaces=True):
        match = re.fullmatch(r"store-(.+)-(\d+)(?:r(\d+))?", actor["name"])
        if match and actor["namespace"] == NAMESPACE:
            found.append((match[1], int(match[2]), int(match[3] or 0)))
    return sorted(found)
