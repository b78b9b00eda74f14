"""Trained translators: translate images to target domains, guided by neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.rundir import networks_of
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.errors import ConfigError
from rgcluster.model.gmm import prior_mean, sample_style
from rgcluster.model.handover import is_guided, load_guided, load_retrieval, load_translator
from rgcluster.model.translator import Translator
from rgcluster.store.client import Neighbours, Store
from rgcluster.translate.device import Device
from rgcluster.translate.retriever import Retriever, encode_references
from rgcluster.translate.tensors import to_images, to_pixels

__all__ = ["GuidedTranslator", "Translation", "load_models", "require_model"]

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Translation:
    """image uint8 [B, h, w, 3]; mask M, float [B, h, w]; the neighbours that guided the translation, or None."""

    image: UInt8Array
    mask: npt.NDArray[np.float32]
    neighbours: Neighbours | None


class GuidedTranslator:
    """A translator with its retriever; `name` is one of the report's models."""

    def __init__(
        self, name: str, translator: Translator, config: Config, device: Device, retriever: Retriever | None
    ) -> None:
        self.name, self.config, self.device, self.retriever = name, config, device, retriever
        self.translator = translator.eval().requires_grad_(False).to(device.torch)

    @torch.inference_mode()
    def translate(
        self,
        pixels: UInt8Array,
        target: npt.NDArray[np.int8],
        noise: npt.NDArray[np.float32] | None = None,
        row_ids: npt.NDArray[np.int64] | None = None,
        key: int = 0,
        draws: npt.NDArray[np.int64] | None = None,
    ) -> Translation:
        """Translate images uint8 [B, h, w, 3] to domains [B, n].

        `noise` [B, n * style_dim] chooses the sample, zeros the domain's mean. `row_ids` keep an image from
        retrieving itself (-1: not in the store). `key` and `draws` [B], by default the rows' numbers, seed random
        neighbours.
        """
        domain = torch.from_numpy(np.asarray(target, np.float32)).to(self.device.torch)
        if noise is None:
            noise = np.zeros((len(pixels), self.config.style_size), np.float32)
        style = sample_style(
            domain, torch.from_numpy(noise).to(self.device.torch), self.config.model.prior_std
        )
        return self.with_style(pixels, style, row_ids, key, draws)

    @torch.inference_mode()
    def neighbours(
        self,
        pixels: UInt8Array,
        target: npt.NDArray[np.int8],
        count: int,
        row_ids: npt.NDArray[np.int64] | None = None,
    ) -> Neighbours:
        """Return the `count` stored images nearest to the query of the target's mean style."""
        assert self.retriever is not None, f"{self.name} uses no neighbours"
        image = to_images(pixels, self.device)
        domain = torch.from_numpy(np.asarray(target, np.float32)).to(self.device.torch)
        with self.device.autocast():
            content = self.translator.content_encoder(image)
        query = self.retriever.query(image, content, prior_mean(domain, self.config.model.style_dim))
        return self.retriever.store.neighbours(query, count, row_ids)

    @torch.inference_mode()
    def guided_by(
        self, pixels: UInt8Array, target: npt.NDArray[np.int8], neighbours: UInt8Array | None
    ) -> UInt8Array:
        """Translate images uint8 [B, h, w, 3] to the mean style of domains [B, n], guided by the given images.

        `neighbours` are uint8 [B, M, h, w, 3], in place of retrieved ones; None leaves f out.
        """
        image = to_images(pixels, self.device)
        domain = torch.from_numpy(np.asarray(target, np.float32)).to(self.device.torch)
        with self.device.autocast():
            content = self.translator.content_encoder(image)
            references = (
                None if neighbours is None else encode_references(self.translator, neighbours, self.device)
            )
            fused = self.translator.fuse(content, references)
            made = self.translator.generate(fused, prior_mean(domain, self.config.model.style_dim), image)
        return to_pixels(made.image)

    @torch.inference_mode()
    def with_style(
        self,
        pixels: UInt8Array,
        style: torch.Tensor,
        row_ids: npt.NDArray[np.int64] | None = None,
        key: int = 0,
        draws: npt.NDArray[np.int64] | None = None,
    ) -> Translation:
        """Translate images uint8 [B, h, w, 3] with styles [B, n * style_dim]."""
        image = to_images(pixels, self.device)
        near: Neighbours | None = None
        with self.device.autocast():
            content = self.translator.content_encoder(image)
            references = None
            if self.retriever is not None:
                rows = np.full(len(pixels), -1, np.int64) if row_ids is None else row_ids
                numbers = np.arange(len(pixels)) if draws is None else draws
                pending = self.retriever.issue(
                    image, content, style, rows, key, random=self.name == "rg-unit-random", draws=numbers
                )
                near = pending.result()
                references = self.retriever.encode(near)
            made = self.translator.generate(self.translator.fuse(content, references), style, image)
        return Translation(to_pixels(made.image), made.mask[:, 0].float().cpu().numpy(), near)


def require_model(config: Config, name: str) -> None:
    """Raise ConfigError if a run of this configuration has no translator of that name."""
    known = ("gmm-unit", *config.guidance.variants)
    if name not in known:
        raise ConfigError(f"no model {name!r}: this run has {', '.join(known)}")


def load_models(
    run: Location, config: Config, store: Store | None, device: Device, names: tuple[str, ...] = ()
) -> dict[str, GuidedTranslator]:
    """Load the run's translators by name: `gmm-unit`, and stage 3's variants (all, or those in `names`).

    Guided translators need the store; StoreMismatch where other networks embedded it.
    """
    base = load_translator(networks_of(run, "translation"), config)
    models: dict[str, GuidedTranslator] = {}
    if not names or "gmm-unit" in names:
        models["gmm-unit"] = GuidedTranslator("gmm-unit", base, config, device, None)
    retriever: Retriever | None = None
    for name in config.guidance.variants:
        if names and name not in names:
            continue
        if is_guided(name) and retriever is None:
            assert store is not None, "a guided translator needs the store"
            found = load_retrieval(networks_of(run, "retrieval"), config, base)
            network = found[config.retrieval.negatives[-1]]
            retriever = Retriever(store, network.to(device.torch), base.to(device.torch), config, device)
        translator = load_guided(networks_of(run, "guidance"), config, name)
        models[name] = GuidedTranslator(
            name, translator, config, device, retriever if is_guided(name) else None
        )
    return models
