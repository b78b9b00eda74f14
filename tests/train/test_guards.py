"""Training that went wrong stops and says so: losses out of bounds, memory, stalled collectives, storage."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch
from stages import STAGES, MemorySource, Studio

from rgcluster.base.checkpoint.tree import load_tree
from rgcluster.base.storage import Location
from rgcluster.config import GuidanceConfig, TranslationConfig
from rgcluster.errors import OutOfMemory, StorageError, TrainingDiverged
from rgcluster.train.guards import explained, is_out_of_memory, memory_advice
from rgcluster.train.loop import train_stage
from rgcluster.train.preflight import check_storage


@pytest.mark.parametrize(
    ("poison", "limit", "words"),
    [
        (float("nan"), 1e6, "is nan in step 7, on"),
        (500.0, 400.0, r"is 5\d\d.* in step 7 \(loss_limit is 400\), on"),
    ],
)
def test_a_loss_out_of_bounds_names_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float, limit: float, words: str
) -> None:
    studio = Studio(tmp_path, monkeypatch)
    settings = {"steps": 20, "report_every": 5, "checkpoint_every": 5, "loss_limit": limit}
    subject = studio.stage("translation", **settings)
    take_step = subject.step

    def step(number: int, item: Any) -> Any:
        parts = take_step(number, item)
        return {**parts, "cycle": parts["cycle"] + poison} if number == 6 else parts

    subject.step = step  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match=f"translation: loss cycle {words}") as raised:
        train_stage(subject)
    found = json.loads((tmp_path / "run" / "translation" / "divergence" / "report.json").read_text())
    rows = studio.source.order(studio.config.seed, 8).rows(6 * 8, 7 * 8)
    assert [image["row_id"] for image in found["batch"]] == studio.source.index.row_ids[rows].tolist()
    assert found["step"] == 7 and found["loss"] == "cycle" and len(found["losses"]["total"]) == 5
    assert found["batch"][0]["file_name"] in str(raised.value) and "learning_rate than 0.0004" in str(
        raised.value
    )
    state, manifest = load_tree(Location(tmp_path / "run" / "translation" / "divergence" / "state"))
    assert manifest["step"] == 10 and "generator_optimizer" in state
    # The last checkpoint is from before.
    assert (tmp_path / "run" / "translation" / "checkpoints" / "step-00000005" / "manifest.json").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_knows_the_images_of_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """A divergence names them; stage 3 reads in an order of its own."""
    seen: list[list[int]] = []

    class Seeing(MemorySource):
        def images(self, rows: Any) -> Any:
            seen.append(rows.tolist())
            return super().images(rows)

    studio = Studio(tmp_path, monkeypatch)
    studio.source = Seeing(
        **{field.name: getattr(studio.source, field.name) for field in fields(MemorySource)}
    )
    subject = studio.stage(stage)
    inputs = subject.inputs(0, 3)
    for step in range(3):
        next(inputs)
        assert subject.rows_of(step).tolist() in seen, step


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."
        ),
    ],
)
def test_errors_for_lack_of_memory_name_what_to_lower(error: Exception) -> None:
    with pytest.raises(
        OutOfMemory, match="batch_size 16 in 2 pieces .*--set translation.accumulate=4 .*lower"
    ):
        with explained("translation", TranslationConfig(batch_size=16, accumulate=2), 600):
            raise error


def test_advice_on_memory_is_possible() -> None:
    assert memory_advice("translation", TranslationConfig(batch_size=1)).endswith(
        "; or lower data.image_size"
    )
    whole = memory_advice("guidance", GuidanceConfig(batch_size=4, accumulate=4))
    assert "accumulate=8" not in whole and "use more workers" in whole and "guidance.variants" in whole


def test_a_real_allocation_that_is_too_large_is_recognised() -> None:
    with pytest.raises(OutOfMemory), explained("translation", TranslationConfig(), 600):
        torch.empty(1 << 50)


def test_a_worker_that_ray_ended_for_lack_of_memory_is_recognised() -> None:
    error = RuntimeError("Training failed due to worker errors")
    error.__cause__ = ray.exceptions.OutOfMemoryError(
        "Task was killed due to the node running low on memory."
    )
    assert is_out_of_memory(error) and not is_out_of_memory(RuntimeError("no memory of that"))


def test_other_errors_pass() -> None:
    with (
        pytest.raises(RuntimeError, match="^shapes differ$"),
        explained("translation", TranslationConfig(), 600),
    ):
        raise RuntimeError("shapes differ")


def test_storage_that_cannot_be_written_is_refused(tmp_path: Path, ray_session: None) -> None:
    check_storage(Location(tmp_path / "run"))
    assert not list(tmp_path.iterdir())  # a look leaves nothing behind
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="this machine cannot write there .*every machine shares"):
        check_storage(Location(tmp_path / "file" / "run"))
