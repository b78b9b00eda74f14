"""One translator in training: its nets, D, optimisers and EMA, and the step that updates them all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rgcluster.checkpoint import load_module
from rgcluster.config import Config, GuidanceConfig, TranslationConfig
from rgcluster.inference.device import Device
from rgcluster.model.losses import Parts, adversarial_loss, discriminator_loss, domain_loss, weighted_sum
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Batch, Guide, TranslationObjective, Translator, update_ema
from rgcluster.train.optimizer import Optimizer

__all__ = ["TranslatorTrainer", "distribute"]


def distribute(module: nn.Module, world: int, device: Device) -> nn.Module:
    """Wrap `module` so that its gradients are averaged over the workers."""
    if world == 1:
        return module
    ids = [device.torch.index] if device.torch.type == "cuda" else None
    return DistributedDataParallel(
        module, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False
    )


class TranslatorTrainer:
    """Trains E_c, E_s, G (stage 1), or G and f with frozen encoders (stage 3), against D."""

    def __init__(
        self,
        translator: Translator,
        discriminator: Discriminator,
        config: Config,
        stage: TranslationConfig | GuidanceConfig,
        device: Device,
        world: int,
        perceptual: nn.Module | None = None,
    ) -> None:
        self.config, self.stage, self.device = config, stage, device
        layout = {"device": device.torch, "memory_format": device.layout}
        self.translator = translator.to(**layout)  # type: ignore[call-overload]
        self.discriminator = discriminator.to(**layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.translator).eval().requires_grad_(False)
        objective = TranslationObjective(self.translator, config, stage.loss, perceptual)
        self._objective = distribute(objective, world, device)
        self._judge = distribute(self.discriminator, world, device)
        self._generator_optimizer = Optimizer(self.translator.parameters(), stage.optimizer)
        self._discriminator_optimizer = Optimizer(self.discriminator.parameters(), stage.optimizer)

    def update(self, step: int, batch: Batch, guide: Guide | None = None) -> Parts:
        """Update D, then the translator, on one fake; return the detached parts of both losses."""
        loss, kind = self.stage.loss, self.config.data.domains
        with self.device.autocast():
            translated, parts = self._objective(batch, guide, self.attention(step))
            judged, judge_parts = discriminator_loss(
                self._judge, batch.image, translated, batch.domain, loss, kind
            )
        self._discriminator_optimizer.zero_grad()
        judged.backward()
        self._discriminator_optimizer.step(step)

        with self.device.autocast(), _frozen(self.discriminator):
            scores, logits = self.discriminator(translated)
            parts["adversarial"] = adversarial_loss(scores, real=True, config=loss)
            parts["domain"] = domain_loss(logits, batch.target, kind)
            total = weighted_sum(parts, loss)
        self._generator_optimizer.zero_grad()
        total.backward()
        self._generator_optimizer.step(step)
        update_ema(self.average, self.translator, self.stage.ema)
        return {name: value.detach() for name, value in {"total": total, **parts, **judge_parts}.items()}

    def attention(self, step: int) -> float:
        """Return how far the mask is in force at `step`: a ramp in stage 1, fully in stage 3."""
        if not isinstance(self.stage, TranslationConfig):
            return 1.0
        first, full = self.stage.attention_from, max(self.stage.attention_full, self.stage.attention_from + 1)
        return min(1.0, max(0.0, (step + 1 - first) / (full - first)))

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "translator": dict(self.translator.state_dict()),
            "average": dict(self.average.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "generator_optimizer": self._generator_optimizer.state(),
            "discriminator_optimizer": self._discriminator_optimizer.state(),
        }

    def load(self, state: dict[str, Any], source: str) -> None:
        load_module(self.translator, state["translator"], source)
        load_module(self.average, state["average"], source)
        load_module(self.discriminator, state["discriminator"], source)
        self._generator_optimizer.load(state["generator_optimizer"])
        self._discriminator_optimizer.load(state["discriminator_optimizer"])


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients through the network, not into it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def mean_over_workers(values: Tensor, world: int) -> Tensor:
    """Return the mean of `values` over all workers."""
    if world > 1:
        torch.distributed.all_reduce(values)
        values = values / world
    return values
