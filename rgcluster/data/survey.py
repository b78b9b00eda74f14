"""Survey of a source or of shards: counts, labels, image sizes, faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from PIL import Image

from rgcluster.base.placement import CPUS_PER_WRITER
from rgcluster.base.storage import Location
from rgcluster.data.images import UNREADABLE, UInt8Array, check_image, load_image, prepare_image, reason
from rgcluster.data.index import ROWS_PER_GROUP
from rgcluster.data.parallel import as_completed
from rgcluster.data.shards import QUARANTINE, UNREADABLE_IMAGES, Prepared, ShardSet
from rgcluster.data.sources import UNKNOWN, ImageTable, LeftOut, Tree

__all__ = ["Survey", "survey_shards", "survey_table"]

ROWS_PER_TASK = 1024
SHEET_IMAGES = 40
THUMBNAIL = 96

Progress = Callable[[int, int], None]


@dataclass
class Survey:
    """Findings on N images; `labels` int8 [N, A], `faults` (file, reason), `sizes` {(width, height): count}."""

    attributes: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    splits: dict[str, int]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    faults: list[tuple[str, str]] = field(default_factory=list)
    layout: str = ""
    left_out: LeftOut = field(default_factory=dict)
    """Names of ignored files by reason."""
    thumbnails: list[UInt8Array] = field(default_factory=list)

    def prevalence(self) -> dict[str, float]:
        """Return the share of labelled images that have each attribute."""
        known = self.labels.min(axis=1, initial=1) != UNKNOWN
        return {
            name: float(self.labels[known, column].mean()) if known.any() else float("nan")
            for column, name in enumerate(self.attributes)
        }

    def domains(self, attributes: Sequence[str]) -> Counter[tuple[str, ...]]:
        """Return the number of images with each combination of `attributes`."""
        columns = [self.attributes.index(name) for name in attributes]
        vectors, counts = np.unique(self.labels[:, columns], axis=0, return_counts=True)
        return Counter(
            {
                tuple(name for name, value in zip(attributes, vector, strict=True) if value == 1): int(count)
                for vector, count in zip(vectors, counts, strict=True)
                if UNKNOWN not in vector
            }
        )


@dataclass
class _Findings:
    rows: int
    sizes: Counter[tuple[int, int]]
    faults: list[tuple[str, str]]


def survey_table(table: ImageTable, progress: Progress | None = None) -> Survey:
    """Decode every image of a source."""
    splits = Counter(table.splits) if table.splits else Counter(undecided=len(table))
    survey = Survey(
        table.attributes, table.labels, dict(splits), layout=table.layout, left_out=table.left_out
    )
    starts = range(0, len(table), ROWS_PER_TASK)
    _gather(
        survey,
        lambda at: _survey_files.remote(table.tree, table.file_names[at : at + ROWS_PER_TASK]),
        starts,
        len(table),
        progress,
    )
    for row in _spread(len(table)):
        try:
            survey.thumbnails.append(_thumbnail(table.tree.read(table.file_names[row]), None))
        except UNREADABLE:
            continue  # among the faults already
    return survey


def survey_shards(shards: ShardSet, progress: Progress | None = None) -> Survey:
    """Check the checksum of every shard file, and decode every image."""
    index = shards.index()
    survey = Survey(shards.attributes, index.labels, dict(shards.splits))
    files = range(len(shards.files))
    _gather(survey, lambda number: _survey_shard.remote(shards, number), files, shards.rows, progress)
    if len(index) != shards.rows:
        survey.faults.append((shards.location, f"{len(index)} rows instead of {shards.rows}"))
    repeated = len(index) - len(np.unique(index.row_ids))
    if repeated:
        survey.faults.append((shards.location, f"{repeated} rows come twice"))
    quarantine = Location(shards.location) / QUARANTINE
    if shards.quarantined:
        survey.left_out = {UNREADABLE_IMAGES: tuple(item["file"] for item in quarantine.read_json())}
    if not survey.faults:
        encoded = shards.read_images(index.places[_spread(len(index))])
        survey.thumbnails = [_thumbnail(content, shards.prepared) for content in encoded]
    return survey


def _spread(count: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, SHEET_IMAGES)).astype(np.int64))


def _gather(
    survey: Survey, submit: Callable[[int], Any], items: Sequence[int], total: int, progress: Progress | None
) -> None:
    """Add the results of the tasks to the survey, in the order of the items however they end."""
    rows = 0
    sizes: Counter[tuple[int, int]] = Counter()
    faults: dict[int, list[tuple[str, str]]] = {}
    for number, found in as_completed(submit, items):
        rows += found.rows
        sizes.update(found.sizes)
        if found.faults:
            faults[number] = found.faults
        if progress:
            progress(rows, total)
    survey.sizes = Counter(dict(sorted(sizes.items())))
    survey.faults += [fault for number in sorted(faults) for fault in faults[number]]


def _decode_all(images: Iterable[tuple[str, Callable[[], bytes | memoryview]]]) -> _Findings:
    findings = _Findings(0, Counter(), [])
    for name, read in images:
        findings.rows += 1
        try:
            findings.sizes[check_image(read())] += 1
        except UNREADABLE as error:
            findings.faults.append((name, reason(error)))
    return findings


@ray.remote(num_cpus=CPUS_PER_WRITER)
def _survey_files(tree: Tree, names: list[str]) -> _Findings:
    return _decode_all((name, lambda name=name: tree.read(name)) for name in names)  # type: ignore[misc]


@ray.remote(num_cpus=CPUS_PER_WRITER)
def _survey_shard(shards: ShardSet, number: int) -> _Findings:
    path = shards.path(number)
    if path.digest() != shards.checksums[number]:
        return _Findings(0, Counter(), [(str(path), "differs from its checksum; write the shards again")])
    names = shards.read(number, ["file_name"])["file_name"].to_pylist()
    prepared = shards.prepared
    if prepared is not None and prepared.format == "raw":
        return _Findings(len(names), Counter({(prepared.size, prepared.size): len(names)}), [])
    images = (
        (f"{path}: {name}", lambda content=content: content)
        for name, content in zip(names, _stored(shards, number, len(names)), strict=True)
    )
    return _decode_all(images)  # type: ignore[arg-type]


def _stored(shards: ShardSet, number: int, rows: int) -> Iterator[memoryview]:
    """Yield the images of a file, of which a row group at a time is in memory."""
    for start in range(0, rows, ROWS_PER_GROUP):
        group = np.arange(start, min(start + ROWS_PER_GROUP, rows))
        yield from shards.read_images(np.stack([np.full_like(group, number), group], axis=1))


def _thumbnail(content: bytes | memoryview, prepared: Prepared | None) -> UInt8Array:
    if prepared is not None and prepared.format == "raw":
        pixels = np.frombuffer(content, np.uint8).reshape(prepared.size, prepared.size, 3)
        return prepare_image(Image.fromarray(pixels), 0, THUMBNAIL)
    return prepare_image(load_image(content), 0, THUMBNAIL)
