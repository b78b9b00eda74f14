"""Matching of names in a table with existing files."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath

from rgcluster.data.sources.trees.tree import Tree
from rgcluster.errors import DataError, quoted

__all__ = ["match_names"]


def match_names(
    listed: Sequence[str], present: Sequence[str], tree: Tree, source: str, first_line: int, remedy: str
) -> list[str]:
    """Return the files of the tree for a table's names, in the table's order.

    A name matches the file of that name; else the one with the same text in another encoding of accents and slashes;
    else the one in the folder that holds every listed file. DataError names similar files.
    """
    known = set(present)
    if known.issuperset(listed):
        return list(listed)
    written = {_plain(name): name for name in present}
    plain = [_plain(name) for name in listed]
    prefix = "" if plain and plain[0] in written else _folder_of(plain, written, tree, source)
    found = []
    for line, (name, key) in enumerate(zip(listed, plain, strict=True), start=first_line):
        file = name if not prefix and name in known else written.get(prefix + key)
        if file is None:
            there = _like(key, written)
            what = f"{source}: line {line} lists {quoted(name)}, which is not in {tree}"
            raise DataError(f"{what}; {there} is: correct the name" if there else f"{what}; {remedy}")
        found.append(file)
    return found


def _plain(name: str) -> str:
    """Return a name with composed accents and forward slashes."""
    return unicodedata.normalize("NFC", name.strip()).replace("\\", "/").removeprefix("./")


def _folder_of(plain: list[str], written: dict[str, str], tree: Tree, source: str) -> str:
    """Return the only folder with every listed file; empty if there is none, DataError for several."""
    if not plain:
        return ""
    ends = f"/{plain[0]}"
    prefixes = [name[: 1 - len(ends)] for name in written if name.endswith(ends)]
    whole = [prefix for prefix in prefixes if all(prefix + name in written for name in plain)]
    if len(whole) > 1:
        raise DataError(
            f"{source}: the files lie in {tree}/{whole[0]} and in {tree}/{whole[1]}; choose one with --images"
        )
    return whole[0] if whole else ""


def _like(name: str, written: dict[str, str]) -> str | None:
    """Return a file whose name differs only by its suffix, case, folder or leading zeros."""
    path = PurePosixPath(name)
    for same in (
        lambda other: other.casefold() == name.casefold(),
        lambda other: str(PurePosixPath(other).with_suffix("")) in (name, str(path.with_suffix(""))),
        lambda other: PurePosixPath(other).name == path.name,
        lambda other: PurePosixPath(other).stem == path.stem,
        lambda other: PurePosixPath(other).stem.lstrip("0") == path.stem.lstrip("0"),
    ):
        near = next((other for other in written if same(other)), None)
        if near is not None:
            return written[near]
    return None
