"""`rgcluster bench train`: a translation step compared with its plain formulation, without Ray."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from rgcluster.bench.result import Row
from rgcluster.bench.training.plain import PlainTrainer, Switches
from rgcluster.bench.turns import turns
from rgcluster.config import ClusterConfig, Config
from rgcluster.model.gmm import sample_style
from rgcluster.model.kernels.convolution import convolutions
from rgcluster.model.networks import Discriminator
from rgcluster.model.translator import Batch, Translator
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.device import Device, pick_device

__all__ = [
    "PLAIN",
    "Step",
    "bench_step",
    "default_step",
    "matrix_rate",
    "now",
    "plain_step",
    "random_batch",
    "step_flop",
]

Progress = Callable[[str], None]
Step = Callable[[], None]

PLAIN = "plain step"
DEFAULT = "default step"
MATRIX = {"cpu": 2048, "cuda": 8192}


def bench_step(
    config: Config, batch: int, pairs: int, switches: bool, progress: Progress, seconds: float = math.inf
) -> list[Row]:
    """Measure translation steps of `batch` images: each case alternately with the plain step.

    A case is measured `pairs` times, or as often as it can be in `seconds`, at least once. With `switches`, every
    formulation and choice of kernels is a case of its own.
    """
    gpu = torch.cuda.is_available() and config.cluster.gpu == "auto"
    device = pick_device(config.cluster, gpu=gpu)
    torch.manual_seed(config.seed)
    networks = Translator(config), Discriminator(config)
    item = random_batch(config, batch, device)
    plain = plain_step(networks, config, item, device, Switches())
    cases = {DEFAULT: default_step(networks, config, item, device)}
    if switches:
        cases |= _cases(networks, config, item, device)

    flop = step_flop(networks, config, device, item)
    rate = matrix_rate(device)
    rows = [
        Row("arithmetic", "translation step", flop / batch / 1e9, "GFLOP/image"),
        Row("arithmetic", "matrix product", rate / 1e9, "GFLOP/s"),
    ]
    for case, step in cases.items():
        progress(case)
        theirs, ours = _in_turn(plain, step, pairs, seconds, device)
        median = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
        speed = batch / statistics.median(ours)
        rows.append(Row(case, "speed", speed, "images/s", PLAIN, speed / median))
        if case == DEFAULT:
            share = flop / batch * speed
            rows.append(Row(case, "arithmetic done", share / 1e9, "GFLOP/s", "matrix product", rate / 1e9))
    return rows


def matrix_rate(device: Device) -> float:
    """Return the best FLOP/s of a large matrix product in the device's training precision."""
    size = MATRIX[device.torch.type]
    kind = torch.bfloat16 if device.bf16 else torch.float32
    a = torch.randn(size, size, device=device.torch, dtype=kind)
    seconds = []
    for _ in range(5):
        start = now(device)
        torch.mm(a, a)
        seconds.append(now(device) - start)
    return 2 * size**3 / min(seconds)


def _cases(
    networks: tuple[Translator, Discriminator], config: Config, item: Batch, device: Device
) -> dict[str, Step]:
    """Return the cases: each formulation alone on the plain step, each choice of kernels on the default step."""
    found = {
        f"plain, {name.replace('_', ' ')}": plain_step(
            networks, config, item, device, Switches(**{name: True})
        )
        for name in ("group_norms", "parity_upsampling", "one_fake", "winograd")
    }
    choices = [{"convolutions": "direct"}, {"compile": "always"}, {"compile": "never"}]
    choices += [{"layout": "channels-last"}, {"layout": "contiguous"}, {"precision": "fp32"}]
    if device.torch.type == "cuda":
        choices.append({"precision": "bf16"})
    for choice in choices:
        cluster = ClusterConfig(**{**config.cluster.model_dump(), **choice})
        other = config.model_copy(update={"cluster": cluster})
        chosen = pick_device(cluster, gpu=device.torch.type == "cuda")
        if (chosen, cluster.convolutions) == (device, config.cluster.convolutions):
            continue  # the same as the default
        ((key, value),) = choice.items()
        found[f"default, {key} {value}"] = default_step(
            networks, other, random_batch(config, len(item.image), chosen), chosen
        )
    return found


def plain_step(
    networks: tuple[Translator, Discriminator],
    config: Config,
    item: Batch,
    device: Device,
    switches: Switches,
) -> Step:
    """Return a step of the plain formulation, with the optimised ones of `switches`, on copies of the networks."""
    trainer = PlainTrainer(*_moved(networks, device), config, switches)
    plain = replace(item, image=item.image.contiguous())

    def step() -> None:
        with convolutions("auto" if switches.winograd else "direct"):
            trainer.update(plain)

    return step


def default_step(
    networks: tuple[Translator, Discriminator], config: Config, item: Batch, device: Device
) -> Step:
    """Return a training step of stage 1 as workers do it, on copies of the networks."""
    translator, discriminator = _moved(networks, device)
    trainer = TranslatorTrainer(translator, discriminator, config, config.translation, device, 1)
    count = 0

    def step() -> None:
        nonlocal count
        with convolutions(config.cluster.convolutions):
            trainer.update(count, item)
        count += 1

    return step


def _moved(networks: tuple[Translator, Discriminator], device: Device) -> tuple[Translator, Discriminator]:
    translator, discriminator = copy.deepcopy(networks)
    return translator.to(device.torch), discriminator.to(device.torch)


def random_batch(config: Config, count: int, device: Device) -> Batch:
    """Return `count` random images with random domains and targets, on the device."""
    size, n = config.data.image_size, config.num_attributes
    generator = torch.Generator().manual_seed(config.seed)
    image = torch.rand(count, 3, size, size, generator=generator) * 2 - 1
    domain, target = torch.randint(0, 2, (2, count, n), generator=generator).float()
    noise = torch.randn(count, config.style_size, generator=generator)
    style = sample_style(target, noise, config.model.prior_std)
    there = device.torch
    return Batch(
        image=image.to(there).contiguous(memory_format=device.layout),
        domain=domain.to(there),
        target=target.to(there),
        target_style=style.to(there),
        posterior_noise=torch.zeros_like(noise).to(there),
    )


def _in_turn(a: Step, b: Step, pairs: int, limit: float, device: Device) -> tuple[list[float], list[float]]:
    """Return the seconds of alternate runs of a and b, after one warm-up run of each."""
    seconds: tuple[list[float], list[float]] = [], []
    for turn in turns(pairs + 1, limit, least=2):
        for step, times in zip((a, b), seconds, strict=True):
            start = now(device)
            step()
            if turn:
                times.append(now(device) - start)
    return seconds


def now(device: Device) -> float:
    """Return a time in seconds, after everything that was issued to the device."""
    if device.torch.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def step_flop(
    networks: tuple[Translator, Discriminator], config: Config, device: Device, item: Batch
) -> float:
    """Return the FLOP of the default step with direct convolutions, the base of all rates."""
    plain = replace(device, compiles=False)
    with convolutions("direct"):
        translator, discriminator = _moved(networks, plain)
        trainer = TranslatorTrainer(translator, discriminator, config, config.translation, plain, 1)
        with FlopCounterMode(display=False) as counter:
            trainer.update(0, item)
    return float(counter.get_total_flops())
