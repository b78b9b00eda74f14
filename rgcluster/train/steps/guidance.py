"""Stage 3: the translator guided by the contents of similar real images from the store.

The queries for translation and reconstruction depend on the batch alone (encoders and R are frozen), so
they are issued one batch ahead. The cycle's query depends on x_hat: it is issued as soon as x_hat is
encoded and collected after the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rgcluster.base.attributes import one_change_each
from rgcluster.base.storage import Location
from rgcluster.config import GuidanceConfig
from rgcluster.data.images import grid
from rgcluster.model.fusion import References
from rgcluster.model.gmm import prior_mean
from rgcluster.model.handover import (
    encoder_digests,
    has_new_discriminator,
    is_guided,
    load_discriminator,
    load_retrieval,
    load_translator,
    save_networks,
)
from rgcluster.model.losses import Parts
from rgcluster.model.noise import Draw, derived_seed, keyed_integers
from rgcluster.model.translator import Batch, Translator, style_of
from rgcluster.store.client import Neighbours, Pending
from rgcluster.store.store import RayStore
from rgcluster.train.stage import Run, Stage, Worker
from rgcluster.train.steps.side_by_side import SideBySide
from rgcluster.train.steps.translation import SAMPLE_ROWS, make_ingest, make_perceptual, stream_blocks
from rgcluster.train.steps.translator import Piece, TranslatorTrainer
from rgcluster.translate.retriever import Retriever
from rgcluster.translate.tensors import to_images, to_pixels

__all__ = ["GuidanceStage", "StoreGuide"]

IntArray = npt.NDArray[np.int64]


class StoreGuide:
    """The references of one step's passes (`model.translator.Guide`), from the store.

    `move`, if given, makes the references of reconstruction and cycle from `image` [B, 3, H, W], which both are to
    paint.
    """

    def __init__(
        self,
        retriever: Retriever,
        queries: Pending[Neighbours],
        row_ids: IntArray,
        key: int,
        *,
        random: bool,
        fuse_cycle: bool,
        image: Tensor,
        move: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._retriever, self._queries, self._row_ids, self._key = retriever, queries, row_ids, key
        self._random, self._fuse_cycle, self._image, self._move = random, fuse_cycle, image, move
        self._cycle: Pending[Neighbours] | None = None

    def translation(self) -> References:
        return self._found[0]

    def reconstruction(self) -> References:
        return self._found[1] if self._move is None else self._itself

    def issue_cycle(self, image: Tensor, content: Tensor, style: Tensor) -> None:
        if self._fuse_cycle and self._move is None:
            self._cycle = self._retriever.issue(
                image.detach(),
                content.detach(),
                style.detach(),
                self._row_ids,
                self._key + 1,
                random=self._random,
            )

    def cycle(self) -> References | None:
        if not self._fuse_cycle:
            return None
        return self._itself if self._cycle is None else self._retriever.references(self._cycle)

    @cached_property
    def _found(self) -> tuple[References, References]:
        """References of translation and, unless moved, of reconstruction, queried and encoded together."""
        found = self._retriever.references(self._queries)
        if self._move is not None:
            return found, found
        (first, second), (first_contents, second_contents) = (value.chunk(2) for value in found)
        return References(first, first_contents), References(second, second_contents)

    @cached_property
    def _itself(self) -> References:
        """The moved image, encoded once; M times where f takes no other number."""
        assert self._move is not None
        config = self._retriever.config
        with self._retriever.device.autocast(), torch.no_grad():
            once = self._retriever.translator.encode_references(self._move(self._image)[:, None])
        if config.model.fusion == "attention":  # to M equal images it attends as to one
            return once
        shape = (-1, config.guidance.retrieval_count, -1, -1, -1)
        return References(*(value.expand(shape) for value in once))


@dataclass(frozen=True)
class GuidedBatch:
    """A piece of a batch with its encoder outputs, and the guide of each variant, whose queries are issued."""

    batch: Batch
    guides: dict[str, StoreGuide | None]
    share: float


class GuidanceStage(Stage):
    """Trains G, D and f of every variant on the same batches, E_c, E_s and R frozen."""

    settings: GuidanceConfig

    def __init__(self, run: Run, worker: Worker) -> None:
        super().__init__(run, worker)
        self.settings = run.config.guidance
        # Stage 1 draws its images, targets and styles with the seed itself; stage 3 draws others.
        self.ingest = make_ingest(run, worker, derived_seed(run.config.seed, "guidance"))
        config, device = run.config, worker.device
        upstream = Location(run.upstream["translation"])
        frozen = load_translator(upstream, config).to(device.torch, memory_format=device.layout)  # type: ignore[call-overload]
        networks = load_retrieval(Location(run.upstream["retrieval"]), config, frozen)
        network = networks[config.retrieval.negatives[-1]].to(device.torch)
        store = RayStore.connect(run.upstream["store"], timeout=config.store.timeout_s)
        self.frozen = frozen
        self.retriever = Retriever(store, network, frozen, config, device, keep_contents=True)
        perceptual = make_perceptual(run, self.settings.loss.perceptual, worker)
        self.side_by_side = SideBySide(len(self.settings.variants), worker)
        self.trainers: dict[str, TranslatorTrainer] = {}
        for name in self.settings.variants:
            torch.manual_seed(config.seed)  # every f starts with the same weights
            translator = Translator(config, guided=is_guided(name))
            translator.load_state_dict(frozen.state_dict(), strict=False)
            translator.generator.sharpen(self.settings.mask_contrast)
            translator.freeze_encoders()
            discriminator = load_discriminator(upstream, config)
            self.trainers[name] = TranslatorTrainer(
                translator,
                discriminator,
                config,
                self.settings,
                self.side_by_side.device,
                worker.world,
                perceptual,
            )

    @property
    def order_seed(self) -> int:
        return self.ingest.seed

    def inputs(self, start: int, stop: int) -> Iterator[list[GuidedBatch]]:
        """Yield the pieces of each step after issuing the queries of the next step."""
        blocks = stream_blocks(self.run, self.worker, start, stop, self.settings.batch_size, self.order_seed)
        return self.prefetched(self.timed(blocks))

    def prefetched(self, blocks: Iterable[dict[str, npt.NDArray[Any]]]) -> Iterator[list[GuidedBatch]]:
        """Yield the pieces of each block after issuing the queries of the next block."""
        ahead: list[GuidedBatch] | None = None
        for block in blocks:
            prepared = [self._prepare(piece, share) for piece, share in self.pieces(block)]
            if ahead is not None:
                yield ahead
            ahead = prepared
        if ahead is not None:
            yield ahead

    @torch.no_grad()
    def _prepare(self, block: dict[str, npt.NDArray[Any]], share: float) -> GuidedBatch:
        batch = self.ingest.batch(block, self.settings.loss)
        with self.worker.device.autocast():
            batch = replace(
                batch,
                content=self.frozen.content_encoder(batch.image),
                posterior=self.frozen.style_encoder(batch.image),
            )
        assert batch.content is not None and batch.posterior is not None
        move = None
        images, contents, styles = batch.image, batch.content, batch.target_style
        row_ids = draws = np.array(block["row_id"])
        if self.settings.own_references == "itself":
            move = partial(self.ingest.moved, block=block)
        else:
            style = style_of(batch.posterior, batch.posterior_noise, self.settings.loss)
            images, contents = images.repeat(2, 1, 1, 1), contents.repeat(2, 1, 1, 1)
            styles = torch.cat([styles, style])
            # The complements are other keys, so the two queries of a row draw different random images.
            draws = np.concatenate([row_ids, ~row_ids])
        barred = np.tile(row_ids, len(draws) // len(row_ids))
        key = _key(self.ingest.seed, int(block["step"][0]))
        guides: dict[str, StoreGuide | None] = {}
        for name in self.settings.variants:
            if not is_guided(name):
                guides[name] = None
                continue
            random = name == "rg-unit-random"
            queries = self.retriever.issue(images, contents, styles, barred, key, random=random, draws=draws)
            guides[name] = StoreGuide(
                self.retriever,
                queries,
                row_ids,
                key,
                random=random,
                fuse_cycle=self.settings.fuse_cycle,
                image=batch.image,
                move=move,
            )
        return GuidedBatch(batch, guides, share)

    def step(self, step: int, item: list[GuidedBatch]) -> Parts:
        def update(name: str) -> Parts:
            pieces = [Piece(piece.batch, piece.guides[name], piece.share) for piece in item]
            measured = self.trainers[name].update_in_pieces(step, pieces)
            return {f"{name}/{key}": value for key, value in measured.items()}

        parts: Parts = {}
        for measured in self.side_by_side([partial(update, name) for name in self.trainers]):
            parts |= measured
        return parts

    def state(self) -> dict[str, Any]:
        return {name: trainer.state() for name, trainer in self.trainers.items()}

    def load(self, state: dict[str, Any], source: str) -> None:
        for name, trainer in self.trainers.items():
            trainer.load(state[name], source)

    def hand_over(self, location: Location) -> None:
        about = {
            "kind": "guidance",
            "steps": self.settings.steps,
            "retrieval_count": self.settings.retrieval_count,
            "store": self.retriever.store.manifest.digest,
            "trained_against": encoder_digests(self.frozen),
        }
        networks: dict[str, nn.Module] = {name: trainer.average for name, trainer in self.trainers.items()}
        if has_new_discriminator(Location(self.run.upstream["translation"])):
            networks["discriminator"] = next(iter(self.trainers.values())).discriminator
        save_networks(location, networks, about)

    def waits(self) -> dict[str, float]:
        waited, self.retriever.waited = self.retriever.waited, 0.0
        return {**super().waits(), "neighbours": waited}

    @torch.inference_mode()
    def samples(self, step: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Return the first training images, each with every attribute changed once, guided by its neighbours."""
        source, translator = self.run.source, self.trainers["rg-unit"].average
        rows = np.arange(min(SAMPLE_ROWS, len(source.index)))
        pixels = source.images(rows)
        image = to_images(pixels, self.worker.device)
        content = self.frozen.content_encoder(image)
        columns = [pixels]
        domains = source.index.labels[rows][:, self.ingest.columns]
        for target in one_change_each(domains, self.config.data):
            style = prior_mean(torch.from_numpy(target).to(image.device), self.config.model.style_dim)
            near = self.retriever.references(
                self.retriever.issue(image, content, style, source.index.row_ids[rows], 0, random=False)
            )
            columns.append(to_pixels(translator(image, style, near).image))
        self.retriever.waited = 0.0
        return {"translations": grid(np.stack(columns, axis=1))}


def _key(seed: int, step: int) -> int:
    """Return the seed of a step's random neighbours; the cycle's is one more."""
    mixed = keyed_integers(seed, Draw.REFERENCE, step, np.zeros(1, np.int64), 1)
    return int(mixed[0, 0] >> np.uint64(2))
