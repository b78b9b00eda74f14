"""`rgcluster bench`: how much is measured by default and thoroughly, and repeats that end in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from inside import run_inside
from tiny import tiny_config

from rgcluster.bench import data, serve, store
from rgcluster.bench.training import step as train
from rgcluster.bench.training.step import bench_step
from rgcluster.bench.turns import turns


def test_turns_end_in_time_but_not_before_the_least() -> None:
    assert list(turns(3, math.inf)) == [0, 1, 2]
    assert list(turns(3, 0.0)) == [0]
    assert list(turns(5, 0.0, least=2)) == [0, 1]
    start, done = time.perf_counter(), 0
    for _ in turns(1_000_000, 0.2):
        time.sleep(0.01)
        done += 1
    assert 1 < done <= 20 and time.perf_counter() - start < 5


def test_a_case_of_the_training_step_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("model.upsampling=nearest")
    updates = _counted(monkeypatch)
    bench_step(config, 2, 50, False, lambda _: None, seconds=0.0)
    assert updates == {"plain": 2, "default": 3}  # a warm-up, a measurement, and one counts the arithmetic


def _counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    counts = {"plain": 0, "default": 0}
    for name, owner in (("plain", train.PlainTrainer), ("default", train.TranslatorTrainer)):

        def update(
            self: Any, *arguments: Any, name: str = name, own: Callable[..., Any] = owner.update
        ) -> Any:
            counts[name] += 1
            return own(self, *arguments)

        monkeypatch.setattr(owner, "update", update)
    return counts


@pytest.mark.parametrize(
    ("words", "module", "function", "expected"),
    [
        (("data",), data, "bench_data", {1: 40_000}),
        (("data", "--thorough"), data, "bench_data", {1: 202_599}),
        (("data", "--thorough", "--images", "1000"), data, "bench_data", {1: 1000}),
        (("serve", "--run", "x"), serve, "bench_serve", {3: 3_000}),
        (("serve", "--run", "x", "--thorough"), serve, "bench_serve", {3: 10_000}),
        (("serve", "--run", "x", "--memory-requests", "0"), serve, "bench_serve", {3: 0}),
        (("store",), store, "bench_store", {4: 1}),
        (("store", "--thorough"), store, "bench_store", {4: 3}),
        (("train", "--steps", "0"), train, "bench_step", {3: False, 5: 30.0}),
        (("train", "--steps", "0", "--switches"), train, "bench_step", {3: True, 5: 30.0}),
        (("train", "--steps", "0", "--thorough"), train, "bench_step", {3: True, 5: math.inf}),
        (("train", "--steps", "0", "--thorough", "--no-switches"), train, "bench_step", {3: False}),
    ],
)
def test_thorough_measures_more(
    words: tuple[str, ...],
    module: Any,
    function: str,
    expected: dict[int, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    given: list[tuple[Any, ...]] = []

    def measured(*arguments: Any) -> list[Any]:
        given.append(arguments)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, function, measured)
    monkeypatch.setattr("rgcluster.base.session.ray_session", nullcontext)
    assert run_inside("bench", *words) == (0, "")
    assert {place: given[0][place] for place in expected} == expected
