"""Parsing of a target domain."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from rgcluster.config import DataConfig
from rgcluster.errors import TargetError
from rgcluster.serve.http.errors import TARGET_REMEDY, api_error, invalid
from rgcluster.translate.finished import wanted_changes

__all__ = ["parse"]

VECTOR = re.compile(r"\s*[01]\s*(,\s*[01]\s*)*")


def parse(text: str, data: DataConfig, field: str) -> npt.NDArray[np.int8]:
    """Return the value of each attribute [n]: 1, 0, or KEEP; ApiError 422 for a target that does not fit."""
    return _vector(text, data, field) if _is_vector(text, data) else _changes(text, data, field)


def _is_vector(text: str, data: DataConfig) -> bool:
    """Return whether a text holds values, and not the names of attributes that are called 0 or 1."""
    named = {part.strip() for part in text.split(",")} <= set(data.attributes)
    return VECTOR.fullmatch(text) is not None and not named


def _changes(text: str, data: DataConfig, field: str) -> npt.NDArray[np.int8]:
    try:
        return wanted_changes(text, data)
    except TargetError as error:
        raise api_error(error, field=field) from None


def _vector(text: str, data: DataConfig, field: str) -> npt.NDArray[np.int8]:
    vector = np.array([int(value) for value in text.split(",")], np.int8)
    if len(vector) != len(data.attributes):
        raise invalid(
            "wrong_length", f"{len(vector)} values for {len(data.attributes)} attributes", field,
            f"give one for each of {', '.join(data.attributes)}",
        )  # fmt: skip
    if data.domains == "one-hot" and not vector.any():
        raise invalid(
            "contradictory_target", "an image has exactly one of these attributes, so one must be set", field,
            "name the one wanted",
        )  # fmt: skip
    groups = (data.attributes,) if data.domains == "one-hot" else data.exclusive
    for group in groups:
        chosen = [name for name in group if vector[data.attributes.index(name)]]
        if len(chosen) > 1:
            raise invalid(
                "contradictory_target", f"{' and '.join(chosen)} exclude each other", field, TARGET_REMEDY
            )
    return vector
