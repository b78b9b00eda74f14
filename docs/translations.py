"""Draws docs/translations.jpg, the picture of README, from a finished run on drawn faces.

python docs/translations.py RUN [FILE]

Every face has two rows: what RG-UNIT makes of it, with the mean style of each target, and the truth.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rgcluster.base.attributes import change_domain, domain_columns
from rgcluster.base.rundir import open_run, shards_of, snapshot_of
from rgcluster.data.shards import open_shards
from rgcluster.data.stream import open_source
from rgcluster.evaluate.figures.sheet import Tile, draw_sheet
from rgcluster.evaluate.measure.inputs import hashed_order
from rgcluster.evaluate.measure.measure import draw_counterfactuals
from rgcluster.store.local import LocalStore
from rgcluster.translate.device import pick_device
from rgcluster.translate.guided import load_models

FACES = 5
"""The first test faces of a fixed random order: none is chosen."""


def picture(run: str) -> Image.Image:
    """Return the sheet of a run's test faces: the input, then each attribute changed, above the truths."""
    config, location = open_run(run)
    shards = open_shards(shards_of(location))
    assert shards.faces is not None, f"{run}: not trained on drawn faces, so there is no truth to show"
    test = open_source(shards, config.data.model_copy(update={"cache_mib": 0}), "test")
    device = pick_device(config.cluster, gpu=False)
    model = load_models(location, config, LocalStore(snapshot_of(location)), device, ("rg-unit",))["rg-unit"]
    rows = hashed_order(test.index.row_ids)[:FACES]
    columns = domain_columns(shards.attributes, config.data.attributes, shards.location)
    images, domains = test.images(rows), test.index.labels[rows][:, columns]
    names = config.data.attributes
    targets = [change_domain(domains, name, config.data) for name in names]
    made = [model.translate(images, target, None, test.index.row_ids[rows]).image for target in targets]
    lines, sides = [], []
    for face, row in enumerate(rows):
        name = test.index.file_names[row]
        wanted = np.stack([target[face] for target in targets])
        truths = draw_counterfactuals(shards.faces, [name] * len(wanted), wanted, config)
        lines.append([Tile(images[face]), *(Tile(pictures[face]) for pictures in made)])
        lines.append([Tile(None), *(Tile(truth) for truth in truths)])
        sides += ["translation", "truth"]
    heads = ["input", *(name.replace("_", " ") + " changed" * (name in ("Male", "Young")) for name in names)]
    return Image.open(io.BytesIO(draw_sheet(lines, heads, sides=sides))).convert("RGB")


if __name__ == "__main__":
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("translations.jpg")
    picture(sys.argv[1]).save(target, quality=85, optimize=True)
