"""Approximate indexes kept in their snapshot, so that each is built once and only mapped into memory from then on.

Each has two files below `indexes/`: the index, and a JSON file with its plan and checksum, which is written last.
A missing or damaged index is built again. Machines that serve a remote snapshot map a copy of their own.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgcluster.base.locks.files import locked
from rgcluster.base.storage import Location
from rgcluster.errors import CheckpointError, StorageError
from rgcluster.store.disk.snapshot import file_digest
from rgcluster.store.index.approximate import ApproximateIndex
from rgcluster.store.index.exact import ExactIndex, Index
from rgcluster.store.index.plan import Plan
from rgcluster.store.index.rows import Rows

__all__ = ["INDEXES", "make_index", "verify_indexes"]

INDEXES = "indexes"

log = logging.getLogger(__name__)


def make_index(
    plan: Plan,
    ids: NDArray[np.int64],
    tags: NDArray[np.uint8],
    vectors: Rows,
    file: Path,
    *,
    remote: Location | None = None,
    verify: bool = False,
    gpu: bool = False,
) -> Index:
    """Return the planned index of `vectors` [N, d]: the one in `file` if there is one, else build and keep it.

    `remote` is where the index of a remote snapshot is kept; `file` is a copy of it. With `verify`, an index that
    differs from its checksum is built again.
    """
    if plan.kind == "exact":
        exact = ExactIndex(plan.dimension, gpu=gpu)
        exact.add(ids, vectors.read(np.arange(len(ids))), tags)
        return exact

    def load() -> ApproximateIndex:
        note = _read_note(file, plan, verify)
        return ApproximateIndex.read(
            file, plan, ids, tags, vectors, int(note["effort"]), float(note["recall"]), gpu=gpu
        )

    with locked(file.with_suffix(".lock")):  # another replica may be building it
        if remote is not None and not file.exists():
            _download(remote, file)
        if file.exists():
            try:
                return load()
            except CheckpointError as error:
                log.warning("%s; rebuilding the index", error)
        _save(ApproximateIndex.build(plan, ids, tags, vectors, gpu=gpu), file)
        if remote is not None:
            try:
                (remote / file.name).upload(file)
                (remote / _note(file).name).upload(_note(file))
            except StorageError as error:
                log.warning("the index is kept on this machine only: %s", error)
        return load()


def verify_indexes(place: Location) -> None:
    """Compare every index of a snapshot with its checksum; CheckpointError names the first that differs."""
    for name in (place / INDEXES).names():
        if name.endswith(".json"):
            file = place / INDEXES / f"{name.removesuffix('.json')}.faiss"
            if file.sha256() != (place / INDEXES / name).read_json()["sha256"]:
                raise CheckpointError(
                    f"{file}: differs from its checksum; remove it, the store builds it again"
                )


def _save(index: ApproximateIndex, file: Path) -> None:
    """Write an index and its JSON file, each atomically."""
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        index.write(temporary)
        note = {
            "plan": asdict(index.plan),
            "effort": index.effort,
            "recall": index.measured_recall,
            "bytes": temporary.stat().st_size,
            "sha256": file_digest(temporary),
        }
        os.replace(temporary, file)
        temporary.write_text(json.dumps(note, indent=2) + "\n")
        os.replace(temporary, _note(file))
    finally:
        temporary.unlink(missing_ok=True)


def _read_note(file: Path, plan: Plan, verify: bool) -> dict[str, Any]:
    """Return the content of an index's JSON file; CheckpointError if the index is another, or damaged."""
    try:
        note = json.loads(_note(file).read_text())
        planned, digest, _ = note["plan"], note["sha256"], (note["effort"], note["recall"])
        whole = file.stat().st_size == note.get("bytes", file.stat().st_size)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: no readable note beside it ({error})") from None
    if not whole or (verify and file_digest(file) != digest):
        raise CheckpointError(f"{file}: differs from its checksum")
    if planned != json.loads(json.dumps(asdict(plan))):
        raise CheckpointError(f"{file}: made by another plan")
    return note


def _download(remote: Location, file: Path) -> None:
    """Copy an index and its JSON file from a remote snapshot, if it holds them."""
    temporary, note = file.with_name(f"{file.name}.tmp"), _note(file)
    try:
        (remote / note.name).download(note)
        if (remote / file.name).download(temporary) == json.loads(note.read_text())["sha256"]:
            os.replace(temporary, file)
    except (FileNotFoundError, ValueError, KeyError):  # none, or a damaged one
        pass
    finally:
        temporary.unlink(missing_ok=True)


def _note(file: Path) -> Path:
    return file.with_suffix(".json")
