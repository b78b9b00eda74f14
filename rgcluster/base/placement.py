"""Resources of each stage, computed from the machines and the configuration before anything starts.

All requests to Ray for CPUs and GPUs use these numbers. Workers take at most half of a machine's CPUs and leave one
CPU of the cluster for reading; on GPUs they leave the shares that other actors need. ConfigError states the sum that
does not fit. This module makes no calls to Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rgcluster.config import Config
from rgcluster.errors import ConfigError

__all__ = [
    "Claim",
    "Node",
    "Placement",
    "Resources",
    "StagePlan",
    "describe_nodes",
    "pack",
    "place",
    "serving_claims",
]

CPUS_PER_READER = 0.2
"""CPUs that a reading task requests: few, so that it never waits for the trainer. Decoding uses idle cores."""
CPUS_TO_READ = 1.0
"""CPUs that are left for Ray Data at least, in a cluster of two CPUs or more."""
CPUS_FOR_WORKERS = 0.5
"""Largest share of a machine's CPUs that Train workers reserve."""
FEWEST_CPUS = 0.05
"""Smallest reservation of a worker. It keeps others away but does not limit the CPUs that the worker uses."""
CPUS_PER_SHARD = 0.1
"""CPUs that a shard requests: few, so that shards never take cores from training."""
GPUS_PER_SHARD = 0.01
CPUS_PER_GENERATOR = 0.3
GPUS_PER_GENERATOR = 0.1
GPUS_FOR_GENERATORS = 0.4
"""Largest share of a device for the generators beside its worker. More than half is left to the worker, so that no
two workers share a device."""
CPUS_PER_EMBEDDER = 0.3
GPUS_PER_EMBEDDER = 0.6  # one a GPU
CPUS_PER_ACTOR = 0.4
"""CPUs of an actor that measures."""
GPUS_PER_ACTOR = 0.3
CPUS_PER_DRIVER = 0.05
"""CPUs of the driver of a sweep's trial."""
CPUS_PER_WRITER = 0.5
"""CPUs of a task that writes or checks a shard file."""
CPUS_PER_FRONT = 0.1

_GRAIN = 10_000  # Ray's resolution is a ten-thousandth


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, or one that an autoscaler may add."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Claim:
    """A number of processes, each with these resources."""

    what: str
    count: int
    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.count} {self.what}{'s' * (self.count != 1)} x {self.cpus:.4g}"


@dataclass(frozen=True)
class Resources:
    """Resources of a stage's workers."""

    workers: int
    cpus_per_worker: float
    threads: int
    gpu: bool
    min_workers: int = 0
    gpus_per_worker: float = 1.0
    gpus_per_generator: float = 0.0

    @property
    def range(self) -> int | tuple[int, int]:
        """Ray Train's `num_workers`: one number, or the smallest and the largest."""
        return (self.min_workers, self.workers) if self.min_workers else self.workers

    @property
    def per_worker(self) -> dict[str, float]:
        """Ray Train's `resources_per_worker`."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.gpu else {})


@dataclass(frozen=True)
class StagePlan:
    """The processes of a stage that run at the same time, in all trials, and the CPUs left for reading."""

    name: str
    claims: tuple[Claim, ...]
    cpus: float
    gpus: float
    left: float
    """CPUs that no process of the stage claims; readers take them, `CPUS_PER_READER` each."""


@dataclass(frozen=True)
class Placement:
    """The placement of a run's stages on a cluster that `trials` such runs share."""

    nodes: tuple[Node, ...]
    stages: dict[str, StagePlan]
    workers: dict[str, Resources]
    """Workers by training stage."""
    embedders: int
    measurers: int
    trials: int

    @property
    def gpu(self) -> bool:
        return self.workers["translation"].gpu


def place(config: Config, nodes: Sequence[Node], trials: int = 1) -> Placement:
    """Return the placement of a run's stages; ConfigError with the sum that does not fit."""
    cluster, store = config.cluster, config.store
    cpus, gpus = sum(node.cpus for node in nodes), sum(int(node.gpus) for node in nodes)
    gpu = cluster.gpu != "never" and gpus // trials > 0
    if cluster.gpu == "always" and not gpu:
        raise ConfigError(
            f"cluster.gpu = always: {max(1, cluster.workers) * trials} GPUs are needed, the cluster has {gpus} "
            f"({describe_nodes(nodes)}); add machines that have some, or --set cluster.gpu=auto"
        )
    rows = min(config.translation.batch_size, config.retrieval.batch_size, config.guidance.batch_size)
    wanted = cluster.workers or (min(gpus // trials, rows) if gpu else 0) or 1  # a row for each worker
    _require_gpus(config, wanted, gpus, gpu, trials)
    # Elastic workers: as many as there are devices now.
    number = min(wanted, gpus // trials) * trials if gpu else wanted * trials
    reserve = min(CPUS_TO_READ, cpus / 2)
    drivers = (Claim("driver", trials, CPUS_PER_DRIVER),) if trials > 1 else ()
    shards = (Claim("store shard", trials * store.shards * store.replicas, CPUS_PER_SHARD),)
    generators = _generators(config, number, gpu)
    beside = {"translation": (), "retrieval": generators, "guidance": shards}
    workers, stages = {}, {}
    for stage, others in beside.items():
        share = _share(stage, config, nodes, wanted, number, gpu, (*drivers, *others), reserve)
        workers[stage] = share
        own = Claim("worker", number, share.cpus_per_worker, share.gpus_per_worker if gpu else 0)
        stages[stage] = _plan(stage, (own, *drivers, *others), nodes, cpus, reserve)
    room = cpus - reserve - sum(c.count * c.cpus for c in drivers)
    embedders = number // trials if gpu else max(1, int(cpus / 2) // trials)
    embedders = max(1, min(embedders, int(room / trials / CPUS_PER_EMBEDDER + 1e-9)))
    claim = Claim("embedder", embedders * trials, CPUS_PER_EMBEDDER, GPUS_PER_EMBEDDER if gpu else 0)
    stages["store"] = _plan("store", (claim, *drivers), nodes, cpus, reserve)
    room -= sum(c.count * c.cpus for c in shards)
    measurers = number // trials if gpu else max(1, int(cpus) // trials)
    measurers = max(1, min(measurers, int(room / trials / CPUS_PER_ACTOR + 1e-9)))
    claim = Claim("measuring actor", measurers * trials, CPUS_PER_ACTOR, GPUS_PER_ACTOR if gpu else 0)
    # They read their data themselves.
    stages["evaluation"] = _plan("evaluation", (claim, *drivers, *shards), nodes, cpus, CPUS_PER_READER)
    order = ("translation", "retrieval", "store", "guidance", "evaluation")
    return Placement(
        tuple(nodes), {name: stages[name] for name in order}, workers, embedders, measurers, trials
    )


def serving_claims(
    runs: int, fronts: int, translators: int, cpus: float, gpus: float, shards: int
) -> tuple[Claim, ...]:
    """Return the claims of serving: HTTP fronts, translators of each run, and each run's store."""
    return (
        Claim("translator", runs * translators, cpus, gpus),
        Claim("front", fronts, CPUS_PER_FRONT),
        Claim("store shard", shards, CPUS_PER_SHARD),
    )


def pack(claims: Sequence[Claim], nodes: Sequence[Node]) -> list[list[int]] | None:
    """Return for each claim the number of its processes on each node, the largest first; None where they do not fit.

    A process with a fraction of a GPU gets it on one device.
    """
    cpus = [math.floor(node.cpus * _GRAIN + 1e-6) for node in nodes]
    devices = [[_GRAIN] * int(node.gpus) for node in nodes]
    given = [[0] * len(nodes) for _ in claims]
    for number in sorted(range(len(claims)), key=lambda k: (-claims[k].gpus, -claims[k].cpus)):
        claim = claims[number]
        need, part = _grains(claim.cpus), _grains(claim.gpus)
        for _ in range(claim.count):
            for place in sorted(range(len(nodes)), key=lambda k: -cpus[k]):
                if cpus[place] < need:
                    return None
                if _take(devices[place], part):
                    cpus[place] -= need
                    given[number][place] += 1
                    break
            else:
                return None
    return given


def describe_nodes(nodes: Sequence[Node]) -> str:
    """Return `2 nodes of 8 CPUs and 1 GPU, 1 node of 4 CPUs`."""
    if not nodes:
        return "a cluster without CPUs"
    kinds: dict[Node, int] = {}
    for node in nodes:
        kinds[node] = kinds.get(node, 0) + 1
    return ", ".join(
        f"{count} node{'s' * (count > 1)} of {node.cpus:g} CPUs"
        + (f" and {node.gpus:g} GPU{'s' * (node.gpus != 1)}" if node.gpus else "")
        for node, count in sorted(kinds.items(), key=lambda item: (-item[0].gpus, -item[0].cpus))
    )


def _take(devices: list[int], part: int) -> bool:
    """Take a fraction from one device, or whole devices; False where there is not enough."""
    if not part:
        return True
    if part > _GRAIN:
        whole = [k for k, left in enumerate(devices) if left == _GRAIN][: -(-part // _GRAIN)]
        if len(whole) * _GRAIN < part:
            return False
        for k in whole:
            devices[k] = 0
        return True
    fitting = [k for k, left in enumerate(devices) if left >= part]
    if not fitting:
        return False
    # A whole device for most of one; else the fullest with room, as Ray does.
    devices[min(fitting, key=lambda k: devices[k])] -= part
    return True


def _require_gpus(config: Config, wanted: int, gpus: int, gpu: bool, trials: int) -> None:
    least = (config.cluster.min_workers or wanted) * trials
    if gpu and least > gpus:
        what = f"{trials} trials of {least // trials} workers" if trials > 1 else f"{least} workers"
        raise ConfigError(
            f"cluster.workers = {config.cluster.workers}: {what} x 1 GPU = {least} GPUs, the cluster has {gpus}; "
            f"lower cluster.workers, or add --set cluster.gpu=never"
        )


def _generators(config: Config, workers: int, gpu: bool) -> tuple[Claim, ...]:
    count = config.retrieval.generators
    part = _floor(min(GPUS_PER_GENERATOR, GPUS_FOR_GENERATORS / count)) if gpu else 0.0
    return (Claim("triplet generator", workers * count, CPUS_PER_GENERATOR, part),)


def _share(
    stage: str,
    config: Config,
    nodes: Sequence[Node],
    wanted: int,
    number: int,
    gpu: bool,
    others: Sequence[Claim],
    reserve: float,
) -> Resources:
    """Return the resources of each worker of a stage."""
    cluster, total = config.cluster, sum(node.cpus for node in nodes)
    held = sum(claim.count * claim.cpus for claim in others)
    room = min(total * CPUS_FOR_WORKERS, total - reserve - held)
    here = _least_even_share(nodes, number, gpu)
    share = _floor(min(here[0] if here else 0.0, room / number))
    if share < FEWEST_CPUS:
        sums = " + ".join(str(claim) for claim in (Claim("worker", number, FEWEST_CPUS), *others))
        need = number * FEWEST_CPUS + held + reserve
        raise ConfigError(
            f"{stage}: {sums} + {reserve:g} to read = {need:.4g} CPUs, the cluster has {total:g} "
            f"({describe_nodes(nodes)}); lower cluster.workers or store.shards, or add machines"
        )
    busy = config.retrieval.generators if stage == "retrieval" and not gpu else 0
    cores = (cluster.threads or here[1]) if here else 1
    beside = sum(claim.gpus * claim.count for claim in others) / number if gpu else 0.0
    return Resources(
        wanted, share, max(1, cores - busy), gpu, cluster.min_workers,
        gpus_per_worker=1.0 - _ceil(beside),
        gpus_per_generator=next((claim.gpus for claim in others if "generator" in claim.what), 0.0),
    )  # fmt: skip


def _least_even_share(nodes: Sequence[Node], number: int, gpu: bool) -> tuple[float, int] | None:
    """Return the largest share of CPUs for each of `number` workers, and its cores; None where they do not fit."""
    if number < 1:
        return None
    halves = [node.cpus * CPUS_FOR_WORKERS for node in nodes]
    devices = [int(node.gpus) if gpu else number for node in nodes]
    for share in sorted(
        {half / k for half in set(halves) if half for k in range(1, number + 1)}, reverse=True
    ):
        held = [min(int(half / share + 1e-9), most) for half, most in zip(halves, devices, strict=True)]
        if sum(held) >= number:
            cores = min(int(node.cpus // count) for node, count in zip(nodes, held, strict=True) if count)
            return share, max(1, cores)
    return None


def _plan(
    stage: str, claims: tuple[Claim, ...], nodes: Sequence[Node], cpus: float, reserve: float
) -> StagePlan:
    """Return the stage's plan; ConfigError where its claims do not fit on the nodes beside the reserve."""
    used = sum(claim.count * claim.cpus for claim in claims)
    if used + reserve > cpus + 1e-6 or pack(claims, nodes) is None:
        sums = " + ".join(map(str, claims))
        gpus = sum(claim.count * claim.gpus for claim in claims)
        raise ConfigError(
            f"{stage}: {sums} + {reserve:g} to read = {used + reserve:.4g} CPUs"
            + (f" and {gpus:.4g} GPUs" if gpus else "")
            + f" do not fit on {describe_nodes(nodes)}; lower store.shards, "
            "retrieval.generators or cluster.workers, or add machines"
        )
    return StagePlan(
        stage,
        claims,
        round(used, 4),
        round(sum(claim.count * claim.gpus for claim in claims), 4),
        cpus - used,
    )


def _grains(amount: float) -> int:
    return round(amount * _GRAIN)


def _floor(amount: float) -> float:
    return math.floor(amount * _GRAIN + 1e-6) / _GRAIN


def _ceil(amount: float) -> float:
    return math.ceil(amount * _GRAIN - 1e-6) / _GRAIN
