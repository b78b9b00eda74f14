"""A model of larger clusters: step time, network and store by arithmetic (explained in docs/scale.md).

Counted and measured figures are constants with their source. Assumed figures are fields of `Site`, to be replaced
by your own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rgcluster.data.index import ROWS_PER_GROUP
from rgcluster.data.order import LANES, WINDOW_GROUPS
from rgcluster.store.index.plan import IndexKind, plan_of

__all__ = [
    "GUIDANCE", "NEAREST_ONLY", "PARAMETERS", "TRANSLATION", "Index", "Search", "Site", "Step", "Work", "index",
    "reading", "search", "step", "tables",
]  # fmt: skip

PARAMETERS = {
    "E_c": 5_385_856, "E_s": 2_783_440, "G": 6_935_620, "D": 2_920_902, "R": 2_331_184, "f": 1_887_168,
}  # fmt: skip
"""Counted: the networks of `celeba128`."""

GFLOP = {"step": 284.3, "continued": 179.2, "guided": 230.9, "E_c": 12.12, "E_s": 3.13, "R": 0.155}
"""Counted by torch with direct convolutions, an image at 128 px: steps of stages 1 and 3, passes of encoders."""

IMAGE_BYTES = 128 * 128 * 3
JPEG_BYTES = 6_000
"""Measured: a prepared JPEG of 128 px (docs/data.md)."""
JPEG_PER_CORE = 1.6 * 1350 / 2
"""Measured: prepared JPEGs to batches, images a second and core (docs/performance.md)."""
SHARDED_PER_CORE = 2050 / 2
"""Measured: JPEG files to shards, images a second and core (docs/performance.md)."""
COMPARISON = 2 * 262e-3 / (32 * 2_000_000)
"""Measured: seconds of a core to compare a query with a vector exactly (docs/store.md)."""
CELLS_QUERY = 0.22e-3
"""Measured: seconds of a core for a query to a shard of a million vectors in cells (docs/store.md)."""
ROW_BYTES = 8 + 40 + 8 + 8 + 10 + 8 / 64
"""Counted: the index of a training row on disk: id, 40 labels, place, end of the file name, the name, its row group."""
LISTING = 0.3e-8
"""Measured: seconds to list an epoch's windows, a row (`rgcluster bench data --rows`)."""

DIMENSION = 148
"""Counted: the numbers of an embedding of `celeba128`, its colours among them."""
MEASURED_DIMENSION = 100
"""That of the searches that were measured."""

NEIGHBOURS = 3
QUERIES = 1
"""Queries of an image in stage 3: reconstruction and cycle look at the images themselves."""
OWN = 1
"""Images that are encoded again: the moved image, which guides reconstruction and cycle."""


@dataclass(frozen=True)
class Site:
    """Assumptions about a cluster; none of them was measured."""

    flops: float = 1e14
    """FLOP/s of a GPU in a step, counted for direct convolutions."""
    gpus_per_node: int = 8
    gpu_bandwidth: float = 200e9
    """Bytes a second between GPUs of a node."""
    node_bandwidth: float = 25e9
    """Bytes a second of a node's network."""
    cores_per_node: int = 96


@dataclass(frozen=True)
class Work:
    """Work of a stage for each image, and the parameters that it averages over the workers."""

    name: str
    gflop: float
    parameters: int
    queries: int = 0
    """Queries to the store for each image."""
    fetched: int = 0
    """Neighbours' images fetched for each image."""


def _guidance(name: str, unguided: int, guided: int) -> Work:
    """Stage 3 with these numbers of variants without and with neighbours."""
    neighbours = QUERIES * NEIGHBOURS
    encoded = neighbours + OWN
    prepare = GFLOP["E_c"] + GFLOP["E_s"] + QUERIES * GFLOP["R"]
    gflop = (
        prepare
        + unguided * GFLOP["continued"]
        + guided * (GFLOP["guided"] + encoded * GFLOP["E_c"])
    )  # fmt: skip
    synced = (unguided + guided) * (PARAMETERS["G"] + PARAMETERS["D"]) + guided * PARAMETERS["f"]
    return Work(name, gflop, synced, QUERIES, guided * neighbours)


TRANSLATION = Work("stage 1", GFLOP["step"], sum(PARAMETERS[name] for name in ("E_c", "E_s", "G", "D")))
GUIDANCE = _guidance("stage 3, three variants", 1, 2)
NEAREST_ONLY = _guidance("stage 3, `rg-unit` alone", 0, 1)


@dataclass(frozen=True)
class Step:
    """A training step of a stage on a cluster."""

    seconds: float
    compute: float
    all_reduce: float
    images_per_second: float
    """Over all GPUs."""
    bytes_read: float
    """Bytes of prepared JPEGs a second and node."""
    cores: float
    """Cores a node that decode them."""


def step(work: Work, gpus: int, batch: int = 32, site: Site | None = None) -> Step:
    """Return a step of `batch` images a GPU; no communication overlaps with computation."""
    site = site or Site()
    inside, nodes = min(gpus, site.gpus_per_node), math.ceil(gpus / site.gpus_per_node)
    compute = batch * work.gflop * 1e9 / site.flops
    size = 4 * work.parameters
    all_reduce = _ring(inside) * size / site.gpu_bandwidth + _ring(nodes) * size / site.node_bandwidth
    seconds = compute + all_reduce
    rate = gpus * batch / seconds
    read = rate / nodes * JPEG_BYTES * reading(gpus, batch)
    return Step(seconds, compute, all_reduce, rate, read, rate / nodes / JPEG_PER_CORE)


def reading(gpus: int, batch: int) -> float:
    """Return row groups read over row groups needed, at most: each rank shares one of a window with its neighbour."""
    return 1 + max(1 / batch, gpus / LANES)


def _ring(members: int) -> float:
    """Return how many times each member of a ring all-reduce sends the data."""
    return 2 * (members - 1) / members


@dataclass(frozen=True)
class Index:
    """The index of many rows on a machine."""

    disk: float
    """Bytes of the files that all processes map."""
    private: float
    """Bytes of a process's own: where an epoch's windows begin."""
    listing: float
    """Seconds of a process to list the windows of an epoch."""


def index(images: float) -> Index:
    """Return what the index of `images` rows costs."""
    return Index(images * ROW_BYTES, 8 * images / (WINDOW_GROUPS * ROWS_PER_GROUP), images * LISTING)


@dataclass(frozen=True)
class Search:
    """Costs of a store of many images."""

    memory: float
    """Bytes of all indexes."""
    seconds: float
    """Core seconds for a query, which searches every shard; for `ivfpq` an upper bound, without reading from disk."""


def search(
    kind: IndexKind, images: float, shards: int, dimension: int = DIMENSION, recall: float = 0.95
) -> Search:
    """Return the memory of `images` vectors in `shards` shards, and the cost of a query."""
    plan = plan_of(kind, int(images / shards), dimension, recall)
    if kind == "exact":
        seconds = images * COMPARISON
    else:
        seconds = shards * CELLS_QUERY * math.sqrt(images / shards / 1e6)
    return Search(shards * plan.bytes, seconds * dimension / MEASURED_DIMENSION)


STORES: tuple[tuple[float, IndexKind, int], ...] = (
    (2e5, "exact", 4), (1e7, "ivf", 2), (1e8, "ivf", 4), (1e9, "ivf", 40), (1e9, "ivfpq", 8),
)  # fmt: skip
"""Images, index and shards of the stores in docs/scale.md."""


def tables(site: Site | None = None) -> list[str]:
    """Return the tables of docs/scale.md as Markdown."""
    site = site or Site()
    return [_steps(site), _indexes(), _stores(), _loads(site)]


def _steps(site: Site) -> str:
    rows = []
    for work in (TRANSLATION, GUIDANCE, NEAREST_ONLY):
        for gpus in (8, 64, 512):
            made = step(work, gpus, site=site)
            rows.append(
                (
                    work.name, f"{gpus}", f"{made.compute * 1e3:.0f} ms", f"{made.all_reduce * 1e3:.1f} ms",
                    f"{made.compute / made.seconds:.0%}", f"{made.images_per_second:,.0f}",
                    f"{1e9 / made.images_per_second / 3600:,.1f} h", f"{made.bytes_read / 1e6:.0f} MB/s",
                    f"{made.cores:.1f}",
                )
            )  # fmt: skip
    return _markdown(
        (
            "stage", "GPUs", "compute", "all-reduce", "of the step compute", "images/s", "10^9 images", "read, a node",
            "cores, a node",
        ),
        rows,
    )  # fmt: skip


def _indexes() -> str:
    rows = []
    for images in (1e7, 1e8, 1e9):
        made = index(images)
        rows.append(
            (
                f"{images:,.0f}", f"{made.disk / 1e9:,.1f} GB", f"{made.private / 1e6:,.1f} MB",
                f"{made.listing:,.2f} s",
            )
        )  # fmt: skip
    return _markdown(("images", "index, a machine", "windows, a process", "to list them, an epoch"), rows)


def _stores() -> str:
    rows = []
    for images, kind, shards in STORES:
        made = search(kind, images, shards)
        disk = images * (IMAGE_BYTES + 4 * DIMENSION)
        rows.append(
            (
                f"{images:,.0f}", kind, f"{shards}", f"{made.memory / 1e9:,.1f} GB", f"{disk / 1e12:,.2f} TB",
                f"{made.seconds * 1e3:.1f} ms",
            )
        )  # fmt: skip
    return _markdown(("images", "index", "shards", "memory of indexes", "on disk", "core time a query"), rows)


def _loads(site: Site) -> str:
    rows = []
    for gpus in (8, 64, 512):
        rate = step(NEAREST_ONLY, gpus, site=site).images_per_second
        nodes = math.ceil(gpus / site.gpus_per_node)
        cores = [
            rate * QUERIES * search(kind, images, shards).seconds
            for images, kind, shards in (STORES[0], *STORES[2:])
        ]
        rows.append(
            (
                f"{gpus}", f"{rate * QUERIES:,.0f}", f"{rate * NEAREST_ONLY.fetched * IMAGE_BYTES / 1e9:,.1f} GB/s",
                *(f"{count:,.0f}" for count in cores), f"{nodes * site.cores_per_node:,}",
            )
        )  # fmt: skip
    return _markdown(
        (
            "GPUs", "queries/s", "images fetched", "cores: 200,000 exact", "10^8 ivf", "10^9 ivf", "10^9 ivfpq",
            "cores of the GPUs' nodes",
        ),
        rows,
    )  # fmt: skip


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
