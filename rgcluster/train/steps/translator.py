"""A translator in training: its networks, D, optimisers and EMA, and the step that updates them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rgcluster.base.checkpoint.tree import load_module
from rgcluster.base.cluster.internals import uncompiled
from rgcluster.config import Config, GuidanceConfig, LossConfig, TranslationConfig
from rgcluster.model.losses import (
    Parts,
    conditional_scores,
    discriminator_loss,
    domain_loss,
    generator_adversarial_loss,
    is_penalised,
    weighted_sum,
)
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Batch, Guide, TranslationObjective, Translator, closest, update_ema
from rgcluster.train.steps.optimizer import Optimizer
from rgcluster.train.workers import distribute, rows_of_all, synchronised
from rgcluster.translate.device import Device

__all__ = ["Piece", "Sums", "TranslatorTrainer", "weighted"]


class Piece(NamedTuple):
    """A part of a step's batch that is computed at once; `share` is the weight of its losses (`Stage.pieces`)."""

    batch: Batch
    guide: Guide | None
    share: float


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
        self._kind, self._world = config.data.domains, world
        self._class_weights = _class_weights(config, stage.loss, device)
        self.translator, self.discriminator = translator, discriminator
        device.lay_out(translator, translator.style_encoder, discriminator)
        self.average = copy.deepcopy(self.translator).eval().requires_grad_(False)
        net = self.translator
        device.compile(net.content_encoder, net.style_encoder, net.generator, self.discriminator)
        objective = TranslationObjective(self.translator, config, stage.loss, perceptual)
        self._objective = distribute(objective, world, device)
        self._judge = distribute(self.discriminator, world, device)
        named = list(net.named_parameters())
        self._generator_optimizer = Optimizer(
            (value for name, value in named if not name.startswith("fusion.")),
            stage.optimizer,
            batch=stage.batch_size,
            steps=stage.steps,
            faster=(value for name, value in named if name.startswith("fusion.")),
            factor=stage.fusion_rate if isinstance(stage, GuidanceConfig) else 1.0,
        )
        self._discriminator_optimizer = Optimizer(
            self.discriminator.parameters(), stage.optimizer, batch=stage.batch_size, steps=stage.steps
        )

    def update(self, step: int, batch: Batch, guide: Guide | None = None) -> Parts:
        """Update D, then the translator, on one fake; return the detached parts of both losses."""
        return self.update_in_pieces(step, [Piece(batch, guide, 1.0)])

    def update_in_pieces(self, step: int, pieces: Sequence[Piece]) -> Parts:
        """Update as with one joined batch; return the sums of the parts, weighted by the shares.

        A single piece generates one fake. With several pieces, no graph is kept until D is updated, so each piece
        generates its fake again, which takes the memory of one piece but the time of another fake.
        """
        attention, whole = self._strength(step), len(pieces) == 1
        if self.attention(step) < 1:  # a mask that is not in force repaints nothing in particular
            pieces = [piece._replace(batch=replace(piece.batch, pasted=None)) for piece in pieces]
        elif pieces[0].batch.pasted is not None and pieces[0].guide is None:
            pieces = self._with_others(pieces)
        made, sums = None, Sums()
        penalised = is_penalised(self.stage.loss, step)  # compiled networks have no second derivative
        self._discriminator_optimizer.zero_grad()
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            with synchronised(self._judge, last):
                with self.device.autocast(), uncompiled(self.discriminator) if penalised else nullcontext():
                    if whole:
                        made = self._objective(piece.batch, piece.guide, attention)
                    fake = made[0] if made else self._fake(piece, attention)
                    judged, parts = discriminator_loss(
                        self._judge,
                        piece.batch.shown(piece.batch.image),
                        piece.batch.shown(fake),
                        piece.batch.domain,
                        piece.batch.target,
                        self.stage.loss,
                        self._kind,
                        step,
                    )
                weighted(judged, piece.share).backward()
            sums.add(parts, piece.share)
        self._discriminator_optimizer.step(step)

        self._generator_optimizer.zero_grad()
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            with synchronised(self._objective, last):
                with self.device.autocast(), _frozen(self.discriminator):
                    translated, parts = made or self._objective(piece.batch, piece.guide, attention)
                    scores, logits = self.discriminator(piece.batch.shown(translated))
                    scores = conditional_scores(scores, logits, piece.batch.target, self.stage.loss)
                    parts["adversarial"] = generator_adversarial_loss(scores, self.stage.loss)
                    parts["domain"] = domain_loss(logits, piece.batch.target, self._kind, self._class_weights)
                    total = weighted_sum(parts, self.stage.loss)
                weighted(total, piece.share).backward()
            sums.add({"total": total, **parts}, piece.share)
        self._generator_optimizer.step(step)
        decay = min(self.stage.ema, (1 + step) / (10 + step)) if self.stage.ema_ramp else self.stage.ema
        update_ema(self.average, self.translator, decay)
        return sums.values

    @torch.no_grad()
    def _with_others(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return the pieces with the images to paste without references: the closest of the step's whole batch.

        So the step is the same however its batch is cut.
        """
        batches = [piece.batch for piece in pieces]
        image, first = rows_of_all(torch.cat([batch.image for batch in batches]), self._world)
        target, _ = rows_of_all(torch.cat([batch.target for batch in batches]), self._world)
        domain, _ = rows_of_all(torch.cat([batch.domain for batch in batches]), self._world)
        counts = [len(batch.image) for batch in batches]
        others = image[closest(target, domain)[first : first + sum(counts)]].split(counts)
        return [
            piece._replace(batch=replace(piece.batch, other=other))
            for piece, other in zip(pieces, others, strict=True)
        ]

    @torch.no_grad()
    def _fake(self, piece: Piece, attention: float | Tensor) -> Tensor:
        """Return x_hat [B, 3, h, w] without its graph."""
        batch, net = piece.batch, self.translator
        content = net.content_encoder(batch.image) if batch.content is None else batch.content
        fused = net.fuse(content, piece.guide.translation() if piece.guide else None)
        return net.generate(fused, batch.target_style, batch.image, attention).image

    def attention(self, step: int) -> float:
        """Return the strength of the mask at `step`: a ramp in stage 1, 1 in stage 3."""
        if not isinstance(self.stage, TranslationConfig):
            return 1.0
        first, full = self.stage.attention_from, max(self.stage.attention_full, self.stage.attention_from + 1)
        return min(1.0, max(0.0, (step + 1 - first) / (full - first)))

    def _strength(self, step: int) -> float | Tensor:
        """Return `attention(step)`; where it comes into force as a tensor, or G would be compiled for each number."""
        attention = self.attention(step)
        ramp = isinstance(self.stage, TranslationConfig) and self.stage.attention_full > 0
        return torch.full((), attention, device=self.device.torch) if ramp and attention else attention

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
    """Pass gradients through the network, but not into its parameters."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


class Sums:
    """Sums of detached parts, weighted by their shares."""

    def __init__(self) -> None:
        self.values: Parts = {}

    def add(self, parts: Parts, share: float) -> None:
        for name, value in parts.items():
            term = weighted(value.detach(), share)
            self.values[name] = self.values[name] + term if name in self.values else term


def _class_weights(config: Config, loss: LossConfig, device: Device) -> Tensor | None:
    """Return the weights [n] of the attributes in G's class loss, None where all are 1."""
    if not loss.domain_of:
        return None
    return torch.tensor(
        [loss.domain_of.get(name, 1.0) for name in config.data.attributes], device=device.torch
    )


def weighted(loss: Tensor, share: float) -> Tensor:
    """Return `loss` times `share`, without an operation where the share is 1."""
    return loss if share == 1 else loss * share
