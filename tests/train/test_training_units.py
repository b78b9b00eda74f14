"""Pieces of training that need no cluster: ingest, optimisers, metrics, one translator's step."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    CPU,
    random_batch,
    random_images,
    same_tensors,
    snapshot,
    tiny_config,
    tiny_discriminator,
    tiny_translator,
)
from torch import Tensor, nn

from rgcluster.base.checkpoint.tree import load_tree, save_tree
from rgcluster.base.storage import Location
from rgcluster.bench.training.plain import PlainTrainer, Switches
from rgcluster.bench.training.step import bench_step
from rgcluster.config import LossConfig, OptimizerConfig, RetrievalConfig
from rgcluster.errors import CheckpointError
from rgcluster.model.fusion import References
from rgcluster.model.kernels.convolution import convolutions
from rgcluster.model.losses import Parts, weighted_sum
from rgcluster.model.noise import derived_seed
from rgcluster.model.translator import Batch
from rgcluster.train.records.metrics import MetricsLog, read_metrics
from rgcluster.train.steps.ingest import Ingest
from rgcluster.train.steps.optimizer import Optimizer, learning_rate
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.tensors import to_images, to_pixels

# --- pictures and tensors ---


def test_pixels_and_images() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    image = to_images(pixels, CPU)
    assert image.shape == (1, 3, 16, 16) and image.min() == -1 and image.max() == 1
    assert np.array_equal(to_pixels(image), pixels)
    several = np.stack([pixels, 255 - pixels], axis=1)
    assert to_images(several, CPU).shape == (1, 2, 3, 16, 16)
    assert np.array_equal(to_pixels(to_images(several, CPU)), several)
    assert np.array_equal(
        to_pixels(torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2).repeat(1, 3, 1, 1))[0, 0, :, 0], [0, 255]
    )


# --- ingest ---

COLUMNS = [6, 5, 4, 3, 2]


def block(step: int = 3, rows: range = range(100, 108), seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng([seed])
    pixels, labels = (
        generator.integers(0, 256, (200, 32, 32, 3), np.uint8),
        generator.integers(0, 2, (200, 7), np.int8),
    )
    places = np.array(rows)
    return {
        "step": np.full(len(places), step),
        "row_id": places.astype(np.int64),
        "image": pixels[places],
        "labels": labels[places],
    }


def ingest(*overrides: str, domains: np.ndarray | None = None) -> Ingest:
    if domains is None:
        domains = np.random.default_rng(1).integers(0, 2, (50, 5), np.int8)
    return Ingest(tiny_config(*overrides), COLUMNS, domains, CPU)


def tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if value is not None}


def test_ingest_is_a_function_of_seed_step_and_row() -> None:
    loss = LossConfig(posterior="sample")
    whole = tensors(ingest().batch(block(), loss))
    assert same_tensors(whole, tensors(ingest().batch(block(), loss)))
    halves = [tensors(ingest().batch(block(rows=rows), loss)) for rows in (range(100, 104), range(104, 108))]
    joined = {name: torch.cat([half[name] for half in halves]) for name in whole}
    assert same_tensors(whole, joined)
    for other in (ingest().batch(block(step=4), loss), ingest("seed=1").batch(block(), loss)):
        assert not torch.equal(other.target_style, whole["target_style"])
        assert not torch.equal(other.posterior_noise, whole["posterior_noise"])
        assert not torch.equal(other.target, whole["target"])


def test_domains_are_the_configured_columns() -> None:
    data = block()
    batch = ingest().batch(data, LossConfig())
    assert np.array_equal(batch.domain.numpy(), data["labels"][:, COLUMNS])


def test_targets_are_label_vectors_of_training_images() -> None:
    known = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1]], np.int8)
    weights = np.repeat(known, [3, 1], axis=0)  # three quarters are of the first
    batch = ingest(domains=weights).batch(block(rows=range(0, 200)), LossConfig())
    first = (batch.target == torch.from_numpy(known[0])).all(dim=1)
    assert ((batch.target == torch.from_numpy(known[1])).all(dim=1) | first).all()
    assert 0.6 < first.float().mean() < 0.9


def test_target_styles_follow_the_target() -> None:
    batch = ingest().batch(block(rows=range(0, 200)), LossConfig())
    spread = batch.target_style - (2 * batch.target - 1).repeat_interleave(8, dim=1)
    assert abs(spread.mean()) < 0.02 and abs(spread.std() - 0.5) < 0.02


def test_posterior_noise_is_drawn_only_where_it_is_used() -> None:
    assert not ingest().batch(block(), LossConfig(posterior="mean")).posterior_noise.any()
    assert ingest().batch(block(), LossConfig(posterior="sample")).posterior_noise.any()


def test_half_of_the_images_are_mirrored() -> None:
    data = block(rows=range(0, 200))
    plain = to_images(data["image"], CPU)
    assert torch.equal(ingest("data.mirror=false").images(data), plain)
    images = ingest("data.mirror=true").images(data)
    kept = (images == plain).flatten(1).all(dim=1)
    turned = (images == plain.flip(-1)).flatten(1).all(dim=1)
    assert (kept ^ turned).all() and 0.35 < turned.float().mean() < 0.65


# --- optimisers ---


def test_cutout_hides_one_square_of_each_image() -> None:
    visible = ingest().batch(block(rows=range(0, 200)), LossConfig(cutout=0.5)).visible
    assert visible is not None and visible.shape == (200, 1, 32, 32)
    hidden = 1 - visible[:, 0]
    heights, widths = hidden.amax(dim=2).sum(dim=1), hidden.amax(dim=1).sum(dim=1)
    torch.testing.assert_close(hidden.sum((1, 2)), heights * widths)  # a rectangle
    assert heights.max() == widths.max() == 16 and heights.min() >= 8  # cut by the border at most by half
    assert hidden.mean(dim=0).min() > 0  # every pixel is hidden in some image
    assert ingest().batch(block(), LossConfig()).visible is None


def test_d_never_sees_the_cut_out_square() -> None:
    """Another image under the square changes neither D's loss nor D's gradients."""
    subject = trainer("translation.loss.cutout=0.5")
    batch = random_batch(subject.config)
    visible = torch.ones(4, 1, 32, 32)
    visible[:, :, 8:20, 4:24] = 0
    seen: list[Tensor] = []
    subject.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    subject.update(0, replace(batch, visible=visible))
    assert len(seen) == 2  # real and fake together, then the fake for G
    assert all(not image[:, :, 8:20, 4:24].any() and image[:, :, :8].any() for image in seen)


def test_a_share_of_the_rows_is_pasted() -> None:
    chosen = ingest().batch(block(rows=range(0, 200)), LossConfig(pasted=0.7)).pasted
    assert chosen is not None and chosen.shape == (200,)
    assert 0.6 < chosen.float().mean() < 0.8
    everything = ingest().batch(block(rows=range(0, 200)), LossConfig(pasted=1.0)).pasted
    assert everything is not None and everything.all()
    assert ingest().batch(block(), LossConfig()).pasted is None


def test_moved_images_are_shifted_and_mirrored_copies() -> None:
    subject, data = ingest(), block(rows=range(0, 60))
    image = to_images(data["image"], CPU)
    moved = subject.moved(image, data)
    middle = moved[:, :, 8:24, 8:24]
    found = set()
    for row, wanted in enumerate(middle):
        candidates = {
            (down, right, flipped): (image[row].flip(-1) if flipped else image[row])[
                :, 8 + down : 24 + down, 8 + right : 24 + right
            ]
            for down in range(-2, 3)
            for right in range(-2, 3)
            for flipped in (False, True)
        }
        places = [place for place, candidate in candidates.items() if torch.equal(candidate, wanted)]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 20 and {flipped for _, _, flipped in found} == {False, True}
    halves = [
        subject.moved(image[part], {name: value[part] for name, value in data.items()})
        for part in (slice(30), slice(30, 60))
    ]
    assert torch.equal(torch.cat(halves), moved)


def test_learning_rate_is_a_function_of_the_step() -> None:
    config = OptimizerConfig(learning_rate=0.8, halve_every=10)
    assert [learning_rate(config, step) for step in (0, 9, 10, 19, 20, 30)] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.1]
    assert learning_rate(OptimizerConfig(learning_rate=0.8, halve_every=0), 10**9) == 0.8


def test_the_cosine_ends_at_a_twentieth() -> None:
    config = OptimizerConfig(learning_rate=2.0, schedule="cosine", halve_every=1)
    rates = [learning_rate(config, step, steps=100) for step in (0, 50, 100)]
    assert rates == pytest.approx([2.0, 1.05, 0.1])


def test_balanced_targets_are_every_domain_equally_often() -> None:
    rare = np.zeros((100, 5), np.int8)
    rare[0] = 1
    balanced = ingest("data.balance=true", domains=rare).batch(block(rows=range(0, 200)), LossConfig()).target
    plain = ingest(domains=rare).batch(block(rows=range(0, 200)), LossConfig()).target
    assert 0.4 < balanced[:, 0].mean() < 0.6 and plain[:, 0].mean() < 0.1


def test_a_share_of_the_targets_is_the_own_domain() -> None:
    data = block(rows=range(0, 200))
    loss = LossConfig(own_targets=0.25)
    plain, kept = ingest().batch(data, LossConfig()), ingest().batch(data, loss)
    own = (kept.target == kept.domain).all(dim=1).float().mean()
    by_chance = (plain.target == plain.domain).all(dim=1).float().mean()
    assert 0.15 < own - by_chance < 0.35
    changed = (kept.target != plain.target).any(dim=1)
    assert torch.equal(kept.target[changed], kept.domain[changed])


@pytest.mark.parametrize(
    ("rule", "rates"), [("sqrt", [0.1, 0.2, 0.05]), ("linear", [0.1, 0.4, 0.025]), ("none", [0.1] * 3)]
)
def test_the_rate_follows_the_batch_by_its_rule(rule: Any, rates: list[float]) -> None:
    config = OptimizerConfig(learning_rate=0.1, halve_every=0, rate_of_batch=32, rate_rule=rule)
    assert [learning_rate(config, 5, batch) for batch in (32, 128, 8)] == pytest.approx(rates)
    assert learning_rate(OptimizerConfig(learning_rate=0.1, rate_rule=rule), 5, 128) == 0.1


def take_steps(optimizer: Optimizer, network: nn.Module, steps: range) -> None:
    for step in steps:
        x = random_images(2, 8, seed=step)
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step(step)


def small_network(memory_format: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3))
    return network.to(memory_format=memory_format)  # type: ignore[call-overload]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_continues_bit_for_bit(
    tmp_path: Path, kind: str, memory_format: torch.memory_format
) -> None:
    """Through a checkpoint, whatever the layout of the weights: the file holds contiguous tensors."""
    config = OptimizerConfig(learning_rate=0.01, halve_every=2)
    choice = RetrievalConfig(kind=kind)  # type: ignore[arg-type]
    network = small_network(memory_format)
    optimizer = Optimizer(network.parameters(), config, choice)
    take_steps(optimizer, network, range(3))
    save_tree(Location(tmp_path), {"optimizer": optimizer.state()}, {})
    again = copy.deepcopy(network)
    take_steps(optimizer, network, range(3, 6))

    resumed = Optimizer(again.parameters(), config, choice)
    resumed.load(load_tree(Location(tmp_path))[0]["optimizer"])
    take_steps(resumed, again, range(3, 6))
    assert same_tensors(network.state_dict(), again.state_dict())


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_optimizer_is_torchs_with_the_rate_of_the_step(kind: str) -> None:
    ours, plain = small_network(), small_network()
    config = OptimizerConfig(learning_rate=0.01, betas=(0.5, 0.999), halve_every=1)
    optimizer = Optimizer(ours.parameters(), config, RetrievalConfig(kind=kind, momentum=0.9))  # type: ignore[arg-type]
    if kind == "adam":
        reference: torch.optim.Optimizer = torch.optim.Adam(
            plain.parameters(), 0.01, (0.5, 0.999), fused=False
        )
    else:
        reference = torch.optim.SGD(plain.parameters(), 0.01, 0.9)
    for step in range(4):
        take_steps(optimizer, ours, range(step, step + 1))
        reference.param_groups[0]["lr"] = 0.01 / 2**step
        reference.zero_grad()
        plain(random_images(2, 8, seed=step)).square().mean().backward()
        reference.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_gradients_are_clipped_to_the_norm() -> None:
    weight = nn.Parameter(torch.zeros(2))
    config = OptimizerConfig(learning_rate=1.0, gradient_clip=0.5)
    optimizer = Optimizer([weight], config, RetrievalConfig(kind="sgd", momentum=0.0))
    (weight * torch.tensor([3.0, 4.0])).sum().backward()
    optimizer.step(0)
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))


def test_frozen_parameters_are_left_out() -> None:
    network = small_network()
    network[0].requires_grad_(False)  # type: ignore[index]
    assert len(Optimizer(network.parameters(), OptimizerConfig()).parameters) == 2


def test_some_parameters_learn_at_a_multiple_of_the_rate() -> None:
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    config = OptimizerConfig(learning_rate=0.1)
    optimizer = Optimizer([slow], config, faster=[fast], factor=5.0)
    (slow + fast).sum().backward()
    optimizer.step(0)  # Adam's first step is the rate
    torch.testing.assert_close(torch.cat([slow, fast]).detach(), torch.tensor([-0.1, -0.5]))


# --- metrics ---


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    here = Location(tmp_path)
    log = MetricsLog(here, 0)
    for step in (5, 10, 15):
        log.write({"step": step, "loss": step / 2})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')  # a crash
    assert [line["step"] for line in read_metrics(here)] == [5, 10, 15]
    log = MetricsLog(here, 10)
    log.write({"step": 15, "loss": -1.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 5, "loss": 2.5},
        {"step": 10, "loss": 5.0},
        {"step": 15, "loss": -1.0},
    ]


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(Location(tmp_path)) == []


# --- one translator in training ---


def trainer(*overrides: str, guided: bool = False, frozen: bool = False, seed: int = 0) -> TranslatorTrainer:
    config = tiny_config(*overrides)
    translator = tiny_translator(config, seed, guided=guided)
    if frozen:
        translator.freeze_encoders()
    stage = config.guidance if frozen else config.translation
    return TranslatorTrainer(translator, tiny_discriminator(config), config, stage, CPU, 1)


def train(subject: TranslatorTrainer, steps: range) -> list[Parts]:
    return [subject.update(step, random_batch(subject.config, seed=10 * step)) for step in steps]


LOSSES = {
    "content",
    "style",
    "image",
    "cycle",
    "kl",
    "adversarial",
    "domain",
    "total",
    "d_real",
    "d_fake",
    "d_domain",
}


def test_steps_train_every_network() -> None:
    subject = trainer()
    before = snapshot(subject.translator), snapshot(subject.discriminator), snapshot(subject.average)
    for parts in train(subject, range(3)):
        assert parts.keys() == LOSSES
        assert all(value.isfinite() and not value.requires_grad for value in parts.values())
    after = subject.translator.state_dict(), subject.discriminator.state_dict(), subject.average.state_dict()
    for old, new in zip(before, after, strict=True):
        still = [name for name, value in old.items() if torch.equal(value, new[name])]
        assert not still


def test_total_is_the_weighted_sum() -> None:
    subject = trainer()
    (parts,) = train(subject, range(1))
    loss = subject.stage.loss
    names = ("content", "style", "image", "cycle", "kl", "adversarial", "domain")
    torch.testing.assert_close(parts["total"], sum(getattr(loss, name) * parts[name] for name in names))


def test_weights_of_attributes_are_the_generators_alone() -> None:
    only_male = "{Black_Hair: 0, Blond_Hair: 0, Brown_Hair: 0, Male: 2, Young: 0}"
    plain, weighted = trainer(), trainer(f"translation.loss.domain_of={only_male}")
    (usual,), (found,) = train(plain, range(1)), train(weighted, range(1))
    assert usual["d_domain"] == found["d_domain"] and usual["domain"] != found["domain"]
    all_ones = trainer("translation.loss.domain_of={Male: 1}")
    (same,) = train(all_ones, range(1))
    torch.testing.assert_close(same["domain"], usual["domain"])


def test_ema_follows_the_translator() -> None:
    subject = trainer("translation.ema=0.75")
    expected = snapshot(subject.average)
    assert same_tensors(expected, subject.translator.state_dict())
    for step in range(3):
        train(subject, range(step, step + 1))
        now = subject.translator.state_dict()
        expected = {name: 0.75 * value + 0.25 * now[name] for name, value in expected.items()}
    torch.testing.assert_close(dict(subject.average.state_dict()), expected)
    assert not any(parameter.requires_grad for parameter in subject.average.parameters())


def test_the_generators_step_gives_the_discriminator_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = trainer()
    seen: dict[str, list[Tensor | None]] = {}

    def after_judging(step: int) -> None:
        seen["judged"] = [copy.deepcopy(p.grad) for p in subject.discriminator.parameters()]

    def after_generating(step: int) -> None:
        seen["generated"] = [p.grad for p in subject.discriminator.parameters()]
        seen["generator"] = [p.grad for p in subject.translator.parameters()]

    monkeypatch.setattr(subject._discriminator_optimizer, "step", after_judging)
    monkeypatch.setattr(subject._generator_optimizer, "step", after_generating)
    train(subject, range(1))
    for judged, generated in zip(seen["judged"], seen["generated"], strict=True):
        assert judged is not None and generated is not None and torch.equal(judged, generated)
    assert all(gradient is not None for gradient in seen["generator"])
    assert all(parameter.requires_grad for parameter in subject.discriminator.parameters())


def test_the_discriminators_step_gives_the_generator_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = trainer()
    seen: list[Tensor | None] = []
    monkeypatch.setattr(
        subject._discriminator_optimizer,
        "step",
        lambda _: seen.extend(p.grad for p in subject.translator.parameters()),
    )
    train(subject, range(1))
    assert seen and all(gradient is None for gradient in seen)


def test_the_strength_of_the_mask_rises_between_its_steps() -> None:
    ramp = trainer("translation.attention_from=2", "translation.attention_full=6")
    assert [ramp.attention(step) for step in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [trainer().attention(step) for step in range(2)] == [1, 1]
    late = trainer("translation.attention_from=2")
    assert [late.attention(step) for step in range(4)] == [0, 0, 1, 1]
    guided = trainer("translation.attention_from=2", guided=True, frozen=True)
    assert guided.attention(0) == 1


def test_a_step_uses_its_attention() -> None:
    """With a mask of zeros the reconstruction is the input, once the mask is in force."""
    subject = trainer("translation.attention_from=1", "translation.optimizer.learning_rate=1e-9")
    with torch.no_grad():
        subject.translator.generator.heads.weight[3] = 0
        subject.translator.generator.heads.bias[3] = -200
    first, second = train(subject, range(2))
    assert first["image"] > 0.1 and second["image"] < 1e-6


def test_nothing_is_pasted_before_the_mask_is_in_force() -> None:
    overrides = ("translation.attention_from=1", "translation.loss.cycle_form=back-translation")
    config = tiny_config(*overrides)
    plain, pasting = trainer(*overrides), trainer(*overrides)
    for subject in (plain, pasting):
        with torch.no_grad():
            subject.translator.generator.heads.bias[3] = 1  # once in force, the mask repaints
    chosen = torch.tensor([True] * 4)
    for step, same in enumerate([True, False]):
        batch = random_batch(config, seed=step)
        cycles = [
            subject.update(step, one)["cycle"]
            for subject, one in ((plain, batch), (pasting, replace(batch, pasted=chosen)))
        ]
        assert torch.equal(*cycles) == same


class FixedGuide:
    """The same neighbours for every pass."""

    def __init__(self, references: References) -> None:
        self.references = references

    def translation(self) -> References:
        return self.references

    reconstruction = translation

    def cycle(self) -> References:
        return self.references

    def issue_cycle(self, image: Tensor, content: Tensor, style: Tensor) -> None:
        pass


@torch.no_grad()
def known(subject: TranslatorTrainer, batch: Batch) -> Batch:
    """The batch with the frozen encoders' outputs, as stage 3 prepares it."""
    net = subject.translator
    return replace(batch, content=net.content_encoder(batch.image), posterior=net.style_encoder(batch.image))


def guide_of(subject: TranslatorTrainer) -> FixedGuide:
    with torch.no_grad():
        return FixedGuide(
            subject.translator.encode_references(random_images(12, seed=99).unflatten(0, (4, 3)))
        )


def test_guidance_trains_generator_and_fusion_and_leaves_the_encoders() -> None:
    subject = trainer(guided=True, frozen=True)
    before = snapshot(subject.translator)
    for step in range(3):
        batch = known(subject, random_batch(subject.config, seed=step))
        parts = subject.update(step, batch, guide_of(subject))
        assert parts.keys() == LOSSES - {"kl"} and all(value.isfinite() for value in parts.values())
    for name, value in subject.translator.state_dict().items():
        encoder = name.startswith(("content_encoder.", "style_encoder."))
        assert torch.equal(value, before[name]) is encoder, name
        assert torch.equal(subject.average.state_dict()[name], before[name]) is encoder, name


def test_attention_learns_from_the_appearance_of_its_references() -> None:
    """Every parameter of f moves, the codes of the places too, and the loss reaches the total under its weight."""
    switches = ("model.fusion=attention", "guidance.loss.appearance=10")
    subject = trainer(*switches, guided=True, frozen=True)
    before = snapshot(subject.translator)
    batch = known(subject, random_batch(subject.config))
    parts = subject.update(0, batch, guide_of(subject))
    assert 0 < parts["appearance"] < 2
    weighted = {name: value for name, value in parts.items() if not name.startswith("d_") and name != "total"}
    torch.testing.assert_close(parts["total"], weighted_sum(weighted, subject.stage.loss))
    for name, value in subject.translator.state_dict().items():
        if name.startswith("fusion."):
            assert not torch.equal(value, before[name]), name


@torch.no_grad()
def test_guidance_starts_where_translation_ended() -> None:
    """The residual fusion is the identity at first: the first losses are those without neighbours."""
    guided, plain = trainer(guided=True, frozen=True), trainer(frozen=True)
    batch = known(guided, random_batch(guided.config))
    _, with_neighbours = guided._objective(batch, guide_of(guided))
    plain.translator.load_state_dict(
        {
            name: value
            for name, value in guided.translator.state_dict().items()
            if not name.startswith("fusion.")
        }
    )
    _, without = plain._objective(batch, None)
    torch.testing.assert_close(with_neighbours, without)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_restored_trainer_continues_bit_for_bit(tmp_path: Path, frozen: bool) -> None:
    def step(subject: TranslatorTrainer, number: int) -> Parts:
        batch = random_batch(subject.config, seed=number)
        if frozen:
            return subject.update(number, known(subject, batch), guide_of(subject))
        return subject.update(number, batch)

    first = trainer(guided=frozen, frozen=frozen)
    for number in range(2):
        step(first, number)
    save_tree(Location(tmp_path), first.state(), {"step": 2})
    expected = [step(first, number) for number in range(2, 4)]

    second = trainer(guided=frozen, frozen=frozen, seed=77)
    second.load(load_tree(Location(tmp_path))[0], "here")
    found = [step(second, number) for number in range(2, 4)]
    for a, b in zip(expected, found, strict=True):
        assert same_tensors(a, b)
    for name in ("translator", "average", "discriminator"):
        assert same_tensors(first.state()[name], second.state()[name])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_tree(Location(tmp_path), trainer("model.width=16").state(), {})
    with pytest.raises(CheckpointError, match="^run/step-2: .*the configuration needs"):
        trainer().load(load_tree(Location(tmp_path))[0], "run/step-2")


# --- the same training, written plainly ---


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("translation.loss.real_label=0", "translation.loss.adversarial=2"),
        ("data.domains=one-hot",),
        ("model.skip=true",),
        ("model.own_style=true",),
        # Adam's first updates have the rate's size, however small the gradient: a higher rate lets rounding grow.
        ("model.fill=true", "translation.optimizer.learning_rate=2e-5"),
    ],
)
def test_one_fake_a_step_is_the_plain_method(overrides: tuple[str, ...]) -> None:
    config = tiny_config(*overrides)
    ours = trainer(*overrides)
    plain = PlainTrainer(tiny_translator(config), tiny_discriminator(config), config)
    for step in range(3):
        batch = random_batch(ours.config, seed=step)
        torch.testing.assert_close(ours.update(step, batch), plain.update(batch), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("switch", ["group_norms", "parity_upsampling", "winograd", "one_fake"])
def test_a_formulation_alone_changes_nothing(switch: str) -> None:
    config = tiny_config("model.upsampling=nearest")
    networks = tiny_translator(config), tiny_discriminator(config)
    plain, other = (
        PlainTrainer(*networks, config),
        PlainTrainer(*networks, config, Switches(**{switch: True})),
    )
    batch = random_batch(config)
    with convolutions("winograd" if switch == "winograd" else "auto"):
        torch.testing.assert_close(other.update(batch), plain.update(batch), rtol=2e-4, atol=2e-5)


def test_bench_counts_arithmetic_and_pairs() -> None:
    config = tiny_config("model.upsampling=nearest")
    rows = {(row.case, row.metric): row for row in bench_step(config, 2, 1, False, lambda _: None)}
    speed = rows["default step", "speed"]
    assert speed.value > 0 and speed.baseline == "plain step" and speed.ratio is not None
    flop = rows["arithmetic", "translation step"].value
    done = rows["default step", "arithmetic done"]
    assert done.value == pytest.approx(flop * speed.value)
    assert done.baseline_value == rows["arithmetic", "matrix product"].value


def test_gauges_of_a_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rgcluster.train.records import gauges

    told: dict[tuple[str, ...], float] = {}

    class Recorded:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.keys = name, tag_keys

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == set(self.keys)
            told[(self.name, *tags.values())] = value

    monkeypatch.setattr(gauges, "Gauge", Recorded)
    monkeypatch.setattr(gauges.ray, "is_initialized", lambda: True)
    line = {
        "steps": 9.0, "seconds_per_step": 1.0, "images_per_second": 2.0, "wait_data": 3.0, "peak_memory_gib": 4.0,
        "rg-unit/total": 5.0,
    }  # fmt: skip
    gauges.Gauges(Location(tmp_path / "run" / "guidance")).log(7, line)
    assert told == {
        ("rgcluster_train_step", "run", "guidance"): 7.0,
        ("rgcluster_train_steps", "run", "guidance"): 9.0,
        ("rgcluster_train_images_per_second", "run", "guidance"): 2.0,
        ("rgcluster_train_wait_seconds", "run", "guidance", "data"): 3.0,
        ("rgcluster_train_peak_memory_gib", "run", "guidance"): 4.0,
        ("rgcluster_train_loss", "run", "guidance", "rg-unit/total"): 5.0,
    }


def test_stage_3_draws_other_images_and_noise_than_stage_1() -> None:
    seed = derived_seed(0, "guidance")
    assert seed != 0 and seed == derived_seed(0, "guidance") != derived_seed(1, "guidance")
    first, third = ingest(), ingest()
    third.seed = seed
    a, b = first.batch(block(), LossConfig()), third.batch(block(), LossConfig())
    assert not torch.equal(a.target_style, b.target_style) and not torch.equal(a.target, b.target)
