"""What planning takes in memory beside the names of the files: bytes a file, which stay the same for any number."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.data.sources import ImageTable, guess_layout, read_celeba
from rgcluster.data.sources.classes import read_classes
from rgcluster.data.sources.files import files_of
from rgcluster.data.sources.trees.tree import MAX_FILE_BYTES

COUNT = 20_000


class Nowhere:
    """Files that have names alone, and perhaps CelebA's table of them."""

    def __init__(self, pattern: str, table: str = "") -> None:
        self._names = [pattern.format(number, number % 3) for number in range(COUNT)]
        row = " ".join(["-1"] * len(CELEBA_ATTRIBUTES))
        lines = [str(COUNT), " ".join(CELEBA_ATTRIBUTES)]
        lines += [f"{name.rpartition('/')[2]} {row}" for name in self._names]
        self._content = "\n".join(lines).encode()
        self._names = sorted([*self._names, table] if table else self._names)

    def __str__(self) -> str:
        return "nowhere"

    def names(self) -> list[str]:
        return self._names

    def head(self, name: str, count: int) -> bytes:
        raise FileNotFoundError(name)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        return self._content


@pytest.mark.parametrize(
    ("tree", "layout", "read", "most"),
    [
        (Nowhere("pets/class{1}/{0:09d}.jpg"), "classes", read_classes, 150),
        (Nowhere("img_align_celeba/{0:09d}.jpg", "list_attr_celeba.txt"), "celeba", read_celeba, 450),
    ],
    ids=["classes", "celeba"],
)
def test_bytes_a_file(
    tmp_path: Path, tree: Nowhere, layout: str, read: Callable[..., ImageTable], most: int
) -> None:
    """Among them are the names without their common folder, 80 bytes, and of CelebA's table 130 bytes of text."""
    files = files_of(tree)
    tracemalloc.start()
    assert guess_layout(tmp_path, files) == layout
    table = read(tmp_path, files)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == COUNT
    assert peak / COUNT < most
