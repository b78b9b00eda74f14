"""Small things that several test files build: configurations, networks, batches, a CelebA folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rgcluster.config import Config, load_config
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.shards import ShardSet
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Batch, Translator
from rgcluster.translate.device import Device

CPU = Device(torch.device("cpu"), bf16=False)

ATTRIBUTES = ("Smiling", "Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young", "Eyeglasses")
"""Names of a small attribute file: the five of the domains and two more."""


def tiny_config(*overrides: str) -> Config:
    """The smoke preset: width 8, 32 px, one residual block."""
    return load_config("smoke", overrides)


def tiny_translator(config: Config, seed: int = 0, *, guided: bool = False) -> Translator:
    torch.manual_seed(seed)
    return Translator(config, guided=guided)


def tiny_discriminator(config: Config, seed: int = 1) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(config)


def random_images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Images [count, 3, size, size] in [-1, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_domains(count: int, n: int = 5, seed: int = 0) -> Tensor:
    """Domains [count, n] in {0, 1}."""
    return torch.randint(0, 2, (count, n), generator=torch.Generator().manual_seed(seed)).float()


def random_batch(config: Config, count: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    target = random_domains(count, config.num_attributes, seed + 1)
    spread = config.model.prior_std * torch.randn(count, config.style_size, generator=generator)
    return Batch(
        image=random_images(count, config.data.image_size, seed),
        domain=random_domains(count, config.num_attributes, seed + 2),
        target=target,
        target_style=(2 * target - 1).repeat_interleave(config.model.style_dim, dim=1) + spread,
        posterior_noise=torch.randn(count, config.style_size, generator=generator),
    )


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's weights."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def write_celeba(
    folder: Path,
    count: int = 6,
    *,
    attributes: Sequence[str] = ATTRIBUTES,
    partition: bool = True,
    seed: int = 0,
) -> Path:
    """Write `count` random JPEGs of 40x48 in CelebA's layout; every fifth is a test image."""
    generator = np.random.default_rng(seed)
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    for name in names:
        pixels = generator.integers(0, 256, (6, 5, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=90)
    signs = generator.choice(["-1", " 1"], (count, len(attributes)))
    rows = [" ".join([name, *row]) for name, row in zip(names, signs, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(count), " ".join(attributes), *rows]) + "\n")
    if partition:
        lines = [f"{name} {2 if number % 5 == 4 else 0}" for number, name in enumerate(names)]
        (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return folder


def small_shards() -> ShardSet:
    """Shards of 100 images that are nowhere."""
    return ShardSet(
        "shards", "noise", "noise", CELEBA_ATTRIBUTES, False, None, {"train": 70, "test": 20, "unlabelled": 10},
        100, 0, (), (), "0123", "0123",
    )  # fmt: skip
