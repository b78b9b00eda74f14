"""`rgcluster bench data --peers`: readers by what they yield, missing ones said, epochs compared in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inside import run_inside
from peers_alone import peers_alone
from torch import Tensor

from rgcluster.bench import data
from rgcluster.bench.peers import reading
from rgcluster.bench.peers.reader import ReaderPeer, decoded, stored
from rgcluster.bench.peers.reading import READERS, bench_readers
from rgcluster.data.images import encode_jpeg


def _labels(rows: int) -> np.ndarray:
    return (np.arange(rows)[:, None] >> np.arange(10) & 1).astype(np.int8)


@dataclass
class Grey:
    """A source of images of 16 px, each of one grey, whose labels are the digits of the row's number."""

    rows: int
    index: Any = field(init=False)

    def __post_init__(self) -> None:
        self.index = _Index(_labels(self.rows))

    def encoded(self, rows: np.ndarray) -> list[memoryview]:
        return [memoryview(encode_jpeg(np.full((16, 16, 3), row % 200, np.uint8))) for row in rows]


@dataclass
class _Index:
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class Slow(ReaderPeer):
    """Two batches, the first after some time."""

    library, name = "numpy", "slow"
    made: list[tuple[Any, int]] = []

    def __init__(self, folder: Path, source: Any, workers: int) -> None:
        assert folder.is_dir() and not list(folder.iterdir())
        self.made.append((source, workers))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        time.sleep(0.05)
        order.append(self.name)
        for _ in range(2):
            yield torch.zeros(size, 4, 4, 3, dtype=torch.uint8), torch.zeros(size, 3, dtype=torch.int8)


class Missing(Slow):
    library, name = "no_such_library", "missing"


order: list[str] = []


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Grey:
    """A source without Ray, whose epoch has four batches at once."""
    grey = Grey(300)

    def batches(given: Any) -> Iterator[int]:
        assert given is grey
        order.append("ours")
        return iter([64] * 4)

    monkeypatch.setattr(reading, "_source", lambda folder, count: grey)
    monkeypatch.setattr(reading, "stream_batches", batches)
    monkeypatch.setattr(reading, "_workers", lambda: 3)
    order.clear()
    return grey


def test_epochs_are_read_in_turns(tmp_path: Path, source: Grey) -> None:
    said: list[str] = []
    Slow.made.clear()
    rows = bench_readers(tmp_path, 1000, said.append, (Missing, Slow))
    assert "missing: skipped, not installed: `pip install 'rgcluster[peers]'`" in said
    assert Slow.made == [(source, 3)]
    assert order == ["ours"] + ["ours", "slow"] * 3  # the first starts the session's processes
    found = {(row.case, row.metric): row for row in rows if row.baseline}
    epoch = found["300 prepared JPEG images, 3 processes", "an epoch"]
    assert epoch.baseline == "slow" and epoch.unit == "images/s"
    assert epoch.baseline_value is not None and 0 < epoch.baseline_value <= 128 / 0.05
    assert epoch.ratio is not None and epoch.ratio > 1
    first = found["300 prepared JPEG images, 3 processes", "first batch"]
    assert first.baseline_value is not None and first.baseline_value >= 0.05 > first.value


def test_without_any_peer_nothing_is_read(tmp_path: Path, source: Grey) -> None:
    assert bench_readers(tmp_path, 1000, lambda line: None, (Missing,)) == []
    assert order == [] and list(tmp_path.iterdir()) == []


def test_peers_get_the_stored_bytes_and_labels() -> None:
    grey = Grey(600)
    rows = list(stored(grey, 250, 10**6))  # type: ignore[arg-type]
    assert [image for image, _ in rows] == [bytes(one) for one in grey.encoded(np.arange(250, 600))]
    pixels, labels = decoded(*rows[3])
    assert pixels.shape == (16, 16, 3) and pixels.dtype == torch.uint8 and int(pixels[0, 0, 0]) == 253 % 200
    assert labels.dtype == torch.int8 and np.array_equal(labels.numpy(), _labels(600)[253])


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)
def test_a_peer_yields_every_row_once_in_random_order(kind: type[ReaderPeer], tmp_path: Path) -> None:
    pytest.importorskip(kind.library)
    reader = kind(tmp_path, Grey(150), 2)  # type: ignore[arg-type]
    rows = []
    for images, labels in reader.batches(32):
        assert images.dtype == torch.uint8 and images.shape[1:] == (16, 16, 3) and len(images) <= 32
        numbers = labels.numpy() @ (1 << np.arange(10))
        assert images[:, 0, 0, 0].tolist() == (numbers % 200).tolist()
        rows += numbers.tolist()
    assert sorted(rows) == list(range(150)) and rows != sorted(rows)


def test_the_command_compares_readers_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    given = peers_alone(monkeypatch, (reading, "bench_readers"), (data, "bench_data"))
    monkeypatch.setattr("rgcluster.base.session.ray_session", nullcontext)
    assert run_inside("bench", "data", "--peers", "--images", "2000") == (0, "")
    assert run_inside("bench", "data", "--peers") == (0, "")
    assert [count for _, count, _ in given] == [2000, 40_000]
