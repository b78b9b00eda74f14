"""Repeats of a measurement that end in time."""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ["turns"]


def turns(most: int, seconds: float, least: int = 1) -> Iterator[int]:
    """Yield 0, 1, ... below `most`; after `least` of them, none once `seconds` have passed."""
    end = time.perf_counter() + seconds
    for turn in range(most):
        if turn >= least and time.perf_counter() >= end:
            return
        yield turn
