"""JPEG files of drawn faces, from which `rgcluster bench data` reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from rgcluster.config import load_config
from rgcluster.data.shards import ShardSet
from rgcluster.data.sources import ImageTable, read_celeba
from rgcluster.data.stream import ImageSource, open_source
from rgcluster.faces import write_faces

__all__ = ["CROP", "SIZE", "make_files", "open_training"]

SIZE = 128
CROP = 178
DRAWN = 2000


def make_files(folder: Path, count: int) -> ImageTable:
    """Draw up to `DRAWN` faces and write `count` copies of them as separate files in CelebA's layout."""
    faces = folder / "faces"
    write_faces(faces, min(DRAWN, count), seed=0)
    drawn = read_celeba(faces)
    target = folder / "celeba"
    images = target / "img_align_celeba"
    images.mkdir(parents=True)
    lines = [str(count), " ".join(drawn.attributes)]
    for number in range(count):
        row = number % len(drawn)
        name = f"{number + 1:06d}.jpg"
        shutil.copyfile(faces / "img_align_celeba" / drawn.file_names[row], images / name)
        lines.append(f"{name} " + " ".join("1" if value else "-1" for value in drawn.labels[row]))
    (target / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    return read_celeba(target)


def open_training(shards: ShardSet) -> ImageSource:
    """Open the training split of the files' shards, whose images are not kept in memory."""
    config = load_config("celeba128", [f"data.image_size={SIZE}", f"data.crop={CROP}", "data.cache_mib=0"])
    return open_source(shards, config.data, "train")
