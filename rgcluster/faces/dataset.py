"""A set of drawn faces: any face by its index, and the whole set as files in CelebA's layout."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rgcluster.base.storage import Location
from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.errors import DataError
from rgcluster.faces.drawing import draw_face
from rgcluster.faces.sampling import sample_attributes, with_changes

__all__ = ["RECIPE_FILE", "FaceSet", "load_face_set", "write_faces"]

IMAGE_FOLDER = "img_align_celeba"
ATTRIBUTE_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
RECIPE_FILE = "faces.json"
"""File of a finished set, with its seed and count."""
UNFINISHED_FILE = "faces.unfinished.json"

_GENERATOR = "drawn-faces"
_VERSION = 1
_CHUNK = 64
_PARTITION_OF_TEN = (0, 0, 0, 0, 0, 0, 0, 0, 1, 2)  # train, validation, test


@dataclass(frozen=True)
class FaceSet:
    """`count` drawn faces, each determined by `seed` and its index."""

    seed: int
    count: int

    def face(self, index: int) -> tuple[dict[str, int], int]:
        """Return the attributes and the face seed of the face at `index`, counted from 0."""
        if not 0 <= index < self.count:
            raise DataError(f"face {index} is not in a set of {self.count}: use 0 to {self.count - 1}")
        rng = np.random.default_rng([self.seed, index])
        face_seed = int(rng.integers(2**63))
        return sample_attributes(rng), face_seed

    def image(self, index: int) -> np.ndarray:
        """Return the face at `index`, uint8 [218, 178, 3]."""
        return draw_face(*self.face(index))

    def jpeg(self, index: int) -> bytes:
        """Return the face at `index` as JPEG."""
        sink = io.BytesIO()
        Image.fromarray(self.image(index)).save(sink, "JPEG", quality=95, subsampling=0)
        return sink.getvalue()

    def file_name(self, index: int) -> str:
        return f"{index + 1:06d}.jpg"

    def partition(self, index: int) -> int:
        """Return 0 where the face is for training, 1 for validation, 2 for the test."""
        return _PARTITION_OF_TEN[index % 10]

    def counterfactual(
        self, index: int, changes: Mapping[str, int], dye: tuple[int, int, int] | None = None
    ) -> np.ndarray:
        """Return the same person with `changes` made by `with_changes`, and hair of `dye`, uint8 [218, 178, 3]."""
        attributes, face_seed = self.face(index)
        return draw_face(with_changes(attributes, changes), face_seed, dye)


def write_faces(
    directory: Path,
    count: int,
    seed: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `count` faces into `directory` in CelebA's layout.

    An interrupted call is continued by the same call: images already there are
    kept, and `faces.json` appears once everything else is complete. `workers`
    is the number of processes, by default one per core; `progress` is called
    with (images written, `count`).
    """
    directory = Path(directory)
    face_set = FaceSet(seed, count)
    (directory / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    if _claim(directory, face_set):
        return
    _write_images(directory, face_set, workers or os.cpu_count() or 1, progress)
    _remove_leftovers(directory)
    _write_text(directory / ATTRIBUTE_FILE, _attribute_lines(face_set))
    _write_text(directory / PARTITION_FILE, _partition_lines(face_set))
    os.replace(directory / UNFINISHED_FILE, directory / RECIPE_FILE)


def load_face_set(directory: Path | Location) -> FaceSet | None:
    """Return the set written into `directory`, or None where there is no finished set."""
    path = directory / RECIPE_FILE
    return _read_recipe(path) if path.exists() else None


def _claim(directory: Path, face_set: FaceSet) -> bool:
    """Mark `directory` as the target of `face_set`; return True if it is complete already."""
    for name in (RECIPE_FILE, UNFINISHED_FILE):
        path = directory / name
        if not path.exists():
            continue
        found = _read_recipe(path)
        if found != face_set:
            raise DataError(
                f"{path}: holds seed {found.seed} and count {found.count}, not seed {face_set.seed} "
                f"and count {face_set.count}: use the same values or another directory"
            )
        return name == RECIPE_FILE
    if next(_images(directory), None) is not None:
        raise DataError(f"{directory / IMAGE_FOLDER}: holds images of unknown origin: use another directory")
    _write_text(directory / UNFINISHED_FILE, [_recipe(face_set)])
    return False


def _recipe(face_set: FaceSet) -> str:
    recipe = {
        "generator": _GENERATOR,
        "version": _VERSION,
        "seed": face_set.seed,
        "count": face_set.count,
    }
    return json.dumps(recipe)


def _read_recipe(path: Path | Location) -> FaceSet:
    try:
        recipe = json.loads(path.read_bytes())
        made_by = (recipe["generator"], recipe["version"])
        face_set = FaceSet(int(recipe["seed"]), int(recipe["count"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a description of drawn faces: delete its directory") from error
    if made_by != (_GENERATOR, _VERSION):
        raise DataError(
            f"{path}: made by {made_by[0]} version {made_by[1]}, not {_GENERATOR} version {_VERSION}: "
            f"draw the faces again into another directory"
        )
    return face_set


def _write_images(
    directory: Path,
    face_set: FaceSet,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    chunks = [range(s, min(s + _CHUNK, face_set.count)) for s in range(0, face_set.count, _CHUNK)]
    written = 0
    for finished in _run(directory, face_set, chunks, min(workers, len(chunks))):
        written += finished
        if progress is not None:
            progress(written, face_set.count)


def _run(directory: Path, face_set: FaceSet, chunks: list[range], workers: int) -> Iterator[int]:
    """Write every chunk, yielding the length of each as it is finished."""
    if workers <= 1:
        for chunk in chunks:
            yield _write_chunk(directory, face_set, chunk)
        return
    # Spawned, because a fork of a process with threads may deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            futures = [pool.submit(_write_chunk, directory, face_set, chunk) for chunk in chunks]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_chunk(directory: Path, face_set: FaceSet, chunk: range) -> int:
    for index in chunk:
        path = directory / IMAGE_FOLDER / face_set.file_name(index)
        if path.exists():
            continue
        temporary = _temporary(path)
        temporary.write_bytes(face_set.jpeg(index))
        os.replace(temporary, path)
    return len(chunk)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _images(directory: Path) -> Iterator[Path]:
    return (directory / IMAGE_FOLDER).glob("*.jpg")


def _remove_leftovers(directory: Path) -> None:
    for temporary in (directory / IMAGE_FOLDER).glob("*.tmp"):
        temporary.unlink()


def _attribute_lines(face_set: FaceSet) -> Iterator[str]:
    yield str(face_set.count)
    yield " ".join(CELEBA_ATTRIBUTES) + " "  # CelebA's own line ends with a space
    for index in range(face_set.count):
        attributes, _ = face_set.face(index)
        signs = (1 if attributes[name] else -1 for name in CELEBA_ATTRIBUTES)
        yield " ".join([face_set.file_name(index), *(f"{sign:2d}" for sign in signs)])


def _partition_lines(face_set: FaceSet) -> Iterator[str]:
    for index in range(face_set.count):
        yield f"{face_set.file_name(index)} {face_set.partition(index)}"


def _write_text(path: Path, lines: Iterator[str] | list[str]) -> None:
    """Write `lines` atomically: the file is complete or absent."""
    temporary = _temporary(path)
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
    os.replace(temporary, path)
