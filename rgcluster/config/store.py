"""The retrieval store of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rgcluster.config.section import NotInDigest, Section

__all__ = ["StoreConfig"]


class StoreConfig(Section):
    """The retrieval store."""

    shards: int = Field(2, ge=1)
    images: Literal["all", "train"] = "all"
    """What is retrieved: `all` the images but test and val, with labels or without, or those that train."""
    index: Literal["auto", "exact", "ivf", "hnsw", "ivfpq"] = "auto"
    """How a shard searches; `auto` by the number of vectors, `memory_mib` and `recall`."""
    recall: float = Field(0.95, gt=0, le=1, description="what an approximate index is tuned to reach")
    memory_mib: int | None = Field(None, ge=1, description="what a shard's index may take")
    replicas: Annotated[int, NotInDigest] = Field(1, ge=1, description="processes for each shard")
    timeout_s: Annotated[float, NotInDigest] = Field(60.0, gt=0)
