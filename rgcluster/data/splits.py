"""Splits of rows, and nested fractions of them, by hashed row ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from rgcluster.data.sources import UNLABELLED
from rgcluster.errors import DataError

__all__ = ["SplitRule", "assign_splits", "hash_share", "row_id", "splits_at_random"]

SplitRule = Literal["auto", "random", "official"]

TEST_SHARE = 0.1
TEST_LIMIT = 2000  # the paper's test set


def row_id(dataset: str, file_name: str) -> int:
    """Return a non-negative 63-bit id that depends only on the names."""
    digest = hashlib.blake2b(f"{dataset}/{file_name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def hash_share(row_ids: npt.NDArray[np.int64], salt: int) -> npt.NDArray[np.float64]:
    """Return a uniform number in [0, 1) for each row id; the rows below f are a nested fraction f."""
    digests = (hashlib.blake2b(f"{salt}:{row}".encode(), digest_size=7).digest() for row in map(int, row_ids))
    shares = (int.from_bytes(digest, "big") / 2**56 for digest in digests)
    return np.fromiter(shares, np.float64, len(row_ids))


def splits_at_random(own: Sequence[str] | None, rule: SplitRule) -> bool:
    """Return whether rows with these splits of their own, or none, are split at random."""
    if own and set(own) == {UNLABELLED}:
        return False
    return own is None or rule == "random" or (rule == "auto" and set(own) == {"train"})


def assign_splits(
    row_ids: npt.NDArray[np.int64], own: Sequence[str] | None, rule: SplitRule, seed: int, source: str
) -> list[str]:
    """Return each row's split.

    `official` takes the source's own; `random` 2,000 test images by seed, as the paper, or a tenth where
    that is fewer; `auto` the source's own where it tells images to test from those that train. A source that
    names `val` but no `test`, as AFHQ, tests on `val`. Rows without labels stay what they are. DataError where
    the source's own split leaves nothing to train.
    """
    if own and set(own) == {UNLABELLED}:
        return list(own)
    if rule == "official" and own is None:
        raise DataError(f"{source}: names no split of its own; use --split random")
    if own and rule != "random" and "train" not in own:
        raise DataError(f"{source}: its own split leaves no image to train on; use --split random")
    if own is None or splits_at_random(own, rule):
        share = hash_share(row_ids, salt=seed)
        count = min(TEST_LIMIT, max(1, round(TEST_SHARE * len(row_ids))))
        tested = np.zeros(len(row_ids), np.int8)
        tested[np.argsort(share, kind="stable")[:count]] = 1
        return np.array(["train", "test"], object)[tested].tolist()  # two strings, not one a row
    if "test" not in own:
        return ["test" if split == "val" else split for split in own]
    return list(own)
