"""Approximate indexes stored beside their snapshot, so that a restarted shard does not rebuild them.

A missing or damaged index is rebuilt. Each one has two files: the index, and a JSON file with its plan and
checksum, which is written last.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rgcluster.errors import CheckpointError
from rgcluster.store.disk.snapshot import file_digest
from rgcluster.store.index.approximate import ApproximateIndex
from rgcluster.store.index.exact import ExactIndex, Index
from rgcluster.store.index.plan import Plan
from rgcluster.store.index.rows import Rows

__all__ = ["load_index", "make_index", "save_index"]


def make_index(
    plan: Plan,
    ids: NDArray[np.int64],
    tags: NDArray[np.uint8],
    vectors: Rows,
    file: Path | None = None,
    *,
    gpu: bool = False,
    threads: int = 1,
    log: Callable[[str], None] = lambda line: None,
) -> Index:
    """Return the planned index of `vectors` [N, d]: load it from `file` if it matches, or build and save it."""
    if plan.kind == "exact":
        exact = ExactIndex(plan.dimension, gpu=gpu)
        exact.add(ids, vectors.read(np.arange(len(ids))), tags)
        return exact
    if file is not None and file.exists():
        try:
            return load_index(file, plan, ids, tags, vectors, gpu=gpu)
        except CheckpointError as error:
            log(f"{error}; rebuilding the index")
    index = ApproximateIndex.build(plan, ids, tags, vectors, threads=threads, gpu=gpu, log=log)
    if file is not None:
        save_index(index, file)
    return index


def save_index(index: ApproximateIndex, file: Path) -> None:
    """Write an index and its JSON file, each atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        index.write(temporary)
        note = {
            "plan": asdict(index.plan),
            "effort": index.effort,
            "recall": index.measured_recall,
            "sha256": file_digest(temporary),
        }
        os.replace(temporary, file)
        temporary.write_text(json.dumps(note, indent=2) + "\n")
        os.replace(temporary, _note(file))
    finally:
        temporary.unlink(missing_ok=True)


def load_index(
    file: Path,
    plan: Plan,
    ids: NDArray[np.int64],
    tags: NDArray[np.uint8],
    vectors: Rows,
    *,
    gpu: bool = False,
) -> ApproximateIndex:
    """Return the index in `file`; CheckpointError if it is damaged or does not match the plan."""
    try:
        note = json.loads(_note(file).read_text())
        fits = note["plan"] == json.loads(json.dumps(asdict(plan)))
        whole = file_digest(file) == note["sha256"]
        effort, recall = int(note["effort"]), float(note["recall"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: no readable note beside it ({error})") from None
    if not whole:
        raise CheckpointError(f"{file}: differs from its checksum")
    if not fits:
        raise CheckpointError(f"{file}: made by another plan")
    return ApproximateIndex.read(file, plan, ids, tags, vectors, effort, recall, gpu=gpu)


def _note(file: Path) -> Path:
    return file.with_suffix(".json")
