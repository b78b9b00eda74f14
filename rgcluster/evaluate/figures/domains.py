"""Figures over the domains: one face in all domains, retrievals for each change, translations and truths."""

from __future__ import annotations

import itertools

import numpy as np

from rgcluster.base.attributes import change_domain
from rgcluster.config import Config
from rgcluster.evaluate.figures.scene import (
    Domains,
    Scene,
    change_captions,
    described,
    free_attributes,
    plain,
)
from rgcluster.evaluate.figures.sheet import Tile, draw_sheet
from rgcluster.evaluate.measure.measure import draw_counterfactuals

__all__ = ["changes", "counterfactuals", "matrix"]

MATRIX_FACES = 3
MOST_COLUMNS = 8
RETRIEVED = 2
ENLARGED = 3


def matrix(scene: Scene) -> bytes:
    """Faces in every domain: a row for each attribute of a group, a column for each setting of the others."""
    config = scene.config
    rows_of, columns_of = _groups(config)
    faces = min(MATRIX_FACES, len(scene.images))
    heads = ["input", *(text for text, _ in columns_of)]
    rows, sides = [], []
    for face in range(faces):
        for number, (text, own) in enumerate(rows_of):
            targets = np.stack([_merged(config, scene.domains[face], own, other) for _, other in columns_of])
            made = scene.best.translate(
                scene.images[[face]].repeat(len(targets), axis=0), targets, None,
                scene.row_ids[[face]].repeat(len(targets)), key=config.seed,
            ).image  # fmt: skip
            first = Tile(scene.images[face]) if number == 0 else Tile(None)
            rows.append([first, *map(Tile, made)])
            sides.append(text)
    return draw_sheet(rows, heads, sides=sides)


def changes(scene: Scene) -> bytes:
    """Figure 8: for every change of an attribute the two nearest images in the store."""
    names = list(scene.config.data.attributes)
    count = min(RETRIEVED, scene.store.count - 1)
    rows = [[Tile(image)] for image in scene.images]
    for name in names:
        target = change_domain(scene.domains, name, scene.config.data)
        near = scene.neighbours(target, count)
        captions = change_captions(scene, name, target)
        for row, images, caption in zip(rows, near.images, captions, strict=True):
            row += [Tile(image, caption if place == 0 else "") for place, image in enumerate(images)]
    heads = ["query", *(f"nearest {place + 1}" for _ in names for place in range(count))]
    return draw_sheet(rows, heads, groups=[("", 1), *((plain(name), count) for name in names)])


def counterfactuals(scene: Scene) -> bytes:
    """Each face, its translation, its true counterfactual, and the difference."""
    assert scene.faces is not None
    made, _ = scene.translate(scene.best, scene.targets)
    truths = draw_counterfactuals(scene.faces, scene.names, scene.targets, scene.config)
    rows = []
    for image, translated, truth in zip(scene.images, made, truths, strict=True):
        far = np.abs(translated.astype(np.int16) - truth).mean(axis=2) / 255
        was = np.abs(image.astype(np.int16) - truth).mean() / 255
        rows.append(
            [
                Tile(image, f"distance {was:.3f}"),
                Tile(translated, f"distance {far.mean():.3f}"),
                Tile(truth),
                Tile((far * ENLARGED).astype(np.float32)),
            ]
        )
    sides = [described(scene.config, target) for target in scene.targets]
    return draw_sheet(rows, ["input", "RG-UNIT", "truth", f"difference, {ENLARGED}-fold"], sides=sides)


def _groups(config: Config) -> tuple[list[tuple[str, dict[str, int]]], list[tuple[str, dict[str, int]]]]:
    """Return the names and settings of the rows, and of the columns."""
    names, free = config.data.attributes, free_attributes(config)
    bound = [name for name in names if name not in free]
    if not bound:  # no attribute excludes another: a row for each value of the first
        bound, free = list(free[:1]), list(free[1:])
        rows = [(plain(bound[0]), {bound[0]: 1}), (f"not {plain(bound[0])}", {bound[0]: 0})]
    else:
        rows = [(plain(name), {other: int(other == name) for other in bound}) for name in bound]
    most = int(np.log2(MOST_COLUMNS))
    columns = []
    for values in itertools.product((1, 0), repeat=min(len(free), most)):
        setting = dict(zip(free, values, strict=False))
        text = ", ".join(plain(name) if value else f"not {plain(name)}" for name, value in setting.items())
        columns.append((text or "translation", setting))
    return rows, columns


def _merged(config: Config, own: Domains, *settings: dict[str, int]) -> Domains:
    target = own.copy()
    for setting in settings:
        for name, value in setting.items():
            target[config.data.attributes.index(name)] = value
    return target
