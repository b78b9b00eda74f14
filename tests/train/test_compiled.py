"""Compiled networks in training, as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import CPU, random_batch, tiny_config, tiny_discriminator, tiny_translator
from torch import nn
from torch._dynamo import config
from torch._dynamo.utils import counters

from rgcluster.model.losses import Parts
from rgcluster.train.steps.translator import TranslatorTrainer

RAMP = ("translation.attention_from=1", "translation.attention_full=6", "translation.steps=6")
RECIPE = ("model.own_style=true", "model.skip=true", "model.fill=true")
PENALTY = ("translation.loss.gradient_penalty=0.3", "translation.loss.gradient_penalty_every=4")


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace and differentiate the networks as on a GPU, and let torch's own kernels compute the graphs."""
    compile_ = nn.Module.compile

    def quick(self: nn.Module, **options: Any) -> None:
        compile_(self, dynamic=options["dynamic"], backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", quick)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def trained(*, compiled: bool) -> Iterator[Parts]:
    settings = tiny_config(*RAMP, *RECIPE, *PENALTY)
    trainer = TranslatorTrainer(
        tiny_translator(settings), tiny_discriminator(settings), settings, settings.translation,
        replace(CPU, compiles=compiled), 1,
    )  # fmt: skip
    for step in range(6):
        yield trainer.update(step, random_batch(settings, seed=step))


def test_compiled_networks_train_as_uncompiled_ones_and_are_not_compiled_at_every_step() -> None:
    expected = list(trained(compiled=False))
    assert expected[0]["d_penalty"] > 0 and expected[4]["d_penalty"] > 0
    graphs = []
    with config.patch(fail_on_recompile_limit_hit=True):
        for one, other in zip(expected, trained(compiled=True), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
            graphs.append(counters["stats"]["unique_graphs"])
    # E_c, E_s: of images and of translations. G: translation, reconstruction and cycle without a mask, then with one.
    # D: while it judges and, from the first step without a penalty on, while it learns.
    assert graphs[0] == 2 + 2 + 3 + 1
    # The strength of the mask is another number at each of the steps 1 to 5, of which 4 is penalised.
    assert graphs[1:] == [2 + 2 + 6 + 2] * 5
