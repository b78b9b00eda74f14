"""What translating with a finished run takes besides its networks: targets, style noise, and D as a classifier."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.attributes import parse_target
from rgcluster.base.checkpoint.manifest import MANIFEST
from rgcluster.base.rundir import networks_of
from rgcluster.base.storage import Location
from rgcluster.config import Config, DataConfig
from rgcluster.errors import ConfigError, ContradictoryTarget
from rgcluster.model.handover import has_new_discriminator, load_discriminator, network_digests
from rgcluster.model.noise import Draw, keyed_normal
from rgcluster.translate.device import Device

__all__ = ["KEEP", "Judge", "style_noise", "wanted_changes"]

KEEP = -1
"""Value in a target: the attribute stays as D sees it in the image."""


def wanted_changes(text: str, data: DataConfig) -> npt.NDArray[np.int8]:
    """Return the value of each attribute [n] in a text such as `Blond_Hair,-Young`: 1, 0, or KEEP if not mentioned.

    UnknownAttribute or ContradictoryTarget name the invalid attribute.
    """
    one_hot = data.domains == "one-hot"
    groups = (data.attributes,) if one_hot else data.exclusive
    wanted = np.array(parse_target(text, [KEEP] * len(data.attributes), data.attributes, groups), np.int8)
    if one_hot and (wanted == 0).any() and not (wanted == 1).any():
        raise ContradictoryTarget(text, "an image is of exactly one of these classes; name the one wanted")
    return wanted


def style_noise(seed: int, samples: int, style_size: int) -> npt.NDArray[np.float32]:
    """Return the style noise [samples, style_size] of a seed; seed 0 for one sample is the domain's mean.

    A sample depends only on the seed and its number, neither on the number of samples nor on the image.
    """
    if samples == 1 and seed == 0:
        return np.zeros((1, style_size), np.float32)
    return keyed_normal(seed, Draw.TARGET_STYLE, 0, np.arange(samples), style_size)


class Judge:
    """Stage 1's D as a classifier of an image's attributes; stage 3's where networks were imported without one."""

    def __init__(self, run: Location, config: Config, device: Device) -> None:
        self._data, self._run = config.data, run
        place = networks_of(run, "translation")
        if has_new_discriminator(place):
            place = networks_of(run, "guidance")
            if not (place / MANIFEST).exists() or "discriminator" not in network_digests(place):
                self._network = None
                return
        self._network = load_discriminator(place, config).eval().requires_grad_(False).to(device.torch)

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return the probability [B, n] of each attribute in images [B, 3, h, w] in [-1, 1]; ConfigError without D."""
        if self._network is None:
            raise ConfigError(
                f"{self._run}: imported without a discriminator and not trained in stage 3 since, so nothing tells "
                "what an image has; name every attribute of the target (Male,-Young), or import with --discriminator"
            )
        logits = self._network(images)[1]
        one_hot = self._data.domains == "one-hot"
        return (logits.softmax(dim=1) if one_hot else logits.sigmoid()).cpu().numpy()

    def domains(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        """Return the domains [B, n] of probabilities [B, n], with at most one attribute of an exclusive group."""
        data = self._data
        if data.domains == "one-hot":
            return np.eye(len(data.attributes), dtype=np.int8)[probabilities.argmax(axis=1)]
        found = (probabilities > 0.5).astype(np.int8)
        for group in data.exclusive:
            columns = [data.attributes.index(name) for name in group]
            likeliest = np.array(columns)[probabilities[:, columns].argmax(axis=1)]
            for column in columns:
                found[likeliest != column, column] = 0
        return found
