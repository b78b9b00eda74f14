"""A model's measurements on disk: values by evaluation seed, and values of each image for intervals.

Their location depends on the model and the protocol, so runs that share a model measure it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from rgcluster.base.storage import Location, digest_json
from rgcluster.evaluate.metrics.catalogue import TRANSLATION

__all__ = ["SINGLE", "Measured", "is_measured", "load_measured", "measured_place", "save_measured"]

VALUES, IMAGES = "values.json", "images.safetensors"

SINGLE = tuple(metric.key for metric in TRANSLATION if metric.per_image)
"""Keys of values that are means over images; NaN where an image has no value."""

Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Measured:
    """`values`, one dict an evaluation seed; `images`: seed, row (of the test split), `SINGLE`, features, logits."""

    values: list[dict[str, Any]]
    images: dict[str, npt.NDArray[Any]]


def measured_place(root: Location, model: str, depends: Mapping[str, Any]) -> Location:
    """Return the location below `root` of the measurements of a model with these dependencies."""
    return root / f"{model}-{digest_json(dict(depends))}"


def is_measured(place: Location) -> bool:
    """Return whether the measurements are complete; the values are written last."""
    return (place / VALUES).exists()


def save_measured(place: Location, values: Sequence[Mapping[str, Any]], images: Columns) -> None:
    """Write the measurements; features and logits in half precision, which is enough for intervals."""
    small = {
        key: np.ascontiguousarray(
            array.astype(np.float16) if key in ("features", "logits") else array.astype(np.float32)
            if key in SINGLE else array.astype(np.int64)
        )
        for key, array in images.items()
    }  # fmt: skip
    (place / IMAGES).write_bytes(save(small))
    (place / VALUES).write_json(list(values))


def load_measured(place: Location) -> Measured:
    """Return what `save_measured` wrote."""
    return Measured((place / VALUES).read_json(), load((place / IMAGES).read_bytes()))
