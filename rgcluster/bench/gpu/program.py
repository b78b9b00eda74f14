"""The parts in turn within a number of minutes; the results are written after each of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rgcluster.base.storage import Location
from rgcluster.bench.gpu.decoding import pillow_decoding, torchvision_decoding
from rgcluster.bench.gpu.found import Found
from rgcluster.bench.gpu.part import SCALES, DeviceType, Part, Place, Skip, free
from rgcluster.bench.gpu.search import faiss_search, torch_search
from rgcluster.bench.gpu.steps import guided_steps, translation_steps
from rgcluster.bench.gpu.training import training
from rgcluster.bench.result import Row
from rgcluster.errors import ConfigError, RGClusterError

__all__ = ["JSON", "PAGE", "PARTS", "run_program"]

JSON, PAGE = "gpu.json", "gpu.md"

PARTS = (
    Part("stage 1, a training step", translation_steps),
    Part("stage 3, a training step", guided_steps),
    Part("exact search by torch", torch_search),
    Part("exact search by FAISS", faiss_search),
    Part("decoding by Pillow", pillow_decoding),
    Part("decoding by torchvision", torchvision_decoding),
    Part("training on drawn faces", training),
)


def run_program(
    folder: Path, kind: DeviceType, scale: str, minutes: float, say: Callable[[str], None]
) -> list[Row]:
    """Measure; write `gpu.json`, `gpu.md` and a grid of translations into `folder`, and return the rows.

    `gpu.json` and `gpu.md` are written anew after each row. A part that fails costs the others nothing:
    RGClusterError names it at the end. ConfigError where there is no GPU.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no GPU here; `--device cpu --scale tiny` rehearses the program without one")
    end = time.perf_counter() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    found = Found()
    with tempfile.TemporaryDirectory(prefix="rgcluster-bench-") as temporary:
        place = Place(kind, SCALES[scale], folder, Path(temporary), say)
        for part in PARTS:
            _measure(part, place, end, found)
            free(place)
            _write(found, folder)
    if found.failed:
        raise RGClusterError("; ".join(f"{name}: {why}" for name, why in found.failed.items()))
    return found.all_rows


def _measure(part: Part, place: Place, end: float, found: Found) -> None:
    start = time.perf_counter()
    if start >= end:
        found.skipped[part.name] = "no time was left"
        return
    place.say(part.name)
    try:
        for row in part.measure(place, end - start):
            found.rows.setdefault(part.name, []).append(row)
            found.seconds[part.name] = time.perf_counter() - start
            _write(found, place.results)
    except Skip as reason:
        found.skipped[part.name] = str(reason)
        place.say(f"skipped: {reason}")
    except Exception as error:  # the other parts' figures are worth the machine's time
        found.failed[part.name] = f"{type(error).__name__}: {error}"
        place.say(f"failed: {error}")
    found.seconds[part.name] = time.perf_counter() - start


def _write(found: Found, folder: Path) -> None:
    place = Location(folder)
    (place / JSON).write_json(found.as_json())
    (place / PAGE).write_text(found.as_page())
