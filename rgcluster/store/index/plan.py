"""Choice of an index for a number of vectors, a memory budget and a recall target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rgcluster.errors import DataError

__all__ = ["IndexKind", "Plan", "choose", "plan_of"]

IndexKind = Literal["exact", "ivf", "hnsw", "ivfpq"]

EXACT_LIMIT = 250_000
"""Up to this many vectors per shard an exact search takes only some milliseconds."""
HNSW_LINKS = 32
CENTROIDS = 256
"""Values of a PQ code's byte."""
ROW_BYTES = 9
"""Size of a row's id and tag."""


@dataclass(frozen=True)
class Plan:
    """A planned index and its expected cost."""

    kind: IndexKind
    vectors: int
    dimension: int
    lists: int = 0
    """Number of IVF cells."""
    code_bytes: int = 0
    """Bytes of a PQ code."""
    recall: float = 1.0
    """Recall that tuning aims at."""

    @property
    def fewest_vectors(self) -> int:
        """Vectors without which the index cannot be trained: one a cell, and one a centroid of a code's byte."""
        return max(self.lists, CENTROIDS if self.kind == "ivfpq" else 0)

    @property
    def bytes_per_vector(self) -> float:
        """Memory of the index and of the ids, without images."""
        raw = 4.0 * self.dimension
        own = {
            "exact": raw + 4,
            "ivf": raw + 8 + raw * self.lists / max(1, self.vectors),
            # 2 M links on the lowest level, and a few on the levels above.
            "hnsw": raw + 4 * (2 * HNSW_LINKS + 2) + 16,
            "ivfpq": self.code_bytes + 8 + raw * self.lists / max(1, self.vectors),
        }[self.kind]
        return own + ROW_BYTES

    @property
    def bytes(self) -> int:
        return int(self.vectors * self.bytes_per_vector)

    @property
    def distances_per_query(self) -> float:
        """Approximate number of comparisons per query, which determines its time."""
        if self.kind == "exact":
            return float(self.vectors)
        if self.kind == "hnsw":
            return HNSW_LINKS * 2 * math.log2(max(2, self.vectors))
        # About 16 cells are visited before the search is tuned; PQ compares with codes, a quarter of the work.
        visited = 16 * self.vectors / self.lists
        return self.lists + visited * (0.25 if self.kind == "ivfpq" else 1.0)

    def describe(self) -> str:
        """Return a one-line description of the plan and its cost."""
        gain = self.vectors / max(1.0, self.distances_per_query)
        cells = f", {self.lists} cells" if self.lists else ""
        codes = f", {self.code_bytes} bytes a code" if self.code_bytes else ""
        faster = "" if self.kind == "exact" else f", about {gain:.0f}x fewer comparisons than exact"
        target = "exact" if self.kind == "exact" else f"recall wanted {self.recall:g}"
        return (
            f"{self.vectors:,} vectors x {self.dimension}: {self.kind}{cells}{codes}, "
            f"{self.bytes / 2**20:,.0f} MiB{faster}; {target}"
        )


def plan_of(kind: IndexKind, vectors: int, dimension: int, recall: float) -> Plan:
    """Return the plan for one kind."""
    if kind in ("exact", "hnsw"):
        return Plan(kind, vectors, dimension, recall=1.0 if kind == "exact" else recall)
    lists = 2 ** max(4, round(math.log2(2 * math.sqrt(max(1, vectors)))))
    return Plan(kind, vectors, dimension, lists, _code_bytes(dimension) if kind == "ivfpq" else 0, recall)


def choose(
    kind: IndexKind | Literal["auto"], vectors: int, dimension: int, memory: int | None, recall: float
) -> Plan:
    """Return the plan for one shard.

    `auto` takes the first index that fits into `memory` bytes: exact if it is fast enough or `recall` is 1, then
    IVF-Flat, then IVF-PQ, whose candidates are ranked by the vectors on disk. DataError if none fits.
    """
    if kind != "auto":
        plan = plan_of(kind, vectors, dimension, recall)
        if vectors < plan.fewest_vectors:
            raise DataError(
                f"store.index = {kind} needs {plan.fewest_vectors} vectors or more, a shard has {vectors}; use exact, "
                "or fewer shards"
            )
        if memory is not None and plan.bytes > memory:
            raise DataError(_does_not_fit(plan, memory))
        return plan
    exact = plan_of("exact", vectors, dimension, recall)
    order = [exact] if vectors <= EXACT_LIMIT or recall >= 1 else []
    if recall < 1 and vectors >= 1000:
        order += [plan_of("ivf", vectors, dimension, recall), plan_of("ivfpq", vectors, dimension, recall)]
    order = order or [exact]
    for plan in order:
        if memory is None or plan.bytes <= memory:
            return plan
    raise DataError(_does_not_fit(order[-1], memory or 0))


def _code_bytes(dimension: int) -> int:
    """Return the largest divisor of the dimension up to a quarter of it: one code byte per four or more numbers."""
    return max(part for part in range(1, max(1, dimension // 4) + 1) if dimension % part == 0)


def _does_not_fit(plan: Plan, memory: int) -> str:
    return (
        f"a shard of {plan.vectors:,} vectors needs {plan.bytes / 2**20:,.0f} MiB as {plan.kind}, "
        f"store.memory_mib allows {memory / 2**20:,.0f}: raise it, or spread the store over more shards"
    )
