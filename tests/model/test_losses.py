"""The losses against hand computations, and the objective's readings of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import random_batch, random_domains, random_images, tiny_config, tiny_discriminator, tiny_translator
from torch import Tensor, nn
from torch.autograd import gradcheck

from rgcluster.config import Config, LossConfig
from rgcluster.model import losses
from rgcluster.model.fusion import Fused, References
from rgcluster.model.gmm import kl_divergence
from rgcluster.model.losses import Parts
from rgcluster.model.networks import Posterior
from rgcluster.model.translator import (
    Batch,
    TranslationObjective,
    Translator,
    closest,
    pasted,
    style_of,
    update_ema,
)


def test_l1_is_the_mean_over_all_elements() -> None:
    assert losses.l1(torch.tensor([[1.0, -2.0], [0.0, 4.0]]), torch.zeros(2, 2)) == 7 / 4


@pytest.mark.parametrize(("real", "expected"), [(True, (1 + 4 + 0.25) / 3), (False, (0 + 1 + 2.25) / 3)])
def test_adversarial_loss_is_least_squares(real: bool, expected: float) -> None:
    scores = torch.tensor([0.0, -1.0, 1.5])
    torch.testing.assert_close(
        losses.adversarial_loss(scores, real=real, config=LossConfig(real_label=1)), torch.tensor(expected)
    )


@pytest.mark.parametrize(
    ("form", "real", "expected"),
    [
        ("hinge", True, (1 + 2 + 0) / 3),
        ("hinge", False, (1 + 0 + 2.5) / 3),
        ("non-saturating", True, (math.log(2) + math.log(1 + math.e) + math.log(1 + math.exp(-1.5))) / 3),
        ("non-saturating", False, (math.log(2) + math.log(1 + 1 / math.e) + math.log(1 + math.exp(1.5))) / 3),
    ],
)
def test_other_forms_of_the_adversarial_loss(form: Any, real: bool, expected: float) -> None:
    scores = torch.tensor([0.0, -1.0, 1.5])
    found = losses.adversarial_loss(scores, real=real, config=LossConfig(adversarial_form=form))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_generator_maximises_scores_in_every_form() -> None:
    scores = torch.tensor([0.5, -1.0, 0.9])
    for form in ("least-squares", "hinge", "non-saturating"):
        config = LossConfig(adversarial_form=form)
        slope = gradient(lambda a, config=config: losses.generator_adversarial_loss(a, config), scores)
        assert (slope < 0).all(), form
    assert losses.generator_adversarial_loss(scores, LossConfig(adversarial_form="hinge")) == -scores.mean()


class LinearJudge(nn.Module):
    """D(x) = w . x on a 1x1 map: its gradient at any image is w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return (image * self.weight).sum((1, 2, 3))[:, None, None, None], image.mean((2, 3))


def test_the_gradient_penalty_of_a_linear_judge_is_its_squared_weight() -> None:
    judge, image = LinearJudge(), random_images(5, 4).requires_grad_()
    penalty = losses.gradient_penalty(judge(image)[0], image)
    torch.testing.assert_close(penalty, judge.weight.square().sum())
    penalty.backward()
    assert judge.weight.grad is not None
    torch.testing.assert_close(judge.weight.grad, 2 * judge.weight.detach())


def test_a_lazy_penalty_averages_to_that_of_every_step() -> None:
    judge, real, fake, domain = (
        LinearJudge(),
        random_images(2, 4),
        random_images(2, 4, 1),
        random_domains(2, 3),
    )
    config = LossConfig(gradient_penalty=0.5, gradient_penalty_every=4)
    plain, _ = losses.discriminator_loss(judge, real, fake, domain, domain, LossConfig(), "independent")
    found = [
        losses.discriminator_loss(judge, real, fake, domain, domain, config, "independent", step)
        for step in range(8)
    ]
    penalties = torch.stack([parts["d_penalty"] for _, parts in found])
    torch.testing.assert_close(penalties.mean(), judge.weight.square().sum())
    assert penalties.count_nonzero() == 2 and not real.requires_grad
    extra = torch.stack([total for total, _ in found]) - plain
    torch.testing.assert_close(extra, 0.25 * penalties)


def test_conditional_scores_add_the_agreement_of_logits_and_domain() -> None:
    scores, logits = torch.zeros(2, 1, 2, 2), torch.tensor([[1.0, -2.0], [1.0, -2.0]])
    domain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = losses.conditional_scores(scores, logits, domain, LossConfig(conditional=2.0))
    assert found[:, 0, 0, 0].tolist() == [3.0, -3.0] and found.shape == scores.shape
    assert losses.conditional_scores(scores, logits, domain, LossConfig()) is scores


def test_the_class_of_a_translation_is_its_input_s_where_d_learns_from_translations() -> None:
    judge, real, fake = LinearJudge(), random_images(4, 4), random_images(4, 4, 1)
    domain, target = random_domains(4, 3), 1 - random_domains(4, 3)
    plain, without = losses.discriminator_loss(
        judge, real, fake, domain, target, LossConfig(domain=2), "independent"
    )
    loss = LossConfig(domain=2, fake_domain=0.3)
    total, parts = losses.discriminator_loss(judge, real, fake, domain, target, loss, "independent")
    expected = losses.domain_loss(judge(fake)[1], domain, "independent")
    assert "d_fake_domain" not in without
    torch.testing.assert_close(parts["d_fake_domain"], expected)
    torch.testing.assert_close(total, plain + 2 * 0.3 * expected)


def test_mismatched_real_images_are_refused() -> None:
    """Where the target is the own domain there is nothing to refuse; elsewhere it is the loss of a fake."""
    judge, real, fake = LinearJudge(), random_images(4, 4), random_images(4, 4, 1)
    domain = random_domains(4, 3)
    target = torch.cat([domain[:2], 1 - domain[2:]])
    config = LossConfig(conditional=1.0, mismatched=0.5)
    total, parts = losses.discriminator_loss(judge, real, fake, domain, target, config, "independent")
    scores, logits = judge(real)
    refused = losses.conditional_scores(scores, logits, target, config)[2:]
    expected = losses.adversarial_loss(refused, real=False, config=config) / 2
    torch.testing.assert_close(parts["d_mismatched"], expected)
    without, _ = losses.discriminator_loss(
        judge, real, fake, domain, target, LossConfig(conditional=1.0), "independent"
    )
    torch.testing.assert_close(total - without, 0.5 * expected)


def test_identity_counts_the_rows_whose_target_is_their_own_domain() -> None:
    config = tiny_config("translation.loss.identity=10")
    batch = random_batch(config)
    target = batch.target.clone()
    target[:2] = batch.domain[:2]
    target[2:] = 1 - batch.domain[2:]
    batch = replace(batch, target=target)
    objective = TranslationObjective(tiny_translator(config), config, config.translation.loss, None)
    image, parts = objective(batch)
    torch.testing.assert_close(parts["identity"], (image - batch.image)[:2].abs().mean() / 2)
    _, parts = objective(replace(batch, target=1 - batch.domain))
    assert parts["identity"] == 0


@pytest.mark.parametrize("real", [True, False])
def test_real_label_is_a_mirror_of_the_scores(real: bool) -> None:
    """Real 0 and fake 1 on 1 - D is real 1 and fake 0 on D: the same game."""
    scores = torch.randn(2, 1, 3, 3)
    ours = losses.adversarial_loss(scores, real=real, config=LossConfig(real_label=1))
    papers = losses.adversarial_loss(1 - scores, real=real, config=LossConfig(real_label=0))
    torch.testing.assert_close(ours, papers)


def test_independent_domains_take_binary_cross_entropy() -> None:
    logits, domain = torch.tensor([[0.0, 2.0]]), torch.tensor([[1, 0]])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    torch.testing.assert_close(losses.domain_loss(logits, domain, "independent"), torch.tensor(expected))


def test_attributes_are_weighted() -> None:
    logits, domain = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[1, 0], [1, 0]])
    first, second = (
        (math.log(2) + math.log(1 + math.exp(-1))) / 2,
        (math.log(1 + math.exp(2)) + math.log(2)) / 2,
    )
    found = losses.domain_loss(logits, domain, "independent", torch.tensor([0.5, 3.0]))
    torch.testing.assert_close(found, torch.tensor((0.5 * first + 3 * second) / 2))


def test_one_hot_domains_take_softmax_cross_entropy() -> None:
    logits, domain = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 0]])
    expected = -math.log(math.exp(2) / (math.exp(1) + math.exp(2) + math.exp(3)))
    torch.testing.assert_close(losses.domain_loss(logits, domain, "one-hot"), torch.tensor(expected))


@pytest.mark.parametrize("kind", ["independent", "one-hot"])
def test_domain_loss_prefers_the_truth(kind: str) -> None:
    domain = torch.tensor([[0.0, 1.0, 0.0]])
    right, wrong = 4 * (2 * domain - 1), 4 * (1 - 2 * domain)
    assert losses.domain_loss(right, domain, kind) < losses.domain_loss(wrong, domain, kind)


@pytest.mark.parametrize(("near", "far", "expected"), [(1.0, 3.0, 0.0), (3.0, 1.0, 2.2), (1.0, 1.1, 0.1)])
def test_triplet_loss(near: float, far: float, expected: float) -> None:
    anchor = torch.zeros(1, 4)
    positive, negative = torch.tensor([[near, 0, 0, 0]]), torch.tensor([[0, 0, -far, 0]])
    loss, parts = losses.triplet_loss(anchor, positive, negative, margin=0.2)
    torch.testing.assert_close(loss, torch.tensor(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(parts["near"], torch.tensor(near), atol=1e-4, rtol=0)
    torch.testing.assert_close(parts["far"], torch.tensor(far), atol=1e-4, rtol=0)
    assert parts["ordered"] == float(near < far)


def test_triplet_loss_is_a_mean_over_the_batch() -> None:
    anchor, positive, negative = torch.randn(3, 5, 7)
    alone = [
        losses.triplet_loss(*(x[i : i + 1] for x in (anchor, positive, negative)), 0.2)[0] for i in range(5)
    ]
    torch.testing.assert_close(
        losses.triplet_loss(anchor, positive, negative, 0.2)[0], torch.stack(alone).mean()
    )


def test_triplet_loss_has_finite_gradients_where_points_coincide() -> None:
    points = torch.zeros(3, 2, 4, requires_grad=True)
    losses.triplet_loss(*points, margin=0.2)[0].backward()
    assert points.grad is not None and points.grad.isfinite().all()


@pytest.mark.parametrize("margin", [5.0, 0.2])
def test_triplet_gradients(margin: float) -> None:
    torch.manual_seed(1)
    points = tuple(torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert gradcheck(lambda a, p, n: losses.triplet_loss(a, p, n, margin)[0], points)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    point = at.clone().requires_grad_()
    return torch.autograd.grad(loss(point), point)[0]


def test_gradients_by_hand() -> None:
    torch.manual_seed(0)
    x, y, domain = torch.randn(2, 5), torch.randn(2, 5), random_domains(2)
    torch.testing.assert_close(gradient(lambda a: losses.l1(a, y), x), (x - y).sign() / 10)
    least_squares = gradient(lambda a: losses.adversarial_loss(a, real=True, config=LossConfig()), x)
    torch.testing.assert_close(least_squares, 2 * (x - 1) / 10)
    cross_entropy = gradient(lambda a: losses.domain_loss(a, domain, "independent"), x)
    torch.testing.assert_close(cross_entropy, (x.sigmoid() - domain) / 10)
    one_hot = F.one_hot(torch.tensor([1, 4]), 5)
    softmax = gradient(lambda a: losses.domain_loss(a, one_hot, "one-hot"), x)
    torch.testing.assert_close(softmax, (x.softmax(dim=1) - one_hot) / 2)
    pull = gradient(lambda a: kl_divergence(Posterior(a, y), domain, 0.5), x)
    torch.testing.assert_close(pull, (x - (2 * domain - 1)) / 0.25 / 2)


def test_weighted_sum_uses_the_weights_of_the_same_name() -> None:
    parts = {"content": torch.tensor(1.0), "style": torch.tensor(2.0), "kl": torch.tensor(3.0)}
    config = LossConfig(content=10.0, style=100.0, kl=1000.0)
    assert losses.weighted_sum(parts, config) == 10 + 200 + 3000


# --- D's loss ---


@pytest.mark.parametrize("kind", ["independent", "one-hot"])
@pytest.mark.parametrize("real_label", [0, 1])
def test_discriminator_loss_equals_two_separate_forwards(kind: str, real_label: int) -> None:
    config = LossConfig(real_label=real_label, adversarial=2.0, domain=3.0)
    discriminator = tiny_discriminator(tiny_config())
    real, fake, domain = random_images(3), random_images(3, seed=1).requires_grad_(), random_domains(3)
    total, parts = losses.discriminator_loss(discriminator, real, fake, domain, domain, config, kind)

    scores, logits = discriminator(real)
    fake_scores, _ = discriminator(fake.detach())
    d_real = (scores - real_label).square().mean()
    d_fake = (fake_scores - (1 - real_label)).square().mean()
    d_domain = losses.domain_loss(logits, domain, kind)
    expected = 2 * (d_real + d_fake) + 3 * d_domain
    torch.testing.assert_close(parts, {"d_real": d_real, "d_fake": d_fake, "d_domain": d_domain})
    torch.testing.assert_close(total, expected)

    weights = list(discriminator.parameters())
    torch.testing.assert_close(torch.autograd.grad(total, weights), torch.autograd.grad(expected, weights))
    assert fake.grad is None


# --- the generator's objective ---


class Recorder(nn.Module):
    """Wraps a generator and keeps what each pass was given: content, style, image, how far masked."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.own_style = inner, inner.own_style
        self.passes: list[tuple[Tensor, Tensor, Tensor, float]] = []
        self.own: list[Tensor | None] = []

    def forward(
        self,
        content: Tensor,
        style: Tensor,
        image: Tensor,
        attention: float = 1.0,
        paint: Tensor | None = None,
        own: Tensor | None = None,
    ) -> object:
        assert paint is None  # nothing guides
        self.passes.append((content.detach(), style.detach(), image.detach(), attention))
        self.own.append(own)
        return self.inner(content, style, image, attention, None, own)


def run(
    config: Config, loss: LossConfig, batch: Batch | None = None, perceptual: nn.Module | None = None
) -> tuple[Tensor, Parts, Translator, Batch]:
    translator = tiny_translator(config)
    objective = TranslationObjective(translator, config, loss, perceptual)
    batch = random_batch(config) if batch is None else batch
    translated, parts = objective(batch)
    return translated, parts, translator, batch


@torch.no_grad()
def test_objective_is_equations_2_to_5() -> None:
    config = tiny_config()
    translated, parts, net, batch = run(config, LossConfig())
    x, s_t = batch.image, batch.target_style
    c, posterior = net.content_encoder(x), net.style_encoder(x)
    x_hat = net.generator(c, s_t, x).image
    cycled = net.generator(net.content_encoder(x_hat), posterior.mean, x_hat).image
    expected = {
        "content": (net.content_encoder(x_hat) - c).abs().mean(),
        "style": (net.style_encoder(x_hat).mean - s_t).abs().mean(),
        "image": (net.generator(c, posterior.mean, x).image - x).abs().mean(),
        "cycle": (cycled - x).abs().mean(),
        "kl": kl_divergence(posterior, batch.domain, 0.5),
    }
    torch.testing.assert_close(translated, x_hat)
    assert parts.keys() == expected.keys()
    torch.testing.assert_close(parts, expected)


@torch.no_grad()
def test_style_target_as_the_paper_prints_it() -> None:
    config = tiny_config()
    _, sampled, _, _ = run(config, LossConfig(style_target="sampled"))
    translated, encoded, net, batch = run(config, LossConfig(style_target="encoded"))
    printed = (net.style_encoder(translated).mean - net.style_encoder(batch.image).mean).abs().mean()
    torch.testing.assert_close(encoded["style"], printed)
    assert encoded["style"] < sampled["style"]
    assert encoded["cycle"] == sampled["cycle"]


@torch.no_grad()
def test_original_cycle_blend_leaks_the_answer() -> None:
    config = tiny_config()
    batch = random_batch(config)
    parts = {}
    for blend in ("translated", "original"):
        translator = tiny_translator(config)
        translator.generator.heads.weight[3] = 0  # the mask lets nine tenths of the input through
        translator.generator.heads.bias[3] = math.log(1 / 9)
        loss = LossConfig(cycle_blend=blend)  # type: ignore[arg-type]
        _, parts[blend] = TranslationObjective(translator, config, loss, None)(batch)
    assert parts["original"]["cycle"] < 0.6 * parts["translated"]["cycle"]
    for name in ("content", "style", "image", "kl"):
        assert parts["original"][name] == parts["translated"][name]


@torch.no_grad()
def test_each_pass_gets_its_style_and_the_image_behind_its_mask() -> None:
    config = tiny_config()
    translator, batch = tiny_translator(config), random_batch(config)
    recorder = Recorder(translator.generator)
    translator.generator = recorder  # type: ignore[assignment]
    translated, _ = TranslationObjective(translator, config, LossConfig(), None)(batch)
    own = translator.style_encoder(batch.image).mean
    contents, (first, second, third), behind, _ = zip(*recorder.passes, strict=True)
    assert torch.equal(first, batch.target_style) and torch.equal(behind[0], batch.image)
    assert torch.equal(second, own) and torch.equal(behind[1], batch.image)
    assert torch.equal(third, own) and torch.equal(behind[2], translated)
    torch.testing.assert_close(contents[2], translator.content_encoder(translated))


@pytest.mark.parametrize("form", ["cycle", "back-translation"])
def test_a_generator_that_compares_styles_is_told_each_image_s_own(form: str) -> None:
    config = tiny_config("model.own_style=true")
    translator, batch = tiny_translator(config), random_batch(config)
    recorder = Recorder(translator.generator)
    translator.generator = recorder  # type: ignore[assignment]
    translated, _ = TranslationObjective(translator, config, LossConfig(cycle_form=form), None)(batch)  # type: ignore[arg-type]
    own, after = (translator.style_encoder(image).mean for image in (batch.image, translated))
    assert len(recorder.own) == 3
    for told, expected in zip(recorder.own, (own, own, after), strict=True):
        assert told is not None and not told.requires_grad
        torch.testing.assert_close(told, expected)


@torch.no_grad()
def test_a_style_that_is_the_image_s_own_differs_from_the_same_style_of_another_image() -> None:
    config = tiny_config("model.own_style=true")
    net, batch = tiny_translator(config), random_batch(config)
    style = net.style_encoder(batch.image).mean
    content = net.content_encoder(batch.image)
    told = net.generate(Fused(content), style, batch.image, own=style).image
    assert torch.equal(told, net.generate(Fused(content), style, batch.image).image)
    assert not torch.equal(told, net.generate(Fused(content), style, batch.image, own=-style).image)


@pytest.mark.parametrize(("mask_in", "expected"), [("all", [0.5] * 3), ("translation", [0.5, 0.0, 0.0])])
@torch.no_grad()
def test_how_far_each_pass_blends_with_its_input(mask_in: str, expected: list[float]) -> None:
    config = tiny_config()
    translator = tiny_translator(config)
    recorder = Recorder(translator.generator)
    translator.generator = recorder  # type: ignore[assignment]
    loss = LossConfig(mask_in=mask_in)  # type: ignore[arg-type]
    TranslationObjective(translator, config, loss, None)(random_batch(config), attention=0.5)
    assert [attention for *_, attention in recorder.passes] == expected


@pytest.mark.parametrize(("form", "learns"), [("cycle", True), ("back-translation", False)])
def test_only_a_cycle_has_a_gradient_through_the_translation(form: str, learns: bool) -> None:
    config = tiny_config()
    batch = random_batch(config)
    style = batch.target_style.requires_grad_()
    objective = TranslationObjective(tiny_translator(config), config, LossConfig(cycle_form=form), None)  # type: ignore[arg-type]
    _, parts = objective(batch)
    (gradient,) = torch.autograd.grad(parts["cycle"], style, allow_unused=True)
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) is learns


@torch.no_grad()
@pytest.mark.parametrize("frozen", [False, True])
def test_back_translation_blends_and_may_take_the_mean_style(frozen: bool) -> None:
    """Whatever the passes of `mask_in`: x_hat is a given image, and the mask is in force."""
    config = tiny_config()
    net, batch = tiny_translator(config), random_batch(config)
    if frozen:
        batch = replace(
            batch, content=net.content_encoder(batch.image), posterior=net.style_encoder(batch.image)
        )
    for kind, style in (
        ("own", net.style_encoder(batch.image).mean),
        ("mean", (2 * batch.domain - 1).repeat_interleave(8, dim=1)),
    ):
        loss = LossConfig(cycle_form="back-translation", cycle_style=kind, mask_in="translation")  # type: ignore[arg-type]
        translated, parts = TranslationObjective(net, config, loss, None)(batch, attention=0.7)
        back = net.generator(net.content_encoder(translated), style, translated, 0.7).image
        torch.testing.assert_close(parts["cycle"], losses.l1(back, batch.image))


@torch.no_grad()
@pytest.mark.parametrize(("side", "wider"), [(32, 1), (128, 4)])
def test_a_reference_is_pasted_where_the_mask_repaints_and_a_little_around(side: int, wider: int) -> None:
    image, reference, mask = (
        torch.zeros(1, 3, side, side),
        torch.ones(1, 3, side, side),
        torch.zeros(1, 1, side, side),
    )
    mask[:, :, 10:20, 10:20], mask[:, :, 24:28] = 0.6, 0.4
    made = pasted(image, reference, mask)
    expected = torch.zeros_like(image)
    expected[:, :, 10 - wider : 20 + wider, 10 - wider : 20 + wider] = 1
    assert torch.equal(made, expected)


@torch.no_grad()
def test_a_back_translation_may_begin_at_the_image_with_its_nearest_reference_pasted_in() -> None:
    config = tiny_config("model.fusion=literal")
    net, batch = tiny_translator(config, guided=True), random_batch(config)
    net.generator.heads.bias[3] = 0.2  # the mask repaints about half
    chosen = torch.tensor([True, False, True, False])
    near = References(torch.rand(4, 3, 3, 32, 32) * 2 - 1, torch.randn(4, 3, 32, 8, 8))
    guide = FixedGuide((near, near, None))
    loss = LossConfig(cycle_form="back-translation")
    objective = TranslationObjective(net, config, loss, None)
    translated, parts = objective(replace(batch, pasted=chosen), guide)
    mask = net.generate(
        net.fuse(net.content_encoder(batch.image), near), batch.target_style, batch.image
    ).mask
    assert 0 < (mask > 0.5).float().mean() < 1
    other = pasted(batch.image, near.images[:, 0], mask)
    given = torch.where(chosen[:, None, None, None], other, translated)
    back = net.generator(net.content_encoder(given), net.style_encoder(batch.image).mean, given).image
    torch.testing.assert_close(parts["cycle"], losses.l1(back, batch.image))
    _, plain = objective(batch, guide)
    assert not torch.equal(parts["cycle"], plain["cycle"])


@torch.no_grad()
def test_without_references_the_other_image_is_pasted_in() -> None:
    config = tiny_config()
    net, batch = tiny_translator(config), random_batch(config)
    batch = replace(batch, other=batch.image.flip(0))
    net.generator.heads.bias[3] = 0.2
    objective = TranslationObjective(net, config, LossConfig(cycle_form="back-translation"), None)
    chosen = torch.tensor([True, True, False, False])
    translated, parts = objective(replace(batch, pasted=chosen))
    mask = net.generate(
        net.fuse(net.content_encoder(batch.image), None), batch.target_style, batch.image
    ).mask
    other = pasted(batch.image, batch.other, mask)
    given = torch.where(chosen[:, None, None, None], other, translated)
    back = net.generator(net.content_encoder(given), net.style_encoder(batch.image).mean, given).image
    torch.testing.assert_close(parts["cycle"], losses.l1(back, batch.image))


def test_the_closest_image_is_another_one_whose_domain_fits_the_target() -> None:
    domain = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]])
    target = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1], [0, 1, 0, 0, 0]])
    assert closest(target, domain).tolist() == [1, 2, 3, 1]
    assert closest(target[:1], domain[:1]).tolist() == [0]


@torch.no_grad()
def test_posterior_mean_or_sample() -> None:
    posterior = Posterior(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, math.log(4)]]))
    noise = torch.tensor([[0.5, -1.0]])
    assert style_of(posterior, noise, LossConfig(posterior="mean")) is posterior.mean
    torch.testing.assert_close(
        style_of(posterior, noise, LossConfig(posterior="sample")), torch.tensor([[1.5, 0.0]])
    )

    config = tiny_config()
    _, mean, _, _ = run(config, LossConfig(posterior="mean"))
    _, sample, _, _ = run(config, LossConfig(posterior="sample"))
    assert mean["image"] != sample["image"] and mean["cycle"] != sample["cycle"]
    assert mean["style"] == sample["style"] and mean["kl"] == sample["kl"]


@torch.no_grad()
def test_frozen_encoders_outputs_are_taken_and_have_no_kl() -> None:
    config = tiny_config()
    _, expected, net, batch = run(config, LossConfig())
    known = replace(batch, content=net.content_encoder(batch.image), posterior=net.style_encoder(batch.image))
    _, parts, _, _ = run(config, LossConfig(), known)
    assert parts.keys() == expected.keys() - {"kl"}
    for name, value in parts.items():
        torch.testing.assert_close(value, expected[name])


@torch.no_grad()
def test_perceptual_part_compares_translation_and_input() -> None:
    class Distance(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - 2 * b).mean()

    translated, parts, _, batch = run(tiny_config(), LossConfig(perceptual=0.1), perceptual=Distance())
    torch.testing.assert_close(parts["perceptual"], (translated - 2 * batch.image).mean())


@torch.no_grad()
def test_appearance_compares_colours_where_the_mask_repaints() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 8, 8, generator=generator)
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, :4, :4] = 1
    pooled = image.unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    assert losses.appearance_loss(image, mask, pooled) < 1e-6
    other = pooled + 0.5
    other[:, :, :1, 1:] = other[:, :, 1:] = 7  # outside the mask
    torch.testing.assert_close(losses.appearance_loss(image, mask, other), torch.tensor(0.5 / 4))


def test_appearance_gives_the_mask_no_gradient() -> None:
    image, mask = torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 1, 8, 8, requires_grad=True)
    losses.appearance_loss(image, mask, torch.zeros(1, 3, 2, 2)).backward()
    assert mask.grad is None and image.grad is not None and image.grad.abs().sum() > 0


class FixedGuide:
    """Neighbours that the test chose; keeps the order of the calls."""

    def __init__(self, references: tuple[References, References, References | None]) -> None:
        self.references = references
        self.calls: list[str] = []
        self.query: tuple[Tensor, ...] | None = None

    def translation(self) -> References:
        self.calls.append("translation")
        return self.references[0]

    def reconstruction(self) -> References:
        self.calls.append("reconstruction")
        return self.references[1]

    def issue_cycle(self, image: Tensor, content: Tensor, style: Tensor) -> None:
        self.calls.append("issue_cycle")
        self.query = image, content, style

    def cycle(self) -> References | None:
        self.calls.append("cycle")
        return self.references[2]


@pytest.mark.parametrize("fuse_cycle", [True, False])
@torch.no_grad()
def test_guided_passes_take_their_own_neighbours(fuse_cycle: bool) -> None:
    config = tiny_config("model.fusion=literal")
    net, batch = tiny_translator(config, guided=True), random_batch(config)
    torch.manual_seed(5)
    near = [References(torch.empty(0), torch.randn(4, 3, 32, 8, 8)) for _ in range(3)]
    guide = FixedGuide((near[0], near[1], near[2] if fuse_cycle else None))
    translated, parts = TranslationObjective(net, config, LossConfig(), None)(batch, guide)

    assert net.fusion is not None
    x, c, s = batch.image, net.content_encoder(batch.image), net.style_encoder(batch.image).mean
    x_hat = net.generator(net.fuse(c, near[0]).content, batch.target_style, x).image
    c_hat = net.content_encoder(x_hat)
    again = net.fuse(c_hat, near[2]).content if fuse_cycle else c_hat
    torch.testing.assert_close(translated, x_hat)
    image = net.generator(net.fuse(c, near[1]).content, s, x).image
    torch.testing.assert_close(parts["image"], losses.l1(image, x))
    torch.testing.assert_close(parts["cycle"], losses.l1(net.generator(again, s, x_hat).image, x))
    torch.testing.assert_close(guide.query, (x_hat, c_hat, s))
    # Asked as soon as x_hat is encoded, collected after the reconstruction: the search runs meanwhile.
    assert guide.calls == ["translation", "issue_cycle", "reconstruction", "cycle"]


def test_perceptual_network_is_no_part_of_the_objective() -> None:
    config = tiny_config()
    objective = TranslationObjective(tiny_translator(config), config, LossConfig(), nn.Linear(2, 2))
    assert not any("perceptual" in name for name in objective.state_dict())
    assert len(list(objective.parameters())) == len(list(objective.translator.parameters()))


def test_ema_moves_by_one_minus_the_decay() -> None:
    average, current = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = {
        name: 0.9 * value + 0.1 * current.state_dict()[name] for name, value in average.state_dict().items()
    }
    update_ema(average, current, 0.9)
    torch.testing.assert_close(dict(average.state_dict()), expected)
    update_ema(average, current, 0.0)
    torch.testing.assert_close(average.state_dict(), current.state_dict())
