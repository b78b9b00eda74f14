"""The faces that the figures show, drawn by a hash of their row ids; their changes and the changes' names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.attributes import change_domain
from rgcluster.config import Config
from rgcluster.data.images import UInt8Array
from rgcluster.data.stream import ImageSource
from rgcluster.evaluate.measure.inputs import columns_of_domain, hashed_order
from rgcluster.faces import FaceSet
from rgcluster.model.gmm import prior_mean
from rgcluster.store.client import Neighbours, Store
from rgcluster.translate.guided import GuidedTranslator

__all__ = [
    "Domains",
    "Scene",
    "change_captions",
    "described",
    "free_attributes",
    "make_scene",
    "plain",
    "shown_changes",
]

Domains = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Scene:
    """The faces of a figure, and the models that translate them.

    `targets` holds another domain for each face; `references` training images of a third domain.
    """

    config: Config
    models: dict[str, GuidedTranslator]
    images: UInt8Array
    domains: Domains
    row_ids: npt.NDArray[np.int64]
    names: list[str]
    targets: Domains
    references: UInt8Array
    reference_domains: Domains
    store: Store
    faces: FaceSet | None

    @property
    def best(self) -> GuidedTranslator:
        return self.models["rg-unit"]

    def translate(
        self, model: GuidedTranslator, target: Domains
    ) -> tuple[UInt8Array, npt.NDArray[np.float32]]:
        """Return the translations with the mean styles of the domains, and their masks."""
        made = model.translate(self.images, target, None, self.row_ids, key=self.config.seed)
        return made.image, made.mask

    def neighbours(self, target: Domains, count: int) -> Neighbours:
        """Return the stored images nearest to the faces with the target domains, at most `count` for each."""
        own_ids = self.row_ids if self.config.guidance.exclude_self else None
        return self.best.neighbours(self.images, target, min(count, self.store.count - 1), own_ids)

    def interpolate(self, number: int, shares: npt.NDArray[np.float64]) -> tuple[str, UInt8Array]:
        """Return the name of a change, and a face with styles at these shares [N] between two domains."""
        name, start, stop = _interpolation_ends(self.config, self.domains[number], number)
        ends = prior_mean(torch.from_numpy(np.stack([start, stop])), self.config.model.style_dim)
        style = torch.lerp(ends[:1], ends[1:], torch.from_numpy(shares).float()[:, None])
        images = self.images[[number]].repeat(len(shares), axis=0)
        ids = self.row_ids[[number]].repeat(len(shares))
        return name, self.best.with_style(images, style.to(self.best.device.torch), ids).image


def make_scene(
    config: Config,
    models: dict[str, GuidedTranslator],
    store: Store,
    test: ImageSource,
    train: ImageSource,
    faces: FaceSet | None,
) -> Scene:
    """Return the first `evaluation.figure_rows` test images of `hashed_order`, each with a target and a reference."""
    columns = columns_of_domain(config, test)
    rows = hashed_order(test.index.row_ids)[: config.evaluation.figure_rows]
    domains = test.index.labels[rows][:, columns]
    targets = np.stack([_other_domain(config, own, number) for number, own in enumerate(domains)])
    train_domains = train.index.labels[:, columns]
    order = hashed_order(train.index.row_ids)
    others = np.array(
        [
            _of_third_domain(np.roll(order, -7 * k), train_domains, domains[k], targets[k])
            for k in range(len(rows))
        ]
    )
    return Scene(
        config=config,
        models=models,
        images=test.images(rows),
        domains=domains,
        row_ids=test.index.row_ids[rows],
        names=[test.index.file_names[row] for row in rows],
        targets=targets,
        references=train.images(others),
        reference_domains=train_domains[others],
        store=store,
        faces=faces,
    )


def _other_domain(config: Config, own: Domains, number: int) -> Domains:
    """Return the domain [n] after one change; face after face takes the next attribute that can change."""
    changes = shown_changes(config, len(config.data.attributes))
    turned = np.roll(changes, -number).tolist()
    targets = [change_domain(own[None], name, config.data)[0] for name in turned]
    return next((target for target in targets if (target != own).any()), targets[0])


def _of_third_domain(order: npt.NDArray[np.int64], domains: Domains, own: Domains, target: Domains) -> int:
    """Return the first row of `order` with a domain other than both, else the first row."""
    fits = (domains[order] != own).any(axis=1) & (domains[order] != target).any(axis=1)
    return int(order[fits.argmax()])


def _interpolation_ends(config: Config, own: Domains, number: int) -> tuple[str, Domains, Domains]:
    """Return the ends of an interpolation: in turn, two of a group, and a free attribute on and off."""
    group = (
        config.data.attributes if config.data.domains == "one-hot" else next(iter(config.data.exclusive), ())
    )
    free = free_attributes(config)
    if len(group) > 1 and (number % 2 == 0 or not free):
        start, stop = (change_domain(own[None], name, config.data)[0] for name in group[:2])
        return f"{plain(group[0])} to {plain(group[1])}", start, stop
    name = (free or config.data.attributes)[-1]
    start, stop = own.copy(), own.copy()
    start[config.data.attributes.index(name)], stop[config.data.attributes.index(name)] = 1, 0
    return f"{plain(name)} to not {plain(name)}", start, stop


def free_attributes(config: Config) -> list[str]:
    """Return the attributes that exclude no other."""
    if config.data.domains == "one-hot":
        return []
    bound = {name for group in config.data.exclusive for name in group}
    return [name for name in config.data.attributes if name not in bound]


def shown_changes(config: Config, count: int) -> list[str]:
    """Return the attributes whose change a figure shows: one of a group, the free ones, then the rest."""
    free = free_attributes(config)
    bound = [name for name in config.data.attributes if name not in free]
    return [*bound[1:2], *free, *bound[2:], *bound[:1]][:count]


def change_captions(scene: Scene, name: str, target: Domains) -> list[str]:
    """Return the caption of each face's change."""
    return [
        _change(scene.config, name, own, wanted) for own, wanted in zip(scene.domains, target, strict=True)
    ]


def _change(config: Config, name: str, own: Domains, target: Domains) -> str:
    """Return `+ Male`, `- Male`, or `has it already`."""
    if (own == target).all():
        return "has it already"
    return f"{'+' if target[config.data.attributes.index(name)] else '-'} {plain(name)}"


def described(config: Config, domain: Domains) -> str:
    """Return a domain as text, with `not Male` for free attributes that are 0."""
    free = free_attributes(config)
    words = [
        plain(name) if value else f"not {plain(name)}"
        for name, value in zip(config.data.attributes, domain, strict=True)
        if value or name in free
    ]
    return "\n".join(words) or "none"


def plain(name: str) -> str:
    """Return an attribute's name with spaces."""
    return name.replace("_", " ")
