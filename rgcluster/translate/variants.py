"""Which of a run's translators answers for each kind of guidance; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

__all__ = ["Guidance", "variants_of"]

Guidance = Literal["on", "off", "random"]


def variants_of(trained: Sequence[str]) -> dict[Guidance, str]:
    """Return the translator for each kind of guidance; without retrieval the one trained equally long, if any."""
    return {
        "on": "rg-unit",
        "off": "gmm-unit-continued" if "gmm-unit-continued" in trained else "gmm-unit",
        "random": "rg-unit-random" if "rg-unit-random" in trained else "rg-unit",
    }
