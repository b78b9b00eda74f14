"""Files of weights: their tensors, or one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from rgcluster.base.weights import Weights, load_state
from rgcluster.errors import CheckpointError

STATE = {"weight": torch.arange(1000.0)}


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


OLD = saved(STATE, _use_new_zipfile_serialization=False)
"""The format of the published files of some weights, whose pickle lies bare."""


def load(content: bytes) -> dict[str, torch.Tensor]:
    return load_state(Weights("resnet50", Path("some/resnet50.pth"), "", False), content)


@pytest.mark.parametrize("content", [saved(STATE), OLD], ids=["new", "old"])
def test_tensors_are_returned(content: bytes) -> None:
    assert torch.equal(load(content)["weight"], STATE["weight"])


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1", saved(STATE)[:800], OLD[:300],
        OLD.replace(b"storage", b"st\xffrage"), OLD.replace(b"weight", b"w"),
        saved([1, 2, 3]), saved(STATE["weight"]), saved({"state_dict": STATE, "epoch": 3}),
    ],
    ids=["empty", "page", "pointer", "cut", "old cut", "letters", "shorter", "list", "tensor", "nested"],
)  # fmt: skip
def test_anything_else_is_one_line(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^some/resnet50.pth is damaged, or holds more than weights$"):
        load(content)
