"""Stage 3's step without a store: the neighbours come from a gallery in the device's memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rgcluster.bench.gpu.gallery import Gallery
from rgcluster.config import Config
from rgcluster.model.fusion import References
from rgcluster.model.handover import is_guided
from rgcluster.model.losses import Parts
from rgcluster.model.networks import Discriminator
from rgcluster.model.retrieval import retrieval_encoder
from rgcluster.model.translator import Batch, Translator, style_of
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.device import Device
from rgcluster.translate.tensors import to_images

__all__ = ["GuidedStep"]

PIECE = 64
"""Images that are embedded at once."""


class GuidedStep:
    """G, D and f of each variant in training with frozen encoders, as `GuidanceStage` trains them.

    R is not trained: its queries cost the same.
    """

    def __init__(
        self,
        config: Config,
        translator: Translator,
        discriminator: Discriminator,
        variants: Sequence[str],
        device: Device,
    ) -> None:
        self.config, self.device = config, device
        self.frozen = copy.deepcopy(translator).eval().requires_grad_(False)
        self.frozen.to(device.torch, memory_format=device.layout)  # type: ignore[call-overload]
        self.network = retrieval_encoder(config).eval().requires_grad_(False).to(device.torch)
        self.trainers = {}
        for name in variants:
            trained = Translator(config, guided=is_guided(name))
            trained.load_state_dict(translator.state_dict(), strict=False)
            trained.freeze_encoders()
            self.trainers[name] = TranslatorTrainer(
                trained, copy.deepcopy(discriminator), config, config.guidance, device, 1
            )

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """Return R's embeddings [N, d] of images uint8 [N, h, w, 3]."""
        found = []
        for piece in pixels.split(PIECE):
            image = to_images(piece, self.device)
            with self.device.autocast():
                content, style = self.frozen.content_encoder(image), self.frozen.style_encoder(image).mean
                found.append(self.network.embed(image, content, style))
        return torch.cat(found)

    def update(self, step: int, batch: Batch, gallery: Gallery, rows: Tensor) -> Parts:
        """Train every variant on the batch, whose images are the gallery's `rows` [B]; return the parts."""
        with self.device.autocast(), torch.no_grad():
            batch = replace(
                batch,
                content=self.frozen.content_encoder(batch.image),
                posterior=self.frozen.style_encoder(batch.image),
            )
        parts: Parts = {}
        for name, trainer in self.trainers.items():
            guide = None
            if is_guided(name):
                guide = _GalleryGuide(self, batch, gallery, rows, random=name == "rg-unit-random")
            measured = trainer.update(step, batch, guide)
            parts |= {f"{name}/{key}": value for key, value in measured.items()}
        return parts

    @torch.no_grad()
    def query(self, image: Tensor, content: Tensor, style: Tensor) -> Tensor:
        """Return the queries [B, d] of images that are to be translated to the style."""
        with self.device.autocast():
            return self.network.query(image, content, style)

    @torch.no_grad()
    def references(self, images: Tensor) -> References:
        """Return images uint8 [B, M, h, w, 3] with their contents."""
        flat = to_images(images.flatten(0, 1), self.device)
        return self.encoded(flat.unflatten(0, images.shape[:2]))

    @torch.no_grad()
    def encoded(self, images: Tensor) -> References:
        """Return images [B, M, 3, h, w] with their contents."""
        with self.device.autocast():
            return self.frozen.encode_references(images)


class _GalleryGuide:
    """The references of one step's passes (`model.translator.Guide`)."""

    def __init__(
        self, step: GuidedStep, batch: Batch, gallery: Gallery, rows: Tensor, *, random: bool
    ) -> None:
        assert batch.content is not None and batch.posterior is not None
        self._step, self._gallery, self._rows, self._random = step, gallery, rows, random
        settings = step.config.guidance
        self._fuse_cycle, self._own = settings.fuse_cycle, settings.own_references == "itself"
        self._cycle: Tensor | None = None
        if self._own:
            self._translation = step.references(self._find(batch.image, batch.content, batch.target_style))
            self._reconstruction = step.encoded(batch.image.flip(-1)[:, None])
            return
        style = style_of(batch.posterior, batch.posterior_noise, settings.loss)
        images, contents = (each.repeat(2, 1, 1, 1) for each in (batch.image, batch.content))
        found = self._find(images, contents, torch.cat([batch.target_style, style]))
        images, contents = step.references(found)
        first, second = zip(images.chunk(2), contents.chunk(2), strict=True)
        self._translation, self._reconstruction = References(*first), References(*second)

    def translation(self) -> References:
        return self._translation

    def reconstruction(self) -> References:
        return self._reconstruction

    def issue_cycle(self, image: Tensor, content: Tensor, style: Tensor) -> None:
        if self._fuse_cycle and not self._own:
            self._cycle = self._find(image.detach(), content.detach(), style.detach())

    def cycle(self) -> References | None:
        if not self._fuse_cycle:
            return None
        return self._reconstruction if self._cycle is None else self._step.references(self._cycle)

    def _find(self, image: Tensor, content: Tensor, style: Tensor) -> Tensor:
        count = self._step.config.guidance.retrieval_count
        if self._random:
            return self._gallery.draw(len(content), count)
        excluded = self._rows.repeat(len(content) // len(self._rows))
        return self._gallery.find(self._step.query(image, content, style), count, excluded)
