"""Draws the pictures of README and docs/recipe.md from a finished run on drawn faces.

python docs/translations.py RUN [DIRECTORY]

guided.jpg: some test faces, the real images that guide each, what the translator makes without and with them, and the
truth. translations.jpg: every attribute of some test faces changed, above the truths. All with the mean style.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rgcluster.base.attributes import change_domain, domain_columns
from rgcluster.base.rundir import open_run, shards_of, snapshot_of
from rgcluster.config import Config
from rgcluster.data.shards import open_shards
from rgcluster.data.stream import open_source
from rgcluster.evaluate.figures.sheet import Tile, draw_sheet
from rgcluster.evaluate.measure.inputs import hashed_order
from rgcluster.evaluate.measure.measure import draw_counterfactuals
from rgcluster.faces import FaceSet
from rgcluster.store.local import LocalStore
from rgcluster.translate.device import pick_device
from rgcluster.translate.guided import GuidedTranslator, load_models

FACES = 5
"""The first test faces of a fixed random order: none is chosen."""
MODELS = ("gmm-unit-continued", "rg-unit")


@dataclass(frozen=True)
class Opened:
    """A run's translators and its first test faces: images uint8 [F, h, w, 3], domains [F, n], ids and files."""

    config: Config
    drawn: FaceSet
    models: dict[str, GuidedTranslator]
    images: npt.NDArray[np.uint8]
    domains: npt.NDArray[np.int8]
    ids: npt.NDArray[np.int64]
    files: list[str]

    def truths(self, face: int, targets: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
        """Return a face drawn with each of the targets [T, n]."""
        return draw_counterfactuals(self.drawn, [self.files[face]] * len(targets), targets, self.config)


def open_faces(run: str) -> Opened:
    """Open a run and its first test faces."""
    config, location = open_run(run)
    shards = open_shards(shards_of(location))
    assert shards.faces is not None, f"{run}: not trained on drawn faces, so there is no truth to show"
    test = open_source(shards, config.data.model_copy(update={"cache_mib": 0}), "test")
    device, store = pick_device(config.cluster, gpu=False), LocalStore(snapshot_of(location))
    rows = hashed_order(test.index.row_ids)[:FACES]
    columns = domain_columns(shards.attributes, config.data.attributes, shards.location)
    return Opened(
        config, shards.faces, load_models(location, config, store, device, MODELS), test.images(rows),
        test.index.labels[rows][:, columns], test.index.row_ids[rows],
        [test.index.file_names[row] for row in rows],
    )  # fmt: skip


def guided(faces: Opened) -> Image.Image:
    """Return a sheet with a row for each face, another attribute of each changed."""
    count, model = faces.config.guidance.retrieval_count, faces.models["rg-unit"]
    lines, sides = [], []
    for face in range(FACES):
        name = faces.config.data.attributes[face % len(faces.config.data.attributes)]
        one = slice(face, face + 1)
        pixels, ids = faces.images[one], faces.ids[one]
        target = change_domain(faces.domains[one], name, faces.config.data)
        near = model.neighbours(pixels, target, count, ids).images[0]
        made = [faces.models[kind].translate(pixels, target, None, ids).image[0] for kind in MODELS]
        lines.append([Tile(image) for image in (pixels[0], *near, *made, *faces.truths(face, target))])
        sides.append(name.replace("_", " ") + " changed" * (name in ("Male", "Young")))
    heads = ["input", *[""] * count, "without retrieval", "RG-UNIT", "truth"]
    groups = [("", 1), ("nearest real images", count), ("translation", 2), ("", 1)]
    return opened(draw_sheet(lines, heads, sides=sides, groups=groups))


def translations(faces: Opened) -> Image.Image:
    """Return a sheet with two rows for each face: every attribute changed, and the truths."""
    names = faces.config.data.attributes
    targets = [change_domain(faces.domains, name, faces.config.data) for name in names]
    made = [
        faces.models["rg-unit"].translate(faces.images, target, None, faces.ids).image for target in targets
    ]
    lines, sides = [], []
    for face, image in enumerate(faces.images):
        lines.append([Tile(image), *(Tile(pictures[face]) for pictures in made)])
        lines.append(
            [Tile(None), *map(Tile, faces.truths(face, np.stack([target[face] for target in targets])))]
        )
        sides += ["translation", "truth"]
    heads = ["input", *(name.replace("_", " ") + " changed" * (name in ("Male", "Young")) for name in names)]
    return opened(draw_sheet(lines, heads, sides=sides))


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


if __name__ == "__main__":
    directory = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent
    faces = open_faces(sys.argv[1])
    for draw in (guided, translations):
        draw(faces).save(directory / f"{draw.__name__}.jpg", quality=85, optimize=True)
