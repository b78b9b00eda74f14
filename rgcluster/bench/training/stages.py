"""`rgcluster bench train`: the three stages as Train workers, and the store's part of guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from rgcluster.base.storage import Location
from rgcluster.bench.result import Row
from rgcluster.bench.training.neighbours import bench_neighbours
from rgcluster.config import Config
from rgcluster.data.shard_writer import ShardOptions, write_shards
from rgcluster.data.sources import read_celeba
from rgcluster.faces import write_faces
from rgcluster.pipeline.run import Pipeline
from rgcluster.train.records.metrics import read_metrics

__all__ = ["bench_stages"]

Progress = Callable[[str], None]


def bench_stages(
    config: Config, folder: Path, steps: int, progress: Progress, seconds: float = math.inf
) -> list[Row]:
    """Train `steps` steps of every stage on drawn faces below `folder`; the first half warms up.

    Guidance is then compared with neighbours in memory, for `seconds` at most.
    """
    count = max(256, 4 * config.translation.batch_size)
    progress(f"drawing {count} faces")
    write_faces(folder / "faces", count, seed=0)
    shards = write_shards(read_celeba(folder / "faces"), Location(folder / "shards"), ShardOptions())
    pipeline = Pipeline(Location(folder / "run"), _short(config, steps), shards)
    pipeline.prepare()
    pipeline.finish("guidance")
    rows = []
    for stage in ("translation", "retrieval", "guidance"):
        line = read_metrics(Location(folder / "run" / stage))[-1]
        rows.append(Row(stage, "speed", line["images_per_second"], "images/s"))
        waits = {name: value for name, value in line.items() if name.startswith("wait_")}
        rows += [
            Row(stage, f"waiting for {name.removeprefix('wait_')}", value / line["seconds_per_step"], "share")
            for name, value in waits.items()
        ]
        rows.append(Row(stage, "memory peak of a worker", line["peak_memory_gib"], "GiB"))
    progress("guidance with its neighbours in memory")
    return rows + bench_neighbours(pipeline, seconds)


def _short(config: Config, steps: int) -> Config:
    """Return the configuration with `steps` steps, and one report over the second half of them."""
    changes = {"steps": steps, "report_every": max(1, steps // 2), "checkpoint_every": 10 * steps}
    stages = {
        name: getattr(config, name).model_copy(update={**changes, "sample_every": 10 * steps})
        for name in ("translation", "retrieval", "guidance")
    }
    stages["guidance"] = stages["guidance"].model_copy(update={"variants": ("rg-unit",)})
    return config.model_copy(update=stages)
