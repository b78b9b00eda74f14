"""Whether translations follow the store: another look is stored, the old one removed, and nothing is trained."""

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

STORED = 200
"""Faces of the new look."""

VISIBLE = 10
"""Hair is where the truth of the old and of the new look differ by more than this, of 255."""


@dataclass(frozen=True)
class Following:
    """Mean hair colours, 0 to 255: of the true old and new look, of translations before and after the change.

    `moved` is how far translations went along the way from the old truth to the new one: 0 not at all, 1 all the way.
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
    """Return the part of the way from `old` to `new` that lies between `before` and `after`, colours [N, 3] each.

    The movement is projected on the way, so a change of colour to the side counts for nothing.
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
    count: int = 128,
) -> Following:
    """Replace the stored images of a hair colour by faces whose hair is dyed; translate test faces before and after.

    The model's store is changed and stays so. ConfigError where the attribute is none of the domain's.
    """
    if attribute not in config.data.attributes:
        raise ConfigError(f"{attribute} is none of {', '.join(config.data.attributes)}")
    assert model.retriever is not None, f"{model.name} looks at no neighbours"
    place = config.data.attributes.index(attribute)
    columns = columns_of_domain(config, train)
    rows = np.flatnonzero(test.index.labels[:, columns[place]] == 0)[:count]
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
    """Store training faces with dyed hair, remove those that had the attribute; return how many of each."""
    retriever = model.retriever
    assert retriever is not None
    columns = columns_of_domain(config, train)
    labels = train.index.labels[:, columns]
    has = labels[:, config.data.attributes.index(attribute)] == 1
    chosen = np.flatnonzero(~has)[:STORED]
    targets = change_domain(labels[chosen], attribute, config.data)
    names = [train.index.file_names[row] for row in chosen]
    drawn = draw_counterfactuals(faces, names, targets, config, dye)
    with model.device.autocast():
        content = model.translator.content_encoder(to_images(drawn, model.device))
    # Under the style of their labels: E_s has never seen the new look and may not call it by that name.
    domain = torch.from_numpy(targets.astype(np.float32)).to(model.device.torch)
    style = prior_mean(domain, config.model.style_dim)
    ids = np.setdiff1d(np.arange(2 * len(drawn) + len(train.index)), train.index.row_ids)[: len(drawn)]
    retriever.store.add(ids, retriever.query(content, style), drawn)
    return len(drawn), retriever.store.remove(train.index.row_ids[has])
