"""The ladder of trainings: the longest one of a preset that ends within a time limit.

A rung is a share of the preset's steps in stages 1 and 3. A few timed steps of stage 1 measure the speed of this
machine. All other work is expressed in such steps, because it slows down with them. Machines change their speed: when
stage 1 has ended, stage 3 is cut to the steps for which there is time left.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from rgcluster.base.rundir import CONFIG
from rgcluster.base.storage import Location
from rgcluster.config import Config, with_values
from rgcluster.model.gmm import prior_mean
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Batch, Translator
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.device import Device, pick_device

__all__ = [
    "RUNGS",
    "Rung",
    "choose",
    "estimate",
    "fit_to_time",
    "kept",
    "scaled",
    "seconds_per_step",
    "shorten",
]

RUNGS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)
"""Shares of the preset's steps, the longest training first."""

SCALED = ("translation.steps", "translation.attention_from", "translation.attention_full", "guidance.steps")
"""The keys of the configuration that a rung scales."""

WARM_UP, TIMED = 4, 24

IN_TRAINING = 1.05
"""Cost of a training step of stage 1 in steps on random images; it also reads and reports."""

GUIDED_STEP = 0.68
"""Cost of a step of stage 3 for each of two variants side by side, in steps of stage 1."""

REST = 950
"""Cost of drawing, stage 2, the store, the judge, evaluation and figures, in steps of stage 1."""

SHORT = 500
"""Trainings of fewer steps in stage 1 are not scaled."""

MARGIN = 1.25
"""How much slower the machine may become: the same steps take 117 to 189 ms on a shared one within minutes."""

FIXED_SECONDS = 50.0
"""Seconds for starting Ray, Ray Train and Ray Data, which hardly depend on the speed of the cores."""

REST_AFTER, FIXED_SECONDS_AFTER = 850, 40.0
"""What of `REST` and of `FIXED_SECONDS` comes after stage 1."""


@dataclass(frozen=True)
class Rung:
    """A training: its share of the preset, its steps, and its estimated time."""

    share: float
    values: dict[str, int]
    seconds: float
    fits: bool


def seconds_per_step(config: Config, device: Device | None = None) -> float:
    """Return the median seconds of a step of stage 1 on random images, on this machine's device or the given one.

    The median ignores short loads by other processes.
    """
    if device is None:
        gpu = torch.cuda.is_available() and config.cluster.gpu != "never"
        device = pick_device(config.cluster, gpu=gpu)
    count = config.translation.batch_size
    side = config.data.image_size
    domain = torch.randint(0, 2, (count, config.num_attributes)).float()
    style = prior_mean(1 - domain, config.model.style_dim)
    batch = Batch(
        image=(torch.rand(count, 3, side, side) * 2 - 1).to(device.torch),
        domain=domain.to(device.torch),
        target=(1 - domain).to(device.torch),
        target_style=style.to(device.torch),
        posterior_noise=torch.zeros_like(style).to(device.torch),
    )
    networks = Translator(config).to(device.torch), Discriminator(config).to(device.torch)
    trainer = TranslatorTrainer(*networks, config, config.translation, device, 1)
    late = config.translation.attention_full + 1  # with the mask in force, which costs more
    for step in range(WARM_UP):
        trainer.update(late + step, batch)
    seconds = []
    for step in range(TIMED):
        start = time.perf_counter()
        float(trainer.update(late + step, batch)["total"])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def estimate(config: Config, per_step: float) -> float:
    """Return the estimated seconds of the whole run if a step of stage 1 takes `per_step`."""
    trained = config.translation.steps + config.guidance.steps * _guided(config)
    return FIXED_SECONDS + per_step * (IN_TRAINING * trained + REST)


def choose(config: Config, minutes: float, per_step: float) -> Rung:
    """Return the longest rung that ends in time on a slower machine, too, or the shortest one if none does."""
    for share in RUNGS:
        values = scaled(config, share)
        seconds = estimate(with_values(config, values), per_step)
        if MARGIN * seconds <= 60 * minutes:
            break
    return Rung(share, values, seconds, seconds <= 60 * minutes)


def fit_to_time(config: Config, run: Location, minutes: float) -> tuple[Config, str]:
    """Return the configuration whose run ends within `minutes`, and a line that explains the choice.

    An existing run continues with its own steps. Short trainings are not scaled.
    """
    begun = kept(run)
    if begun is not None:
        return with_values(config, begun), f"{run} was begun with {_described(begun)}"
    if config.translation.steps < SHORT or not minutes:
        return config, ""
    per_step = seconds_per_step(config)
    rung = choose(config, minutes, per_step)
    why = (
        f"a step takes {1000 * per_step:.0f} ms here, so {rung.share:.0%} of the preset's steps "
        f"take about {rung.seconds / 60:.0f} min"
    )
    end = "" if rung.fits else f", more than the {minutes:g} min limit, but fewer steps would teach nothing"
    return with_values(config, rung.values), f"{why}{end}: {_described(rung.values)}"


def shorten(config: Config, stage_1: float, elapsed: float, minutes: float) -> tuple[Config, str]:
    """Return the configuration with as many steps in stage 3 as end within `minutes`, at least half of them; and why.

    `stage_1` of the `elapsed` seconds went to stage 1. If an earlier command trained a part of it, nothing changes.
    """
    planned = config.guidance.steps
    if not minutes or config.translation.steps < SHORT or stage_1 > elapsed:
        return config, ""
    per_step = stage_1 / (IN_TRAINING * config.translation.steps)
    left = 60 * minutes - elapsed - FIXED_SECONDS_AFTER - per_step * REST_AFTER
    steps = int(left / (per_step * IN_TRAINING * _guided(config)))
    if steps >= planned:
        return config, ""
    every = config.guidance.report_every
    steps = max(every, max(steps, planned // 2) // every * every)
    why = f"stage 1 took {stage_1:.0f} s, so stage 3 trains {steps} of {planned} steps: --set guidance.steps={steps}"
    return with_values(config, {"guidance.steps": steps}), why


def kept(run: Location) -> dict[str, int] | None:
    """Return the steps of the run in the directory, None where it is new."""
    file = run / CONFIG
    if not file.exists():
        return None
    config = Config.from_yaml(file.read_text(), str(file))
    return {key: _value(config, key) for key in SCALED}


def _guided(config: Config) -> float:
    """Return the cost of a step of stage 3 in steps of stage 1."""
    scale = config.guidance.batch_size / config.translation.batch_size
    return GUIDED_STEP * len(config.guidance.variants) * scale


def scaled(config: Config, share: float) -> dict[str, int]:
    """Return the keys `SCALED` of a rung, in whole reports, so that all lines of the metrics cover the same steps."""
    values = {}
    for key in SCALED:
        every = getattr(config, key.split(".")[0]).report_every
        value = _value(config, key)
        values[key] = (
            value if share == 1 else max(every, round(value * share / every) * every) if value else 0
        )
    return values


def _described(values: dict[str, int]) -> str:
    """Return the values as command-line options that repeat the same training on any machine."""
    return " ".join(f"--set {key}={value}" for key, value in values.items())


def _value(config: Config, key: str) -> int:
    section, name = key.split(".")
    return int(getattr(getattr(config, section), name))
