"""Attributes by name: which columns span the domains, and what a target asks for."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rgcluster.config import DataConfig
from rgcluster.errors import ContradictoryTarget, DataError, UnknownAttribute, quoted

__all__ = [
    "change_domain",
    "domain_columns",
    "nearest",
    "one_change_each",
    "parse_target",
]

LISTED = 50
"""Attributes that a message lists."""


def domain_columns(names: Sequence[str], attributes: Sequence[str], source: str) -> list[int]:
    """Return the columns of `attributes` in `names`; DataError names the missing one and what is meant."""
    for name in attributes:
        if name not in names:
            raise DataError(f"{source}: {_unknown(name, names)}")
    return [list(names).index(name) for name in attributes]


def parse_target(
    text: str, current: Sequence[int], attributes: Sequence[str], exclusive: Sequence[Sequence[str]]
) -> list[int]:
    """Return the domain [n] in {0, 1} that `text` asks for, starting at the domain `current` [n].

    `Blond_Hair,Male` sets attributes, `-Young` clears one; setting one of an exclusive group clears the
    rest of it. UnknownAttribute or ContradictoryTarget name the attribute at fault.
    """
    target = dict(zip(attributes, (int(value) for value in current), strict=True))
    wanted: dict[str, int] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        # A keyboard composes accents; names of files, which classes are called after, may not be.
        name, value = unicodedata.normalize("NFC", word.lstrip("+-")), 0 if word.startswith("-") else 1
        if name not in target:
            raise UnknownAttribute(text, _unknown(name, attributes))
        if wanted.get(name, value) != value:
            raise ContradictoryTarget(text, f"{name} is both set and cleared")
        wanted[name] = value
    for group in exclusive:
        chosen = [name for name in group if wanted.get(name) == 1]
        if len(chosen) > 1:
            raise ContradictoryTarget(text, f"{' and '.join(chosen)} exclude each other")
        if chosen:
            target.update(dict.fromkeys(group, 0))
    target.update(wanted)
    return list(target.values())


def _unknown(name: str, known: Sequence[str]) -> str:
    """Return that there is no such attribute, the one that is probably meant, and those that there are."""
    if not known:
        return f"no attribute {quoted(name)}; the images have no labels"
    shown = ", ".join(known[:LISTED]) + (f" and {len(known) - LISTED} more" if len(known) > LISTED else "")
    meant = "; separate names by commas" if ";" in name or " " in name.strip() else nearest(name, known)
    return f"no attribute {quoted(name)}{meant}; the attributes are {shown}"


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ': did you mean X?' where something near is known, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def change_domain(domains: npt.NDArray[np.int8], name: str, config: DataConfig) -> npt.NDArray[np.int8]:
    """Return domains [B, n] with attribute `name` flipped; one of an exclusive group is set and the rest cleared."""
    changed = domains.copy()
    column = config.attributes.index(name)
    group = next((group for group in config.exclusive if name in group), None)
    if config.domains == "one-hot":
        group = config.attributes
    if group is None:
        changed[:, column] = 1 - changed[:, column]
        return changed
    changed[:, [config.attributes.index(other) for other in group]] = 0
    changed[:, column] = 1
    return changed


def one_change_each(domains: npt.NDArray[np.int8], config: DataConfig) -> list[npt.NDArray[np.int8]]:
    """Return for each attribute the domains [B, n] with it changed."""
    return [change_domain(domains, name, config) for name in config.attributes]
