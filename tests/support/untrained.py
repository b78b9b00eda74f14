"""A finished run whose networks never learnt anything: made in a second, its pictures mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tiny import CPU, tiny_config, tiny_discriminator, tiny_translator

from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.model.handover import encoder_digests, is_guided, save_networks
from rgcluster.model.retrieval import JointEncoder
from rgcluster.store.disk.writer import SnapshotWriter
from rgcluster.translate.tensors import to_images

PLAIN = ("cluster.threads=1", "cluster.precision=fp32", "model.retrieval_colours=2")


def untrained_run(folder: Path, *overrides: str, images: int = 40) -> Config:
    """Write a run directory as training would leave it, the store filled with noise."""
    config, run = tiny_config(*PLAIN, *overrides), Location(folder)
    (run / "config.yaml").write_text(config.to_yaml())
    (run / "data.json").write_json({"shards": str(folder / "nowhere"), "dataset": "noise"})
    translator, discriminator = tiny_translator(config), tiny_discriminator(config)
    save_networks(
        run / "translation" / "model", {"translator": translator, "discriminator": discriminator}, {}
    )
    retrieval = JointEncoder(config).eval()
    about = {"trained_against": encoder_digests(translator)}
    manifest = save_networks(
        run / "retrieval" / "model", dict.fromkeys(config.retrieval.negatives, retrieval), about
    )
    guided = {
        name: tiny_translator(config, 10 + number, guided=is_guided(name))
        for number, name in enumerate(config.guidance.variants)
    }
    for network in guided.values():
        # Frozen in stage 3, so the same in all.
        network.content_encoder.load_state_dict(translator.content_encoder.state_dict())
        network.style_encoder.load_state_dict(translator.style_encoder.state_dict())
    for network in guided.values():  # f starts as the identity, and neighbours would not show
        if network.fusion is not None:
            torch.nn.init.normal_(network.fusion.outer.weight, std=0.2)
    save_networks(run / "guidance" / "model", guided, {})
    pixels = noise_images(images, config.data.image_size)
    with torch.inference_mode():
        image = to_images(pixels, CPU)
        content = translator.eval().content_encoder(image)
        vectors = retrieval.embed(image, content, translator.style_encoder(image).mean)
    digests = {
        **encoder_digests(translator),
        "retrieval": manifest["digests"][config.retrieval.negatives[-1]],
    }
    size = (config.data.image_size, config.data.image_size, 3)
    with SnapshotWriter(
        run / "store" / "snapshot", 2, config.embedding_size, size, digests, name="store"
    ) as writer:
        writer.append(np.arange(images, dtype=np.int64) * 7 + 1, vectors.numpy(), pixels)
        writer.commit()
    return config


def noise_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Images uint8 [count, size, size, 3], each of one colour and some noise, all different."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(40, 215, (count, 1, 1, 3))
    return (colours + generator.integers(-40, 40, (count, size, size, 3))).clip(0, 255).astype(np.uint8)
