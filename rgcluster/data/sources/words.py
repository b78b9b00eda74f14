"""Common names of splits, in any case: `train`, `Validation`, `test_set`, `trainA`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rgcluster.data.sources.trees.places import Place
from rgcluster.errors import DataError

__all__ = ["NUMBERED_SPLITS", "SPLITS", "resembles_split", "split_and_domain", "split_of", "splits_in"]

SPLITS = ("train", "val", "test")

_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?:[_ -]?(?:set|data|images))?")
_DOMAIN = re.compile(r"(?i:(train|val|test))[_-]?([A-Z])")
_PART = rf"(?i:{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
_LIKE = re.compile(rf"{_PART}(?:[_ .-].*|[A-Z0-9].*|[a-z])?|.+[_ .-]{_PART}")
NUMBERED_SPLITS = {"0": "train", "1": "val", "2": "test"}
"""Splits by their numbers in CelebA's partition."""


def split_of(word: str) -> str | None:
    """Return the split of a word; None for other words."""
    found = _SPLIT.fullmatch(word.strip().casefold())
    return _WORDS[found[1]] if found else None


def split_and_domain(word: str) -> tuple[str, str] | None:
    """Return split and domain of a folder of unpaired translation, `trainA`; None for another word."""
    found = _DOMAIN.fullmatch(word)
    return (found[1].lower(), found[2]) if found else None


def resembles_split(word: str) -> bool:
    """Return whether a folder's name holds that of a split: `train_horse`, `trainHorse`, `train2017`, `A_train`."""
    return _LIKE.fullmatch(word) is not None


def splits_in(folder: Place, names: Sequence[str]) -> list[str] | None:
    """Return the split in each name of a file of the folder, None where no name has one; DataError if some have."""
    found = {name: _split_in(name) for name in dict.fromkeys(names)}
    if not any(found.values()):
        return None
    odd = next((name for name, split in found.items() if split is None), None)
    if odd is not None:
        raise DataError(
            f"{folder / odd}: its name says no split, others' do; rename it to train-..., val-... or test-..."
        )
    return [found[name] or "" for name in names]


def _split_in(name: str) -> str | None:
    """Return the split in a file's name such as `data/train-00000-of-00002.parquet`; None without one."""
    *folders, last = name.split("/")
    found = re.match(r"[a-z]+", last.casefold())
    words = [*folders, found[0] if found else ""]
    return next((split for word in reversed(words) if (split := split_of(word))), None)
