"""Cells share what does not depend on what they differ in, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rgcluster.base.storage import Location
from rgcluster.config import load_config
from rgcluster.errors import ConfigError
from rgcluster.pipeline import context
from rgcluster.study.cells import Study

SHARDS: Any = SimpleNamespace(
    splits={"train": 4, "test": 2}, digest="digest", location="memory", faces=None, attributes=()
)


@pytest.fixture
def study(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(
        context,
        "open_source",
        lambda shards, data, split, fraction=1.0, progress=None: (data, split, fraction),
    )
    return Study(Location(tmp_path), load_config("smoke"), SHARDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.fraction", 0.5),
        ("data.crop", 0),
        ("data.image_size", 64),
        ("data.balance", True),
    ],
)
def test_a_cell_with_other_data_opens_its_own_images(study: Study, key: str, value: Any) -> None:
    first, second = study._run({}), study._run({key: value})
    first.source("train")
    opened: Any = second.source("train")
    assert opened[0] == second.config.data and opened[2] == second.config.data.fraction


def test_balanced_cells_share_images_only_if_their_domains_are_the_same(study: Study) -> None:
    cell = {"data.balance": True}
    attributes = {"data.attributes": ["Male", "Young"], "data.exclusive": []}
    assert study._run(cell).source("train") is study._run(cell).source("train")
    other: Any = study._run(cell | attributes).source("train")
    assert other[0].attributes == ("Male", "Young")


def test_cells_that_differ_in_training_alone_share_their_images(study: Study) -> None:
    first, second = study._run({"seed": 1}), study._run({"guidance.steps": 7})
    assert first.source("train") is second.source("train")
    assert first.retrieval_set()["train"] is second.source("train")


def test_runs_that_nothing_could_compare_are_refused_before_they_train(study: Study) -> None:
    study.require_comparable([{"seed": 1}, {"seed": 2}, {"guidance.steps": 7}, {"data.fraction": 0.5}])
    for key, values, apart in (
        ("evaluation.images", (48, 52), "images: 52 and 48"),
        ("data.image_size", (32, 64), "image_size: 64 and 32|classifier"),
    ):
        with pytest.raises(ConfigError, match=f"different protocols \\(({apart}).*give them the same value"):
            study.require_comparable([{key: value} for value in values])
