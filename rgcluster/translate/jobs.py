"""Batches of requests: each is a picture and target styles, and a batch takes few forward passes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.base.storage import Location
from rgcluster.config import Config
from rgcluster.errors import RGClusterError, StoreUnavailable
from rgcluster.model.gmm import prior_mean
from rgcluster.store.client import Neighbours, Pending, Store
from rgcluster.store.index.exact import NO_ID
from rgcluster.translate.device import Device
from rgcluster.translate.familiar import Familiarity
from rgcluster.translate.finished import KEEP, Judge
from rgcluster.translate.guided import load_models
from rgcluster.translate.retriever import Retriever
from rgcluster.translate.tensors import to_images, to_pixels
from rgcluster.translate.variants import Guidance, variants_of

__all__ = ["Job", "Outcome", "Translators"]

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

FAMILIAR_IMAGES = 640
"""Stored images for `Familiarity`: four in five to compare with, the others to find the usual distance."""


@dataclass(frozen=True)
class Job:
    """A picture and its R requested translations.

    pixels uint8 [h, w, 3]; targets [T, n] of 1, 0 and KEEP; weights [R, T] mix the targets' mean styles;
    noise [R, n * style_dim]. With `reference`, a picture like pixels, the targets are replaced by its style.
    """

    pixels: UInt8Array
    targets: npt.NDArray[np.int8]
    weights: FloatArray
    noise: FloatArray
    reference: UInt8Array | None = None
    guidance: Guidance = "on"
    seed: int = 0
    row_id: int = NO_ID

    @property
    def rows(self) -> int:
        return len(self.noise)


@dataclass(frozen=True)
class Outcome:
    """The result of a job: images uint8 [R, h, w, 3], masks uint8 [R, h, w], and how they were made.

    own [n] are the attributes that D sees in the picture, if the targets needed them. unlikeness is the distance
    of the picture's content to the nearest training image's, up to 1 for usual pictures. `degraded`: no store
    answered, so the translation is unguided.
    """

    images: UInt8Array
    masks: UInt8Array
    targets: npt.NDArray[np.int8]
    own: FloatArray | None
    neighbours: Neighbours | None
    variant: str
    degraded: bool
    unlikeness: float
    batch_rows: int
    seconds: float


class _Batch(NamedTuple):
    """The pictures of B jobs, encoded, and the styles of their R rows.

    owner [R] is the job of each row; image [B, 3, h, w]; content [B, C, h, w]; own_style [B, n * style_dim], where G
    compares styles with it; style [R, n * style_dim].
    """

    owner: npt.NDArray[np.int64]
    image: Tensor
    content: Tensor
    own_style: Tensor | None
    style: Tensor


@dataclass
class _Rows:
    """The rows of a batch with the same kind of guidance, and their results."""

    index: npt.NDArray[np.int64]
    pending: list[Pending[Neighbours]] = field(default_factory=list)
    neighbours: Neighbours | None = None
    failure: RGClusterError | None = None
    degraded: bool = False


class Translators:
    """The translators of one run, for batches of jobs of every kind.

    With `degrade`, a job is translated without neighbours if the store is unavailable; else it fails.
    """

    def __init__(
        self, run: Location, config: Config, store: Store, device: Device, *, max_rows: int, degrade: bool
    ) -> None:
        wanted = variants_of(config.guidance.variants)
        models = load_models(run, config, store, device, ("gmm-unit", *wanted.values()))
        self._models = {kind: models[name] for kind, name in wanted.items()}
        self._base = models["gmm-unit"].translator
        retriever = models["rg-unit"].retriever
        assert retriever is not None
        self.retriever: Retriever = retriever
        self._judge = Judge(run, config, device)
        self.config, self.device, self.max_rows, self.degrade = config, device, max_rows, degrade
        self._familiarity: Familiarity | None = None

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job]) -> list[Outcome | RGClusterError]:
        """Return the outcome or the error of each job."""
        start = time.perf_counter()
        image = to_images(np.stack([job.pixels for job in jobs]), self.device)
        own, targets = self._targets(jobs, image)
        owner = np.repeat(np.arange(len(jobs)), [job.rows for job in jobs])
        with self.device.autocast():
            content, own_style = self._base.content_encoder(image), self._base.own_style(image)
        batch = _Batch(owner, image, content, own_style, self._styles(jobs, targets))
        known = self._familiarity
        unlikeness = known.distance(content).tolist() if known else [0.0] * len(jobs)

        kinds = np.array([job.guidance for job in jobs])[owner]
        groups = {kind: _Rows(np.flatnonzero(kinds == kind)) for kind in ("off", "random", "on")}
        for kind in ("on", "random"):  # issued first, collected last
            self._ask(kind, groups[kind], jobs, batch)
        images = np.empty((len(owner), *jobs[0].pixels.shape), np.uint8)
        masks = np.empty(images.shape[:3], np.uint8)
        for kind, rows in groups.items():
            self._generate(kind, rows, batch, images, masks)

        seconds = time.perf_counter() - start
        outcomes: list[Outcome | RGClusterError] = []
        for number, job in enumerate(jobs):
            group, mine = groups[job.guidance], owner == number
            if group.failure is not None:
                outcomes.append(group.failure)
                continue
            near = _take(group.neighbours, mine[group.index])
            outcomes.append(
                Outcome(
                    images[mine], masks[mine], targets[number], own.get(number), near,
                    self._models["off" if group.degraded else job.guidance].name, group.degraded,
                    unlikeness[number], len(owner), seconds,
                )
            )  # fmt: skip
        return outcomes

    @torch.inference_mode()
    def neighbours(self, job: Job, count: int) -> Neighbours:
        """Return the `count` stored images nearest to each of the job's rows."""
        image = to_images(job.pixels[None], self.device)
        _, targets = self._targets([job], image)
        with self.device.autocast():
            content = self._base.content_encoder(image)
        images, contents = (each.expand(job.rows, -1, -1, -1) for each in (image, content))
        query = self.retriever.query(images, contents, self._styles([job], targets))
        return self.retriever.store.neighbours(query, count, np.full(job.rows, job.row_id))

    def warm_up(self) -> None:
        """Translate batches of every kind, and prepare the computation of unlikeness."""
        size, n = self.config.data.image_size, self.config.num_attributes
        blank = np.full((size, size, 3), 128, np.uint8)
        for rows in (1, self.max_rows):
            noise = np.zeros((1, self.config.style_size), np.float32)
            target = np.full((1, n), KEEP, np.int8)
            one = np.ones((1, 1), np.float32)
            for kind in self._models:
                self.run([Job(blank, target, one, noise, guidance=kind)] * rows)
        self._familiarity = self._make_familiarity()

    @torch.inference_mode()
    def _make_familiarity(self) -> Familiarity:
        store = self.retriever.store
        ids = store.ids()
        pixels = store.fetch(
            np.random.default_rng(0).choice(ids, min(FAMILIAR_IMAGES, len(ids)), replace=False)
        )
        contents = []
        for part in self._chunks(np.arange(len(pixels))):
            with self.device.autocast():
                contents.append(self._base.content_encoder(to_images(pixels[part], self.device)))
        known = max(1, len(pixels) * 4 // 5)
        content = torch.cat(contents)
        return Familiarity(content[:known], content[known:] if len(content) > known else content)

    def _targets(
        self, jobs: Sequence[Job], image: Tensor
    ) -> tuple[dict[int, FloatArray], list[npt.NDArray[np.int8]]]:
        """Return the attributes that D sees in the pictures that need it, and all targets with KEEP replaced."""
        incomplete = [number for number, job in enumerate(jobs) if (job.targets == KEEP).any()]
        if not incomplete:
            return {}, [job.targets for job in jobs]
        probabilities = self._judge.probabilities(image[incomplete])
        domains = self._judge.domains(probabilities)
        own = dict(zip(incomplete, probabilities, strict=True))
        seen = dict(zip(incomplete, domains, strict=True))
        targets = [
            np.where(job.targets == KEEP, seen[number], job.targets) if number in seen else job.targets
            for number, job in enumerate(jobs)
        ]
        return own, targets

    def _styles(self, jobs: Sequence[Job], targets: Sequence[npt.NDArray[np.int8]]) -> Tensor:
        """Return the style of every row [R, n * style_dim]."""
        parts, std = [], self.config.model.prior_std
        for job, target in zip(jobs, targets, strict=True):
            noise = std * torch.from_numpy(job.noise)
            if job.reference is not None:
                with self.device.autocast():
                    mean = self._base.style_encoder(to_images(job.reference[None], self.device)).mean
                parts.append(mean.float().cpu() + noise)
            else:
                means = prior_mean(torch.from_numpy(target), self.config.model.style_dim)
                parts.append(torch.from_numpy(job.weights) @ means + noise)
        return torch.cat(parts).to(self.device.torch)

    def _chunks(self, index: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        for start in range(0, len(index), self.max_rows):
            yield index[start : start + self.max_rows]

    def _ask(
        self,
        kind: Literal["on", "random"],
        rows: _Rows,
        jobs: Sequence[Job],
        batch: _Batch,
    ) -> None:
        """Issue the group's queries, at most max_rows of them a call."""
        owner, store, count = batch.owner, self.retriever.store, self.config.guidance.retrieval_count
        first = np.searchsorted(owner, owner)  # first row of each row's job
        try:
            for chunk in self._chunks(rows.index):
                owners = owner[chunk]
                barred = np.array([jobs[number].row_id for number in owners], np.int64)
                if kind == "on":
                    query = self.retriever.query(
                        batch.image[owners], batch.content[owners], batch.style[chunk]
                    )
                    rows.pending.append(store.neighbours_async(query, count, barred))
                else:
                    keys = [
                        jobs[owner[row]].seed * 1_000_003 + int(row - first[row]) & (1 << 62) - 1
                        for row in chunk
                    ]
                    rows.pending.append(store.random_async(keys, count, barred, seed=0))
        except RGClusterError as error:
            self._fail(rows, error)

    def _generate(
        self,
        kind: str,
        rows: _Rows,
        batch: _Batch,
        images: UInt8Array,
        masks: UInt8Array,
    ) -> None:
        """Collect the group's neighbours and write its images and masks."""
        try:
            found = [pending.result() for pending in rows.pending]
        except RGClusterError as error:
            self._fail(rows, error)
            found = []
        if rows.failure is not None:
            return
        rows.neighbours = _join(found) if found else None
        model = self._models["off" if rows.degraded or kind == "off" else kind]  # type: ignore[index]
        near = iter(found)
        for chunk in self._chunks(rows.index):
            mine = batch.owner[chunk]
            own = None if batch.own_style is None else batch.own_style[mine]
            with self.device.autocast():
                references = self.retriever.encode(next(near)) if found else None
                fused = model.translator.fuse(batch.content[mine], references)
                made = model.translator.generate(fused, batch.style[chunk], batch.image[mine], own=own)
            images[chunk] = to_pixels(made.image)
            masks[chunk] = made.mask[:, 0].float().mul(255).round_().to(torch.uint8).cpu().numpy()

    def _fail(self, rows: _Rows, error: RGClusterError) -> None:
        if self.degrade and isinstance(error, StoreUnavailable):
            rows.degraded, rows.pending = True, []
        else:
            rows.failure = error


def _join(parts: Sequence[Neighbours]) -> Neighbours:
    if len(parts) == 1:
        return parts[0]
    return Neighbours(*(np.concatenate([getattr(part, name) for part in parts]) for name in _NEIGHBOURS))


def _take(near: Neighbours | None, rows: npt.NDArray[np.bool_]) -> Neighbours | None:
    if near is None:
        return None
    return Neighbours(*(getattr(near, name)[rows] for name in _NEIGHBOURS))


_NEIGHBOURS = ("ids", "distances", "images")
