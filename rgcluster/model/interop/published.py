"""The authors' published 2021 weights, under the names of this project's networks (preset `released-2021`)."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.errors import CheckpointError, DataError
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Translator

__all__ = ["load_published_discriminator", "load_published_generator", "read_published"]

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Slot:
    """The destination of a published tensor: a parameter, or a range of its first dimension."""

    name: str
    start: int = 0
    stop: int | None = None


def read_published(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that torch saved, without unpickling anything else.

    DataError where there is no file, CheckpointError where it holds more than a plain state dict.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise CheckpointError(f"{path}: damaged, or holds more than weights; nothing was loaded") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: not a plain state dict of tensors; nothing was loaded")
    return dict(state)


def load_published_generator(state: State, config: Config, source: str) -> Translator:
    """Return the translator with the weights of a published generator; CheckpointError names what does not fit."""
    translator = Translator(config)
    _fill(translator, state, _generator_slots(config), source, ignored=r"dec\..*\.norm\.running_(mean|var)")
    return translator


def load_published_discriminator(state: State, config: Config, source: str) -> Discriminator:
    """Return D with the weights of a published discriminator; CheckpointError names what does not fit."""
    discriminator = Discriminator(config)
    _fill(discriminator, state, _discriminator_slots(config), source)
    return discriminator


def _generator_slots(config: Config) -> dict[str, _Slot]:
    model, dim = config.model, config.model.style_dim
    pairs = {f"enc_content.model.{k}.conv": f"content_encoder.layers.{k}.conv" for k in range(3)}
    for block in range(model.num_residual_blocks):
        for place, name in enumerate(("first", "second")):
            theirs = f"model.{block}.model.{place}.conv"
            pairs[f"enc_content.model.3.{theirs}"] = f"content_encoder.layers.{3 + block}.{name}.conv"
            pairs[f"dec.model.0.{theirs}"] = f"generator.blocks.{block}.{name}"
    pairs |= {f"enc_style.model.{k}.conv": f"style_encoder.layers.{k}.conv" for k in range(5)}
    pairs |= {f"dec.model.{2 + 2 * k}.conv": f"generator.decoder.{3 * k}.conv" for k in range(2)}
    pairs |= {f"mlp.model.{k}.fc": f"generator.style_mlp.{2 * k}" for k in range(3)}
    slots = _both(pairs)
    for k in range(2):
        norm = f"generator.decoder.{3 * k + 1}"
        slots |= {
            f"dec.model.{2 + 2 * k}.norm.gamma": _Slot(f"{norm}.weight"),
            f"dec.model.{2 + 2 * k}.norm.beta": _Slot(f"{norm}.bias"),
        }
    for k in range(config.num_attributes):
        for theirs, ours in (("fcs", "mean"), ("fcvars", "log_variance")):
            for part in ("weight", "bias"):
                slots[f"enc_style.{theirs}.{k}.{part}"] = _Slot(
                    f"style_encoder.{ours}.{part}", k * dim, (k + 1) * dim
                )
    for part in ("weight", "bias"):
        slots[f"dec.content.conv.{part}"] = _Slot(f"generator.heads.{part}", 0, 3)
        slots[f"dec.attention.conv.{part}"] = _Slot(f"generator.heads.{part}", 3, 4)
    return slots


def _discriminator_slots(config: Config) -> dict[str, _Slot]:
    pairs: dict[str, str] = {}
    for scale in range(config.model.discriminator_scales):
        ours = f"scales.{scale}." if config.model.discriminator_scales > 1 else ""
        for layer in range(config.model.discriminator_layers):
            pairs[f"cnns_feat.{scale}.{layer}.conv"] = f"{ours}layers.{layer}.conv"
        pairs[f"cnns_src.{scale}"] = f"{ours}source"
        pairs[f"cnns_cls.{scale}"] = f"{ours}domain"
    slots = _both(pairs)
    if not config.model.class_bias:
        slots = {name: slot for name, slot in slots.items() if not slot.name.endswith("domain.bias")}
    return slots


def _both(pairs: Mapping[str, str]) -> dict[str, _Slot]:
    return {
        f"{old}.{part}": _Slot(f"{new}.{part}") for old, new in pairs.items() for part in ("weight", "bias")
    }


@torch.no_grad()
def _fill(
    network: nn.Module, state: State, slots: Mapping[str, _Slot], source: str, ignored: str = ""
) -> None:
    """Copy all tensors into their slots, or none."""
    known = {name for name in state if not (ignored and re.fullmatch(ignored, name))}
    for name in sorted(set(slots) - known)[:1]:
        raise CheckpointError(
            f"{source}: lacks {name!r}; not a published 2021 network, or not this part of one"
        )
    for name in sorted(known - set(slots))[:1]:
        raise CheckpointError(
            f"{source}: has an unknown {name!r}; not a published 2021 network, or not this part of one"
        )
    own = dict(network.named_parameters())
    targets = {name: own[slot.name][slot.start : slot.stop] for name, slot in slots.items()}
    for name, target in targets.items():
        if state[name].shape != target.shape:
            raise CheckpointError(
                f"{source}: {name} is {list(state[name].shape)}, the configuration needs {list(target.shape)}"
            )
    for name, target in targets.items():
        target.copy_(state[name])
    filled = {slot.name for slot in slots.values()}
    assert filled == set(own), sorted(set(own) - filled)
