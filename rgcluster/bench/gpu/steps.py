"""Training steps on random images: first step, speed and memory of each layout, eager and compiled."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from rgcluster.bench.gpu.gallery import Gallery
from rgcluster.bench.gpu.guided import GuidedStep
from rgcluster.bench.gpu.part import Place, free
from rgcluster.bench.result import Row
from rgcluster.bench.training.plain import Switches
from rgcluster.bench.training.step import (
    PLAIN,
    Step,
    default_step,
    matrix_rate,
    now,
    plain_step,
    random_batch,
    step_flop,
)
from rgcluster.bench.turns import turns
from rgcluster.config import Config
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Translator
from rgcluster.translate.device import Device

__all__ = ["guided_steps", "translation_steps"]

WARM = 2
"""Steps after the first that are not measured."""
GALLERY = 2_000
CHANNELS_LAST, CONTIGUOUS = "channels-last", "contiguous"


def translation_steps(place: Place, left: float) -> Iterator[Row]:
    """Measure stage 1's step: the plain one in fp32, then each layout, eager and, on a GPU, compiled."""
    config = place.config(compile="never")
    device = place.device(config)
    torch.manual_seed(config.seed)
    networks = Translator(config), Discriminator(config)
    item = random_batch(config, place.scale.batch, device)
    flop = step_flop(networks, config, device, item)
    rate = matrix_rate(device)
    place.say(PLAIN)
    plain = _speed(place, plain_step(networks, config, item, device, Switches()), device)
    yield Row("arithmetic", "translation step", flop / place.scale.batch / 1e9, "GFLOP/image")
    yield Row("arithmetic", "matrix product", rate / 1e9, "GFLOP/s")
    yield from plain.rows(f"{PLAIN}, fp32", place)
    for case in _cases(place, (CHANNELS_LAST, CONTIGUOUS)):
        place.say(case.name)
        item = random_batch(case.config, place.scale.batch, case.device)
        found = _speed(place, default_step(networks, case.config, item, case.device), case.device)
        done = flop / place.scale.batch * found.images_per_second(place)
        yield from found.rows(case.name, place, plain)
        yield Row(case.name, "arithmetic done", done / 1e9, "GFLOP/s", "matrix product", rate / 1e9)


def guided_steps(place: Place, left: float) -> Iterator[Row]:
    """Measure stage 3's step with neighbours in the device's memory: `rg-unit` alone, then all variants."""
    alone: _Speed | None = None
    for case in _cases(place, (CHANNELS_LAST,)):
        for variants in (("rg-unit",), case.config.guidance.variants):
            name = f"guided step, {case.name}, {len(variants)} variant{'s' * (len(variants) > 1)}"
            if len(variants) > 1 and not case.device.compiles and place.kind == "cuda":
                continue  # on a GPU nobody trains so
            place.say(name)
            found = _speed(place, _guided(place, case, variants), case.device)
            yield from found.rows(name, place, alone, "rg-unit alone, eager")
            alone = alone or found


class _Speed:
    """Seconds of the first step and of later ones, and the peak of the GPU's memory in bytes."""

    def __init__(self, first: float, seconds: list[float], memory: int) -> None:
        self.first, self.seconds, self.memory = first, statistics.median(seconds), memory

    def images_per_second(self, place: Place) -> float:
        return place.scale.batch / self.seconds

    def rows(self, case: str, place: Place, held: _Speed | None = None, baseline: str = PLAIN) -> list[Row]:
        speed = self.images_per_second(place)
        theirs = (baseline, held.images_per_second(place)) if held else (None, None)
        rows = [
            Row(case, "first step", self.first, "s"),
            Row(case, "step, median", 1e3 * self.seconds, "ms"),
            Row(case, "speed", speed, "images/s", *theirs),
        ]
        if place.kind == "cuda":
            rows.append(Row(case, "memory peak", self.memory / 2**30, "GiB"))
        return rows


def _speed(place: Place, step: Step, device: Device) -> _Speed:
    """Run a step until its time is over; forget its compiled code and memory."""
    seconds = []
    for _ in turns(1 + WARM + place.scale.repeats, place.scale.case_seconds, least=2 + WARM):
        start = now(device)
        if isinstance(device, _Graphs):
            torch.compiler.cudagraph_mark_step_begin()
        step()
        seconds.append(now(device) - start)
    memory = torch.cuda.max_memory_allocated() if place.kind == "cuda" else 0
    del step
    free(place)
    return _Speed(seconds[0], seconds[1 + WARM :], memory)


class _Graphs(Device):
    """Replays compiled networks as CUDA graphs."""

    def compile(self, *modules: nn.Module) -> None:
        for module in modules:
            module.compile(dynamic=False, mode="reduce-overhead")


class _Case(NamedTuple):
    name: str
    config: Config
    device: Device


def _cases(place: Place, layouts: tuple[str, ...]) -> Iterator[_Case]:
    """Yield what is compared; nothing is compiled on a CPU, which would take minutes."""
    for layout in layouts:
        eager, compiled = (place.config(compile=choice, layout=layout) for choice in ("never", "always"))
        yield _Case(f"eager, {layout}", eager, place.device(eager))
        if place.kind == "cpu":
            continue
        yield _Case(f"compiled, {layout}", compiled, place.device(compiled))
        if layout == CHANNELS_LAST:
            graphs = _Graphs(**vars(place.device(compiled)))
            yield _Case(f"compiled, as CUDA graphs, {layout}", compiled, graphs)


def _guided(place: Place, case: _Case, variants: tuple[str, ...]) -> Step:
    config, device = case.config, case.device
    torch.manual_seed(config.seed)
    guided = GuidedStep(config, Translator(config), Discriminator(config), variants, device)
    side = config.data.image_size
    count = min(GALLERY, place.scale.vectors)
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device.torch)
    gallery = Gallery(pixels, guided.embed(pixels))
    item = random_batch(config, place.scale.batch, device)
    rows = torch.arange(place.scale.batch, device=device.torch)
    number = 0

    def step() -> None:
        nonlocal number
        guided.update(number, item, gallery, rows)
        number += 1

    return step
