"""Choice between direct and proxied HTTP, and a check of the resources before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from rgcluster.base.placement import Claim, Node, describe_nodes, pack
from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.errors import ConfigError
from rgcluster.serve.settings import ServeSettings
from rgcluster.store.disk.snapshot import read_manifest

__all__ = ["QUIET_THREADS", "num_gpus", "num_shards", "require_room", "serves_directly"]

QUIET_THREADS = {"env_vars": {"OMP_WAIT_POLICY": "passive"}}
"""OpenMP threads sleep instead of spinning while they wait, which leaves cores to HTTP. With one of two cores busy,
a convolution on spinning threads takes four times as long as on one thread; sleeping costs 5 % on an idle machine."""


def serves_directly(settings: ServeSettings, nodes: Sequence[Node]) -> bool:
    """Return whether one replica serves HTTP itself."""
    if settings.http != "auto":
        return settings.http == "direct"
    if settings.fronts > 1 or settings.max_replicas > 1 or len(nodes) != 1:
        return False
    share = len(settings.runs) * (1.0 if settings.gpus is None else settings.gpus)
    return share <= 1 or not nodes[0].gpus


def num_gpus() -> float:
    """Return the number of GPUs in the cluster; 0 before Ray is started."""
    return float(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else 0.0


def num_shards(settings: ServeSettings) -> int:
    """Return the number of shards of the stores that serving starts."""
    return sum(
        read_manifest(snapshot_of(Location(run))).num_shards
        for name, run in settings.runs.items()
        if name not in settings.stores
    )


def require_room(claims: Sequence[Claim], nodes: Sequence[Node], lower: str) -> None:
    """Raise ConfigError where the claims do not fit on the nodes; `lower` names the settings to reduce."""
    if pack(claims, nodes) is not None:
        return
    cpus, gpus = (sum(claim.count * getattr(claim, kind) for claim in claims) for kind in ("cpus", "gpus"))
    raise ConfigError(
        f"serving: {' + '.join(map(str, claims))} = {cpus:.4g} CPUs and {gpus:.4g} GPUs do not fit on "
        f"{describe_nodes(nodes)}; lower {lower}, or add machines"
    )
