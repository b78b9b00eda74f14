"""Several workers do what one does: gradients averaged by real collectives between real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import SUPPORT
from stages import STAGES, Studio, one_step
from torch import Tensor

from rgcluster.base.checkpoint.tree import TENSORS

SMALL = ("guidance.variants=[rg-unit]", "model.retrieval_colours=2")
PASTED = (
    "guidance.variants=[gmm-unit-continued,rg-unit]",
    *(
        f"{stage}.loss.{key}"
        for stage in ("translation", "guidance")
        for key in ("cycle_form=back-translation", "pasted=0.5")
    ),
)
"""What is pasted without retrieval comes from another row of the batch, which may lie in another piece or worker."""


def require_same(found: tuple[dict[str, float], dict[str, Tensor]], whole: Any) -> None:
    losses, gradients = found
    assert losses == pytest.approx(whole[0], rel=1e-4, abs=1e-5)
    assert gradients.keys() == whole[1].keys() and len(gradients) > 10
    for name, value in whole[1].items():
        scale = max(float(value.abs().max()), 1e-2)  # before a norm, a bias has none but rounding's
        # Norms over few places amplify rounding, on some processors to a few thousandths.
        assert (gradients[name] - value).abs().max() < 1e-2 * scale, name


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [*((stage, SMALL) for stage in STAGES), ("translation", PASTED), ("guidance", PASTED)],
)
def test_a_batch_in_pieces_is_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, overrides: tuple[str, ...]
) -> None:
    studio = Studio(tmp_path, monkeypatch, *overrides)
    whole = one_step(studio.stage(stage))
    for pieces in (2, 3):  # of 8 rows: 4 and 4; 3, 3 and 2
        require_same(one_step(studio.stage(stage, accumulate=pieces)), whole)


@pytest.mark.parametrize(("batch", "world", "overrides"), [(32, 2, SMALL), (9, 2, SMALL), (9, 2, PASTED)])
def test_two_workers_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, world: int, overrides: tuple[str, ...]
) -> None:
    """2 x 16 rows are 1 x 32; 4 and 5 rows are 9, too."""
    overrides = (*overrides, *(f"{stage}.batch_size={batch}" for stage in STAGES))
    studio = Studio(tmp_path, monkeypatch, *overrides)
    line = [sys.executable, str(SUPPORT / "worker.py"), str(tmp_path), str(world)]
    workers = [subprocess.Popen([*line, str(rank), *overrides], cwd=SUPPORT) for rank in range(world)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * world
    for stage in STAGES:
        whole = one_step(studio.stage(stage))
        found = [torch.load(tmp_path / f"{stage}-{rank}.pt", weights_only=True) for rank in range(world)]
        losses = {name: sum(part[0][name] for part in found) / world for name in whole[0]}
        for _, gradients in found[1:]:
            assert all(torch.equal(gradients[name], found[0][1][name]) for name in gradients)
        require_same((losses, found[0][1]), whole)
        states = [(tmp_path / f"{stage}-state-{rank}" / TENSORS).read_bytes() for rank in range(world)]
        assert states == states[:1] * world and len(states[0]) > 10_000


def test_a_stalled_collective_ends_with_a_message(tmp_path: Path) -> None:
    """One worker never comes: the other gives up after its time, and says what it waited for."""
    line = [sys.executable, str(SUPPORT / "worker.py"), str(tmp_path), "2"]
    workers = [subprocess.Popen([*line, rank, "stall"], cwd=SUPPORT) for rank in ("0", "1")]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    message = json.loads((tmp_path / "stalled.json").read_text())
    assert message["type"] == "CollectiveStalled"
    assert (
        "waited 2 s for the others" in message["text"] and "cluster.collective_timeout_s" in message["text"]
    )
