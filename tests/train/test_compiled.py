"""Compiled networks in training, as on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import CPU, random_batch, tiny_config, tiny_discriminator, tiny_translator
from torch import nn
from torch._dynamo.utils import counters

from rgcluster.model.losses import Parts
from rgcluster.train.steps.translator import TranslatorTrainer

RAMP = ("translation.attention_from=1", "translation.attention_full=6", "translation.steps=6")
RECIPE = ("model.own_style=true", "model.skip=true", "translation.loss.mask_in=translation")
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
    config = tiny_config(*RAMP, *RECIPE, *PENALTY)
    trainer = TranslatorTrainer(
        tiny_translator(config), tiny_discriminator(config), config, config.translation,
        replace(CPU, compiles=compiled), 1,
    )  # fmt: skip
    for step in range(6):
        yield trainer.update(step, random_batch(config, seed=step))


def test_compiled_networks_train_as_uncompiled_ones_and_are_not_compiled_at_every_step() -> None:
    expected = list(trained(compiled=False))
    assert expected[0]["d_penalty"] > 0 and expected[4]["d_penalty"] > 0
    graphs = []
    for one, other in zip(expected, trained(compiled=True), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    # The strength of the mask is another number at each of the steps 1 to 4, of which 4 is penalised.
    assert graphs[1] == graphs[2] == graphs[3] == graphs[4]
    # E_c, E_s: of images and of translations. D: while it learns and while it judges. G: translation, reconstruction
    # and cycle, then translation with a mask that comes into force, and with one in force.
    assert graphs[5] <= 11
