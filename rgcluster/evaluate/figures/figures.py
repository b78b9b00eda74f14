"""The paper's figures of a run's own models (Figures 2 to 9), as labelled sheets."""

from __future__ import annotations

import numpy as np
import torch

from rgcluster.base.attributes import change_domain
from rgcluster.base.rundir import stage_directory
from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.data.images import UInt8Array
from rgcluster.data.stream import ImageSource
from rgcluster.evaluate.figures.animation import moving_interpolation
from rgcluster.evaluate.figures.domains import changes, counterfactuals, matrix
from rgcluster.evaluate.figures.failures import Failures, failures
from rgcluster.evaluate.figures.scene import (
    Domains,
    Scene,
    change_captions,
    described,
    make_scene,
    plain,
    shown_changes,
)
from rgcluster.evaluate.figures.sheet import Tile, draw_sheet
from rgcluster.evaluate.measure.measure import draw_counterfactuals
from rgcluster.evaluate.report.tables import MODEL_NAMES
from rgcluster.faces import FaceSet
from rgcluster.model.gmm import sample_style
from rgcluster.model.noise import Draw, keyed_normal
from rgcluster.model.triplets import CATEGORIES, generate_negatives
from rgcluster.store.client import Store
from rgcluster.translate.device import pick_device
from rgcluster.translate.guided import load_models
from rgcluster.translate.tensors import to_images, to_pixels

__all__ = ["FIGURES", "draw_figures"]

FIGURES = "figures"
"""Directory below `evaluation`."""

NEIGHBOURS = 5
SAMPLES = 6
STEPS = 7
COMPARED_CHANGES = 2
MASKED_CHANGES = 3


def draw_figures(
    config: Config,
    run: Location,
    store: Store,
    test: ImageSource,
    train: ImageSource,
    faces: FaceSet | None,
    *,
    gpu: bool,
    worst: Failures | None = None,
) -> list[str]:
    """Write the figures into `run/evaluation/figures` and return their file names.

    Every figure shows the same `evaluation.figure_rows` test images, whatever the training seed. A figure that the
    models do not support (masks without attention) is left out.
    """
    models = load_models(run, config, store, pick_device(config.cluster, gpu=gpu))
    scene = make_scene(config, models, store, test, train, faces)
    drawn = {
        "translations.png": translations(scene),
        "comparison.png": comparison(scene),
        "retrievals.png": retrievals(scene),
        "samples.png": samples(scene),
        "masks.png": masks(scene) if config.model.attention else None,
        "interpolation.png": interpolation(scene),
        "interpolation.webp": moving_interpolation(scene),
        "triplets.png": triplets(scene),
        "matrix.png": matrix(scene),
        "changes.png": changes(scene),
        "counterfactuals.png": counterfactuals(scene) if faces is not None else None,
        "failures.png": failures(scene, worst) if worst else None,
    }
    for name, picture in drawn.items():
        file = stage_directory(run, "evaluation") / FIGURES / name
        file.remove() if picture is None else file.write_bytes(picture)
    return [name for name, picture in drawn.items() if picture is not None]


def translations(scene: Scene) -> bytes:
    """Figure 4: each face with every attribute changed, by RG-UNIT."""
    names = list(scene.config.data.attributes)
    rows = [[Tile(image)] for image in scene.images]
    for name in names:
        target = change_domain(scene.domains, name, scene.config.data)
        made, _ = scene.translate(scene.best, target)
        _append(rows, made, change_captions(scene, name, target))
    return draw_sheet(rows, ["input", *map(plain, names)])


def comparison(scene: Scene) -> bytes:
    """Figure 9: the models side by side for the same changes; for drawn faces the true counterfactual."""
    changes = shown_changes(scene.config, COMPARED_CHANGES)
    rows = [[Tile(image)] for image in scene.images]
    heads, groups = ["input"], [("", 1)]
    for name in changes:
        target = change_domain(scene.domains, name, scene.config.data)
        captions = change_captions(scene, name, target)
        for model in scene.models.values():
            _append(rows, scene.translate(model, target)[0], captions)
            captions = [""] * len(rows)
            heads.append(MODEL_NAMES.get(model.name, model.name))
        if scene.faces is not None:
            truth = draw_counterfactuals(scene.faces, scene.names, target, scene.config)
            _append(rows, truth, captions)
            heads.append("truth")
        groups.append((plain(name), len(scene.models) + (scene.faces is not None)))
    return draw_sheet(rows, heads, groups=groups)


def retrievals(scene: Scene) -> bytes:
    """Figure 3: an image, the target attributes, and its nearest neighbours in the store."""
    near = scene.neighbours(scene.targets, NEIGHBOURS)
    count = near.images.shape[1]
    rows = [
        [
            Tile(image),
            *(Tile(found, f"distance {far:.2f}") for found, far in zip(images, distances, strict=True)),
        ]
        for image, images, distances in zip(scene.images, near.images, near.distances, strict=True)
    ]
    sides = [described(scene.config, target) for target in scene.targets]
    return draw_sheet(rows, ["query", *(f"nearest {k + 1}" for k in range(count))], sides=sides)


def samples(scene: Scene) -> bytes:
    """Figure 5: samples of one translation, which differ only in the noise."""
    rows = [[Tile(image)] for image in scene.images]
    for number, wanted in enumerate(scene.targets):
        target = wanted[None].repeat(SAMPLES, axis=0)
        noise = keyed_normal(
            scene.config.seed, Draw.POSTERIOR, 2 * 10**9, np.arange(SAMPLES), scene.config.style_size
        )
        image = scene.images[number : number + 1].repeat(SAMPLES, axis=0)
        made = scene.best.translate(image, target, noise, scene.row_ids[[number]].repeat(SAMPLES)).image
        rows[number] += [Tile(sample) for sample in made]
    sides = [described(scene.config, target) for target in scene.targets]
    return draw_sheet(rows, ["input", *(f"sample {k + 1}" for k in range(SAMPLES))], sides=sides)


def masks(scene: Scene) -> bytes:
    """Figure 6: translations and the attention masks M that blend them with the input."""
    rows = [[Tile(image)] for image in scene.images]
    heads, groups = ["input"], [("", 1)]
    for name in shown_changes(scene.config, MASKED_CHANGES):
        target = change_domain(scene.domains, name, scene.config.data)
        made, mask = scene.translate(scene.best, target)
        _append(rows, made, change_captions(scene, name, target))
        for row, grey in zip(rows, mask, strict=True):
            row.append(Tile(grey, f"mean {grey.mean():.2f}"))
        heads += ["translation", "mask"]
        groups.append((plain(name), 2))
    return draw_sheet(rows, heads, groups=groups)


def interpolation(scene: Scene) -> bytes:
    """Figure 7: from one domain's style to another's in equal steps."""
    shares = np.linspace(0, 1, STEPS)
    rows, sides = [], []
    for number, image in enumerate(scene.images):
        name, made = scene.interpolate(number, shares)
        rows.append([Tile(image), *map(Tile, made)])
        sides.append(name)
    return draw_sheet(rows, ["input", *(f"{share:.0%}" for share in shares)], sides=sides)


def triplets(scene: Scene) -> bytes:
    """Figure 2: an image, its positive and the four kinds of negatives, generated by the networks of stage 1."""
    config, device = scene.config, scene.best.device
    base = scene.models["gmm-unit"].translator
    image, reference = (to_images(pixels, device) for pixels in (scene.images, scene.references))
    styles = {
        name: _sampled(domain, draw, scene)
        for name, domain, draw in (
            ("target", scene.targets, Draw.TARGET_STYLE),
            ("hard", scene.reference_domains, Draw.HARD_STYLE),
            ("own", scene.domains, Draw.OWN_STYLE),
        )
    }
    kinds = np.tile(np.arange(len(CATEGORIES)), (len(image), 1))
    with torch.inference_mode(), device.autocast():
        positive, negatives = generate_negatives(base, image, reference, styles, kinds)
    made = np.concatenate([to_pixels(positive)[:, None], to_pixels(negatives)], axis=1)
    rows = [[Tile(x), *map(Tile, others)] for x, others in zip(scene.images, made, strict=True)]
    heads = ["image", "positive", "easy", "medium", "hard", "own domain"]
    sides = [described(config, target) for target in scene.targets]
    return draw_sheet(rows, heads, sides=sides, groups=[("", 1), ("", 1), ("negatives", len(CATEGORIES))])


def _sampled(domain: Domains, draw: Draw, scene: Scene) -> torch.Tensor:
    config = scene.config
    noise = keyed_normal(config.seed, draw, 2 * 10**9, np.arange(len(domain)), config.style_size)
    style = sample_style(torch.from_numpy(domain), torch.from_numpy(noise), config.model.prior_std)
    return style.to(scene.best.device.torch)


def _append(rows: list[list[Tile]], images: UInt8Array, captions: list[str]) -> None:
    for row, image, caption in zip(rows, images, captions, strict=True):
        row.append(Tile(image, caption))
