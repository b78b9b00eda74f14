"""The paper's published numbers (Tables 1, 2, 3, 4, 6 and 7); shares are fractions."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "PAPER_ACC_PER_ATTRIBUTE",
    "PAPER_COUNTS",
    "PAPER_FRACTIONS",
    "PAPER_P10_PER_ATTRIBUTE",
    "PAPER_RETRIEVAL",
    "PAPER_TRANSLATION",
]

Numbers = dict[str, dict[str, float]]

_ATTRIBUTES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")


def _by_attribute(**rows: Sequence[float]) -> Numbers:
    return {
        name.replace("_", "-"): dict(zip(_ATTRIBUTES, values, strict=True)) for name, values in rows.items()
    }


PAPER_TRANSLATION: Numbers = {
    "gmm-unit": {"fid": 30.04, "is": 3.051, "diversity": 0.048, "acc": 0.970},
    "rg-unit-random": {"fid": 31.08, "is": 2.967, "diversity": 0.036, "acc": 0.982},
    "rg-unit": {"fid": 27.61, "is": 3.160, "diversity": 0.042, "acc": 0.9472},
    "real": {"is": 3.470, "acc": 0.931},
}
"""Table 2."""

PAPER_ACC_PER_ATTRIBUTE: Numbers = _by_attribute(
    gmm_unit=(0.977, 0.985, 0.932, 0.973, 0.983),
    rg_unit_random=(0.983, 0.961, 0.995, 0.989, 0.984),
    rg_unit=(0.950, 0.961, 0.894, 0.981, 0.950),
    real=(0.940, 0.983, 0.870, 0.944, 0.918),
)
"""Table 7."""

PAPER_RETRIEVAL: Numbers = {
    "random": {"p10_attributes": 0.648, "p10_content": 0.754, "p10_average": 0.701},
    "easy": {"p10_attributes": 0.656, "p10_content": 0.792, "p10_average": 0.724},
    "medium": {"p10_attributes": 0.656, "p10_content": 0.790, "p10_average": 0.723},
    "hard": {"p10_attributes": 0.797, "p10_content": 0.786, "p10_average": 0.791},
    "all": {"p10_attributes": 0.830, "p10_content": 0.775, "p10_average": 0.802},
}
"""Table 1."""

PAPER_P10_PER_ATTRIBUTE: Numbers = _by_attribute(
    random=(0.640, 0.768, 0.676, 0.509, 0.647),
    easy=(0.636, 0.778, 0.666, 0.530, 0.671),
    medium=(0.640, 0.779, 0.674, 0.521, 0.665),
    hard=(0.759, 0.902, 0.756, 0.796, 0.770),
    all=(0.810, 0.919, 0.737, 0.841, 0.841),
)
"""Table 6."""

PAPER_FRACTIONS: dict[tuple[str, float], dict[str, float]] = {
    ("gmm-unit", 0.25): {"fid": 38.83, "is": 2.648},
    ("gmm-unit", 0.5): {"fid": 35.62, "is": 2.726},
    ("gmm-unit", 1.0): {"fid": 30.04, "is": 3.051},
    ("rg-unit", 0.25): {"fid": 33.91, "is": 3.079},
    ("rg-unit", 0.5): {"fid": 32.72, "is": 3.250},
    ("rg-unit", 1.0): {"fid": 27.61, "is": 3.160},
}
"""Table 3: model and share of labelled data; RG-UNIT retrieves from the full set."""

PAPER_COUNTS: dict[int, dict[str, float]] = {
    1: {"fid": 28.45, "is": 3.053, "acc": 0.9728},
    3: {"fid": 27.61, "is": 3.160, "acc": 0.9472},
    10: {"fid": 28.61, "is": 3.018, "acc": 0.9662},
}
"""Table 4: number of retrieved images M."""
