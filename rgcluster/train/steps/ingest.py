"""Converts the uint8 blocks of a stream to the tensors of a step: mirroring, target domains and styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rgcluster.config import Config, LossConfig
from rgcluster.data.index import LabelColumns
from rgcluster.model.gmm import sample_style
from rgcluster.model.noise import Draw, keyed_integers, keyed_normal, keyed_uniform
from rgcluster.model.translator import Batch
from rgcluster.translate.device import Device
from rgcluster.translate.tensors import to_images

__all__ = ["Ingest"]

Block = dict[str, npt.NDArray[Any]]
Domains = npt.NDArray[np.int8] | LabelColumns


class Ingest:
    """Turns blocks into batches; `domains` int8 [N, n] are those of the training rows."""

    def __init__(
        self,
        config: Config,
        columns: Sequence[int],
        domains: Domains,
        device: Device,
        seed: int | None = None,
    ) -> None:
        self.config, self.columns, self.domains, self.device = config, list(columns), domains, device
        self.seed = config.seed if seed is None else seed
        # With `data.balance` every domain that occurs is equally often a target.
        self._targets = np.unique(domains[:], axis=0) if config.data.balance else domains

    def batch(self, block: Block, loss: LossConfig) -> Batch:
        """Return the batch of a step; targets are domains of random training images, or, balanced, all that occur.

        A share of `loss.own_targets` keeps its own domain.
        """
        step, rows = block["step"], block["row_id"]
        own = block["labels"][:, self.columns]
        target = self._targets[self._pick(Draw.TARGET, step, rows, len(self._targets))]
        if loss.own_targets:
            uniform = keyed_uniform(self.seed, Draw.OWN_TARGET, step, rows, 1)
            target = np.where(uniform < loss.own_targets, own, target)
        noise = self.normal(Draw.TARGET_STYLE, step, rows)
        posterior = (
            self.normal(Draw.POSTERIOR, step, rows) if loss.posterior == "sample" else torch.zeros_like(noise)
        )
        target_domain = self._tensor(target)
        return Batch(
            image=self.images(block),
            domain=self._tensor(own),
            target=target_domain,
            target_style=sample_style(target_domain, noise, self.config.model.prior_std),
            posterior_noise=posterior,
            visible=self._visible(block, loss.cutout) if loss.cutout else None,
            pasted=self._pasted(block, loss.pasted) if loss.pasted else None,
        )

    def images(self, block: Block) -> Tensor:
        """Return the block's images, half of them mirrored where the configuration says so."""
        image = to_images(block["image"], self.device)
        if not self.config.data.mirror:
            return image
        flip = self._pick(Draw.MIRROR, block["step"], block["row_id"], 2).astype(bool)
        mask = torch.from_numpy(flip).to(self.device.torch)[:, None, None, None]
        return torch.where(mask, image.flip(-1), image)

    def _visible(self, block: Block, cutout: float) -> Tensor:
        """Return 0 in a square of `cutout` times the side, whose centre may be anywhere, else 1, [B, 1, H, W]."""
        side = self.config.data.image_size
        square = max(1, round(cutout * side))
        corners = keyed_integers(self.seed, Draw.CUTOUT, block["step"], block["row_id"], 2)
        first = torch.from_numpy((corners % np.uint64(side)).astype(np.int64) - square // 2)
        places = torch.arange(side)
        inside = (places >= first[:, :, None]) & (places < first[:, :, None] + square)
        hidden = inside[:, 0, :, None] & inside[:, 1, None, :]
        return (~hidden)[:, None].float().to(self.device.torch)

    def _pasted(self, block: Block, share: float) -> Tensor:
        """Return which back-translations begin at a pasted image, bool [B]."""
        uniform = keyed_uniform(self.seed, Draw.PASTED, block["step"], block["row_id"], 1)[:, 0]
        return torch.from_numpy(uniform < share).to(self.device.torch)

    def moved(self, image: Tensor, block: Block) -> Tensor:
        """Return images [B, 3, H, W] shifted by up to a sixteenth of their side, half of them mirrored."""
        rows, step, most = block["row_id"], block["step"], image.shape[-1] // 16
        numbers = keyed_integers(self.seed, Draw.OWN_REFERENCE, step, rows, 3)
        flip = numbers[:, 2] % np.uint64(2) == 1
        shifts = (numbers[:, :2] % np.uint64(2 * most + 1)).astype(np.int64)
        wide = F.pad(image, [most] * 4, mode="replicate")
        moved = [
            picture[:, down : down + image.shape[-2], right : right + image.shape[-1]]
            for picture, (down, right) in zip(wide, shifts.tolist(), strict=True)
        ]
        return torch.stack(
            [picture.flip(-1) if mirrored else picture for picture, mirrored in zip(moved, flip, strict=True)]
        )

    def normal(self, draw: Draw, step: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Tensor:
        """Return standard normals [B, n * style_dim]."""
        noise = keyed_normal(self.seed, draw, step, rows, self.config.style_size)
        return torch.from_numpy(noise).to(self.device.torch)

    def _pick(
        self, draw: Draw, step: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], below: int
    ) -> npt.NDArray[np.int64]:
        numbers = keyed_integers(self.seed, draw, step, rows, 1)[:, 0]
        return (numbers % np.uint64(below)).astype(np.int64)

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device.torch)
