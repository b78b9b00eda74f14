"""Stage 2: the retrieval networks, one per strategy of Table 1, on the same stream of triplets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rgcluster.base.attributes import domain_columns
from rgcluster.base.checkpoint.tree import load_module
from rgcluster.base.storage import Location
from rgcluster.config import RetrievalConfig
from rgcluster.data.images import grid
from rgcluster.data.stream import StreamPlan, batches
from rgcluster.model.handover import encoder_digests, load_translator, save_networks
from rgcluster.model.losses import Parts, triplet_loss
from rgcluster.model.noise import Draw, keyed_uniform
from rgcluster.model.retrieval import RetrievalEncoder, retrieval_encoder
from rgcluster.model.triplets import encode_triplets
from rgcluster.train.stage import Run, Stage, Worker
from rgcluster.train.steps.optimizer import Optimizer
from rgcluster.train.steps.translator import Sums, weighted
from rgcluster.train.steps.triplet_stream import triplet_dataset
from rgcluster.train.workers import distribute, synchronised
from rgcluster.translate.tensors import to_images

__all__ = ["RetrievalStage"]

Block = dict[str, npt.NDArray[Any]]

SAMPLE_ROWS = 6


class RetrievalStage(Stage):
    """Trains R for each of `retrieval.negatives`."""

    settings: RetrievalConfig

    def __init__(self, run: Run, worker: Worker) -> None:
        super().__init__(run, worker)
        self.settings = run.config.retrieval
        self.translator = load_translator(Location(run.upstream["translation"]), run.config).to(
            worker.device.torch
        )
        torch.manual_seed(run.config.seed)
        first = retrieval_encoder(run.config)
        # All start with the same weights, so that only the negatives differ.
        self.networks: dict[str, RetrievalEncoder] = {
            name: copy.deepcopy(first).to(worker.device.torch) for name in self.settings.negatives
        }
        self._distributed = {
            name: distribute(_Triple(network), worker.world, worker.device)
            for name, network in self.networks.items()
        }
        self.optimizers = {
            name: Optimizer(
                network.parameters(),
                self.settings.optimizer,
                self.settings,
                batch=self.settings.batch_size,
                steps=self.settings.steps,
            )  # fmt: skip
            for name, network in self.networks.items()
        }
        self._last: Block | None = None

    def inputs(self, start: int, stop: int) -> Iterator[Block]:
        worker, settings = self.worker, self.settings
        plan = StreamPlan(start, stop, settings.batch_size, worker.rank, worker.world, self.order_seed)
        shards = self.run.source.shards
        columns = domain_columns(shards.attributes, self.config.data.attributes, shards.location)
        for part in plan.segments():
            triplets = triplet_dataset(
                self.run.source,
                part,
                self.config,
                columns,
                self.run.upstream["translation"],
                self.run.gpus_per_generator,
            )
            yield from self.timed(batches(triplets, part.rows))

    def step(self, step: int, item: Block) -> Parts:
        self._last = item
        sums = Sums()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        pieces = self.pieces(item)
        for index, (piece, share) in enumerate(pieces):
            self._backward(step, piece, share, sums, last=index == len(pieces) - 1)
        for optimizer in self.optimizers.values():
            optimizer.step(step)
        return sums.values

    def _backward(self, step: int, item: Block, share: float, sums: Sums, *, last: bool) -> None:
        """Add a piece's gradients to those of every network."""
        device = self.worker.device
        image, translation = to_images(item["image"], device), to_images(item["positive"], device)
        with device.autocast():
            anchor, positive, negatives = encode_triplets(
                self.translator,
                image,
                translation,
                to_images(item["negatives"], device),
                torch.from_numpy(np.array(item["target_style"])).to(device.torch),
                torch.from_numpy(np.array(item["categories"])).to(device.torch),
                self._shares_style(step, item["row_id"]),
            )
        kept = self._dropout(step, item["row_id"])
        for (name, network), negative in zip(self._distributed.items(), negatives, strict=True):
            with synchronised(network, last):
                with device.autocast():
                    (a, p, n), colours = network(kept, image, translation, anchor, positive, negative)
                    loss, measured = triplet_loss(a, p, n, self.settings.margin)
                if colours is not None:  # they have weights of their own, so a factor would change little
                    loss, measured = loss + colours, {**measured, "colours": colours}
                weighted(loss, share).backward()
            sums.add({f"{name}/{key}": value for key, value in {"total": loss, **measured}.items()}, share)

    def _shares_style(self, step: int, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return whether an easy negative has the anchor's style, bool [B], keyed by row."""
        share = {"own": 0.0, "either": 0.5, "target": 1.0}[self.settings.easy_style]
        shares = keyed_uniform(self.config.seed, Draw.EASY_STYLE, step, rows, 1)[:, 0] < share
        return torch.from_numpy(shares).to(self.worker.device.torch)

    def _dropout(self, step: int, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return factors [3 * B, retrieval_hidden] for anchors, positives and negatives, keyed by row."""
        model = self.config.model
        uniform = keyed_uniform(self.config.seed, Draw.DROPOUT, step, rows, 3 * model.retrieval_hidden)
        kept = (uniform >= model.retrieval_dropout) / (1 - model.retrieval_dropout)
        parts = kept.astype(np.float32).reshape(len(rows), 3, -1).swapaxes(0, 1)
        return torch.from_numpy(parts.reshape(3 * len(rows), -1)).to(self.worker.device.torch)

    def state(self) -> dict[str, Any]:
        return {
            "networks": {name: dict(network.state_dict()) for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state() for name, optimizer in self.optimizers.items()},
        }

    def load(self, state: dict[str, Any], source: str) -> None:
        for name, network in self.networks.items():
            load_module(network, state["networks"][name], source)
            self.optimizers[name].load(state["optimizers"][name])

    def hand_over(self, location: Location) -> None:
        about = {
            "kind": "retrieval",
            "steps": self.settings.steps,
            "trained_against": encoder_digests(self.translator),
        }
        save_networks(location, dict(self.networks), about)

    def samples(self, step: int) -> dict[str, npt.NDArray[np.uint8]]:
        """Return triplets as in Figure 2: anchor, positive, and the strategies' negatives, from easy to own."""
        if self._last is None:
            return {}
        item, rows = self._last, min(SAMPLE_ROWS, len(self._last["image"]))
        columns = [item["image"][:rows], item["positive"][:rows], *item["negatives"][:rows].swapaxes(0, 1)]
        return {"triplets": grid(np.stack(columns, axis=1))}


class _Triple(nn.Module):
    """Embeds anchor, positive and negative in one forward, in which DDP sees all of R's weights."""

    def __init__(self, network: RetrievalEncoder) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        kept: torch.Tensor,
        image: torch.Tensor,
        translation: torch.Tensor,
        *pairs: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Return the embeddings of anchor, positive and negative, and the error of the expected colours.

        Expected are those of the translation, whether the image is to be translated or the translation stays as it is.
        """
        contents, styles = zip(*pairs, strict=True)
        embedded = self.network(torch.cat(contents), torch.cat(styles), kept).chunk(len(pairs))
        colours = self.network.colour_error(
            torch.cat([image, translation]), torch.cat(styles[:2]), translation.repeat(2, 1, 1, 1)
        )
        return embedded, colours
