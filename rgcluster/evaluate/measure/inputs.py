"""Inputs, targets and noise of an evaluation, which depend only on the evaluation seed.

They do not depend on the training seed, so runs of several training seeds are measured on the same inputs
(section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rgcluster.base.attributes import domain_columns
from rgcluster.config import Config
from rgcluster.data.images import UInt8Array
from rgcluster.data.splits import hash_share
from rgcluster.data.stream import ImageSource
from rgcluster.model.noise import Draw, keyed_normal, keyed_uniform

__all__ = [
    "IDENTITY", "MEASURE_SEED", "SAMPLE", "TRUTH", "UNPAINTED", "EvaluationInputs", "LazyImages", "columns_of_domain",
    "evaluation_inputs", "hashed_order", "sample_of",
]  # fmt: skip

IDENTITY, TRUTH = "identity", "truth"
"""Names of rows without a network: the untouched inputs, and the true counterfactuals of drawn faces."""

UNPAINTED = (IDENTITY, TRUTH, "real")
"""Rows of a table of translations that belong to no model."""

MEASURE_SEED = 0
"""Seed of keyed noise in an evaluation, and of the judge's training."""

SAMPLE = 250_000
"""Most images of a split that an evaluation looks at, which bounds its memory."""

_PIECE = 1 << 20

_SALT = 4000
"""Keeps `hashed_order` independent of the hashes that choose the test split and `data.fraction`."""


@dataclass(frozen=True)
class EvaluationInputs:
    """rows [N] of the test split, target domains [N, n] and style noise [N, n * style_dim]."""

    seed: int
    rows: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int8]
    noise: npt.NDArray[np.float32]


@dataclass(frozen=True)
class LazyImages:
    """The images of a source as an array uint8 [N, h, w, 3], of which only what is indexed is read and decoded."""

    source: ImageSource
    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.source.index), self.source.size, self.source.size, 3

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> UInt8Array:
        chosen = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        return self.source.images(chosen)


def sample_of(source: ImageSource, count: int = SAMPLE) -> ImageSource:
    """Return the source, or `count` of its rows where it has more: those whose ids have the smallest hashes."""
    ids = source.index.row_ids
    if len(ids) <= count:
        return source
    rows, hashes = _smallest(ids, min(1.0, (count + 8 * count**0.5) / len(ids)))
    chosen = rows[np.argsort(hashes, kind="stable")[:count]]
    return source.take(np.sort(chosen))


def _smallest(
    ids: npt.NDArray[np.int64], share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the rows whose hash is below `share`, and their hashes; piece by piece."""
    rows, hashes = [], []
    for start in range(0, len(ids), _PIECE):
        found = keyed_uniform(MEASURE_SEED, Draw.SAMPLE, 0, ids[start : start + _PIECE], 1)[:, 0]
        near = np.flatnonzero(found < share)
        rows.append(start + near)
        hashes.append(found[near])
    return np.concatenate(rows), np.concatenate(hashes)


def columns_of_domain(config: Config, source: ImageSource) -> list[int]:
    """Return the columns of the source's labels that span the domains."""
    return domain_columns(source.shards.attributes, config.data.attributes, source.shards.location)


def evaluation_inputs(
    config: Config, seed: int, num_test: int, train_domains: npt.NDArray[np.int8]
) -> EvaluationInputs:
    """Return `evaluation.images` inputs; every test image comes about equally often, with new targets.

    Targets are the domains of random training images, as in training, and may be the input's own domain.
    """
    count = config.evaluation.images
    generator = np.random.Generator(np.random.Philox(key=[MEASURE_SEED, 1000 + seed]))
    rounds = -(-count // num_test)
    rows = np.concatenate([generator.permutation(num_test) for _ in range(rounds)])[:count]
    targets = train_domains[generator.integers(len(train_domains), size=count)]
    noise = keyed_normal(MEASURE_SEED, Draw.TARGET_STYLE, 10**9 + seed, np.arange(count), config.style_size)
    return EvaluationInputs(seed, rows, targets, noise)


def hashed_order(row_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return a fixed permutation of rows, int64 [N], by the hash of their ids.

    Its first rows are a random sample of the data set. Rows in the order of the shards are not: in a data set of
    class folders the first ones are of one class.
    """
    return np.argsort(hash_share(row_ids, _SALT), kind="stable")
