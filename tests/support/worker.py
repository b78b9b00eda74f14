"""One of several workers of `test_workers.py`: python worker.py DIRECTORY WORLD RANK (stall | OVERRIDES...)."""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed
from stages import STAGES, Studio, one_step
from tiny import CPU

from rgcluster.base.checkpoint.tree import save_tree
from rgcluster.base.storage import Location
from rgcluster.config import TranslationConfig
from rgcluster.errors import CollectiveStalled
from rgcluster.train.guards import explained
from rgcluster.train.stage import Worker
from rgcluster.train.workers import from_first, mean_over_workers


def main(directory: Path, world: int, rank: int, words: list[str]) -> None:
    torch.set_num_threads(1)
    stall = words == ["stall"]
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{directory}/rendezvous",
        world_size=world,
        rank=rank,
        timeout=datetime.timedelta(seconds=2 if stall else 60),
    )
    if stall:
        wait_for_nobody(directory, rank)
        return
    with pytest.MonkeyPatch.context() as patch:
        studio = Studio(directory / f"rank-{rank}", patch, *words)
        for stage in STAGES:
            subject = studio.stage(stage, rank=rank, world=world)
            torch.save(one_step(subject), directory / f"{stage}-{rank}.pt")
            assert from_first(None, subject.worker) is None
            found = from_first((7, subject.state()) if rank == 0 else None, subject.worker)
            assert found is not None and found[0] == 7
            save_tree(Location(directory / f"{stage}-state-{rank}"), found[1], {})
    torch.distributed.destroy_process_group()


def wait_for_nobody(directory: Path, rank: int) -> None:
    if rank:
        time.sleep(6)
        return
    try:
        with explained("translation", TranslationConfig(), 2):
            mean_over_workers(torch.ones(3), Worker(0, 2, CPU))
    except CollectiveStalled as error:
        (directory / "stalled.json").write_text(
            json.dumps({"type": type(error).__name__, "text": str(error)})
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
