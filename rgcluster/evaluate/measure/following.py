"""Do translations follow the store? Replaces stored images by others without training, and compares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.attributes import change_domain
from rgcluster.config import Config
from rgcluster.data.stream import ImageSource
from rgcluster.errors import ConfigError
from rgcluster.evaluate.measure.inputs import columns_of_domain
from rgcluster.evaluate.measure.measure import draw_counterfactuals
from rgcluster.faces import FaceSet
from rgcluster.model.gmm import prior_mean
from rgcluster.translate.guided import GuidedTranslator
from rgcluster.translate.tensors import to_images

__all__ = ["Following", "follow", "moved_share"]

UInt8Array = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

STORED, TRANSLATED = 200, 128
"""Numbers of faces stored with dyed hair, and of test faces that are translated."""

VISIBLE = 10
"""Pixels are hair where the truths with the old and the new colour differ by more than this, of 255."""


@dataclass(frozen=True)
class Following:
    """Mean hair colours, 0 to 255: of the truths with the old and the new colour, of translations before and after.

    `moved` is how far translations moved from the old truth towards the new one: 0 not at all, 1 completely.
    """

    moved: float
    old: list[float]
    new: list[float]
    before: list[float]
    after: list[float]
    added: int
    removed: int


def moved_share(
    old: npt.NDArray[np.float64], new: npt.NDArray[np.float64],
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64],
) -> float:  # fmt: skip
    """Return the movement from `before` to `after` as a share of that from `old` to `new`, colours [N, 3] each.

    The movement is projected on the line from old to new, so a change of colour to the side does not count.
    """
    way = new - old
    return float(((after - before) * way).sum() / (way * way).sum())


def follow(
    model: GuidedTranslator,
    config: Config,
    train: ImageSource,
    test: ImageSource,
    faces: FaceSet,
    attribute: str,
    dye: Colour,
) -> Following:
    """Replace the stored images of a hair colour by faces with dyed hair; translate test faces before and after.

    The model's store stays changed. ConfigError where the attribute is not one of the domain's.
    """
    if attribute not in config.data.attributes:
        raise ConfigError(f"{attribute} is not one of {', '.join(config.data.attributes)}")
    assert model.retriever is not None, f"{model.name} uses no neighbours"
    place = config.data.attributes.index(attribute)
    columns = columns_of_domain(config, train)
    rows = np.flatnonzero(test.index.labels[:, columns[place]] == 0)[:TRANSLATED]
    targets = change_domain(test.index.labels[rows][:, columns], attribute, config.data)
    names = [test.index.file_names[row] for row in rows]
    images = test.images(rows)

    def truth(colour: Colour | None) -> UInt8Array:
        return draw_counterfactuals(faces, names, targets, config, colour)

    old, new = truth(None), truth(dye)
    before = model.translate(images, targets).image
    added, removed = _replace(model, config, train, faces, attribute, dye)
    after = model.translate(images, targets).image
    hair = np.abs(old.astype(np.int16) - new).mean(axis=3) > VISIBLE
    shown = np.flatnonzero(hair.any(axis=(1, 2)))
    colours = [
        np.stack([made[row][hair[row]].mean(axis=0) for row in shown]) for made in (old, new, before, after)
    ]
    old_colour, new_colour, colour_before, colour_after = (colour.mean(axis=0).tolist() for colour in colours)
    return Following(
        moved_share(*colours), old_colour, new_colour, colour_before, colour_after, added, removed
    )


@torch.inference_mode()
def _replace(
    model: GuidedTranslator, config: Config, train: ImageSource, faces: FaceSet, attribute: str, dye: Colour
) -> tuple[int, int]:
    """Store training faces with dyed hair, remove those with the attribute; return both numbers."""
    retriever = model.retriever
    assert retriever is not None
    columns = columns_of_domain(config, train)
    labels = train.index.labels[:, columns]
    has = labels[:, config.data.attributes.index(attribute)] == 1
    chosen = np.flatnonzero(~has)[:STORED]
    targets = change_domain(labels[chosen], attribute, config.data)
    names = [train.index.file_names[row] for row in chosen]
    drawn = draw_counterfactuals(faces, names, targets, config, dye)
    image = to_images(drawn, model.device)
    with model.device.autocast():
        content = model.translator.content_encoder(image)
    # With the style of their labels: E_s has never seen the new colour and may not recognise it as the attribute.
    domain = torch.from_numpy(targets.astype(np.float32)).to(model.device.torch)
    style = prior_mean(domain, config.model.style_dim)
    ids = np.setdiff1d(np.arange(2 * len(drawn) + len(train.index)), train.index.row_ids)[: len(drawn)]
    retriever.store.add(ids, retriever.embed(image, content, style), drawn)
    return len(drawn), retriever.store.remove(train.index.row_ids[has])
