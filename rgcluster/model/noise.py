"""Random numbers keyed by (seed, step, row): the same for any number of workers and any batch order."""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = ["Draw", "derived_seed", "keyed_integers", "keyed_normal", "keyed_uniform"]

UInt64Array = npt.NDArray[np.uint64]


class Draw(IntEnum):
    """The uses of random numbers; each has its own stream."""

    MIRROR = 1
    TARGET = 2
    TARGET_STYLE = 3
    POSTERIOR = 4
    REFERENCE = 5
    REFERENCE_STYLE = 6
    OWN_STYLE = 7
    CATEGORY = 8
    HARD_STYLE = 9
    DROPOUT = 10
    OWN_TARGET = 11
    OWN_REFERENCE = 12
    CUTOUT = 13
    SAMPLE = 16
    PASTED = 17
    EASY_STYLE = 18


def _mix(x: UInt64Array) -> UInt64Array:
    """One round of splitmix64, element by element."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def derived_seed(seed: int, name: str) -> int:
    """Return a seed derived from `seed` and `name`; its draws are independent of those of `seed`."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_integers(
    seed: int, draw: Draw, step: int | npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int
) -> UInt64Array:
    """Return [B, count] uniform 64-bit integers for int64 `rows` [B] at `step` (one, or one a row)."""
    base = _mix(np.asarray([seed % 2**64], np.uint64)) ^ np.uint64(draw)
    key = _mix(_mix(_mix(base) ^ np.asarray(step, np.uint64)) ^ rows.astype(np.uint64))
    return _mix(key[:, None] ^ _mix(np.arange(count, dtype=np.uint64))[None, :])


def keyed_uniform(
    seed: int, draw: Draw, step: int | npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float64]:
    """Return [B, count] uniforms in (0, 1)."""
    return ((keyed_integers(seed, draw, step, rows, count) >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52


def keyed_normal(
    seed: int, draw: Draw, step: int | npt.NDArray[np.int64], rows: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float32]:
    """Return [B, count] standard normals (Box-Muller)."""
    uniform = keyed_uniform(seed, draw, step, rows, 2 * count)
    radius = np.sqrt(-2 * np.log(uniform[:, :count]))
    return (radius * np.cos(2 * np.pi * uniform[:, count:])).astype(np.float32)
