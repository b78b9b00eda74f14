"""Precision and memory formats that a worker picks for the hardware it finds."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_config, tiny_discriminator, tiny_translator

from rgcluster.config import ClusterConfig
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.device import pick_device


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "precision", "bf16"),
    [
        (True, False, "auto", True),
        (False, True, "auto", True),
        (False, False, "auto", False),
        (True, True, "fp32", False),
        (False, False, "bf16", True),
    ],
)
def test_bf16_is_used_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool, precision: str, bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert pick_device(ClusterConfig(precision=precision), gpu=False).bf16 == bf16  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "without_norms", "with_norms"),
    [
        ("auto", torch.channels_last, torch.contiguous_format),
        ("contiguous", torch.contiguous_format, torch.contiguous_format),
        ("channels-last", torch.channels_last, torch.channels_last),
    ],
)
def test_networks_without_norms_are_channels_last(
    layout: str, without_norms: torch.memory_format, with_norms: torch.memory_format
) -> None:
    config = tiny_config()
    device = pick_device(ClusterConfig(layout=layout), gpu=False)  # type: ignore[arg-type]
    translator, discriminator = tiny_translator(config), tiny_discriminator(config)
    TranslatorTrainer(translator, discriminator, config, config.translation, device, 1)

    def formats(module: torch.nn.Module) -> set[bool]:
        weights = [weight for weight in module.parameters() if weight.dim() == 4 and weight[0].numel() > 64]
        return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}

    last = torch.channels_last
    assert formats(discriminator) == formats(translator.style_encoder) == {without_norms is last}
    assert formats(translator.generator) == {with_norms is last}
