"""Stage 2's triplets: which negatives are drawn, and what each kind is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import random_batch, random_images, tiny_config, tiny_translator
from torch import Tensor

from rgcluster.model.noise import Draw, keyed_uniform
from rgcluster.model.translator import Translator
from rgcluster.model.triplets import CATEGORIES, choose_categories, encode_triplets, generate_negatives

STRATEGIES = ("easy", "medium", "hard", "all")
EASY, MEDIUM, HARD, OWN = range(4)


def uniforms(count: int) -> np.ndarray:
    return keyed_uniform(0, Draw.CATEGORY, 0, np.arange(count, dtype=np.int64), 4)


# --- which ---


def test_each_strategy_draws_uniformly_from_its_kinds() -> None:
    chosen = choose_categories(uniforms(12_000), STRATEGIES)
    for column, kinds in enumerate((1, 2, 3, 4)):
        counts = np.bincount(chosen[:, column], minlength=4)
        assert (counts[kinds:] == 0).all()
        if kinds > 1:
            assert stats.chisquare(counts[:kinds]).pvalue > 1e-4


def test_a_strategy_takes_over_the_larger_ones_draw_where_it_may() -> None:
    chosen = choose_categories(uniforms(2000), STRATEGIES)
    for smaller in range(3):
        allowed = chosen[:, smaller + 1] <= smaller
        assert 0 < allowed.mean() < 1
        assert (chosen[allowed, smaller] == chosen[allowed, smaller + 1]).all()


def test_a_strategy_draws_the_same_whatever_is_trained_beside_it() -> None:
    together = choose_categories(uniforms(500), STRATEGIES)
    for column, name in enumerate(STRATEGIES):
        assert np.array_equal(choose_categories(uniforms(500), [name])[:, 0], together[:, column])
    assert np.array_equal(choose_categories(uniforms(500), ["all", "easy"]), together[:, [3, 0]])


def test_the_largest_uniform_is_still_a_category() -> None:
    edge = np.full((1, 4), 1 - 2**-53)
    assert choose_categories(edge, STRATEGIES).tolist() == [[0, 1, 2, 3]]


# --- what ---


@pytest.fixture(scope="module")
def made() -> tuple[Translator, Tensor, Tensor, dict[str, Tensor]]:
    """A frozen translator, images x, references x_r and the three styles, six of each."""
    config = tiny_config()
    translator = tiny_translator(config).eval().requires_grad_(False)
    styles = {
        name: random_batch(config, 6, seed).target_style
        for seed, name in enumerate(("target", "hard", "own"))
    }
    return translator, random_images(6), random_images(6, seed=9), styles


EVERY_KIND = np.array(
    [[EASY, EASY], [MEDIUM, HARD], [HARD, OWN], [OWN, MEDIUM], [EASY, OWN], [MEDIUM, MEDIUM]]
)


def direct(made: tuple[Translator, Tensor, Tensor, dict[str, Tensor]], row: int, kind: int) -> Tensor:
    """The negative's picture as the specification says it, one image at a time."""
    net, image, reference, styles = made
    x, r = image[row : row + 1], reference[row : row + 1]
    s_t, s_r, s_i = (styles[name][row : row + 1] for name in ("target", "hard", "own"))
    c = net.content_encoder(x)
    if kind == EASY:
        return r
    if kind == MEDIUM:  # same style, other content
        return net.generator(net.content_encoder(r), s_t, r).image
    return net.generator(c, s_r if kind == HARD else s_i, x).image


def test_negatives_follow_the_specification(
    made: tuple[Translator, Tensor, Tensor, dict[str, Tensor]],
) -> None:
    net, image, reference, styles = made
    positive, negatives = generate_negatives(net, image, reference, styles, EVERY_KIND)
    assert negatives.shape == (6, 2, 3, 32, 32)
    torch.testing.assert_close(
        positive, net.generator(net.content_encoder(image), styles["target"], image).image
    )
    for row in range(6):
        for column in range(2):
            expected = direct(made, row, EVERY_KIND[row, column])
            torch.testing.assert_close(negatives[row, column][None], expected)


def test_only_drawn_categories_are_generated(
    made: tuple[Translator, Tensor, Tensor, dict[str, Tensor]],
) -> None:
    net, image, reference, styles = made
    batches: list[int] = []
    hook = net.generator.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    try:
        generate_negatives(net, image, reference, styles, np.zeros((6, 1), np.int64))
        assert batches == [6]  # the positives alone
        batches.clear()
        _, negatives = generate_negatives(net, image, reference, styles, EVERY_KIND)
        assert sorted(batches[1:]) == [
            2,
            3,
            3,
        ]  # hard; medium and own: each row once, though a row may name two
    finally:
        hook.remove()
    assert torch.equal(negatives[5, 0], negatives[5, 1])


@pytest.mark.parametrize("shared", [[False] * 6, [True] * 6, [True, False, False, True, False, True]])
def test_triplets_are_encoded_as_specified(
    made: tuple[Translator, Tensor, Tensor, dict[str, Tensor]], shared: list[bool]
) -> None:
    net, image, reference, styles = made
    positive, negatives = generate_negatives(net, image, reference, styles, EVERY_KIND)
    anchor, encoded, found = encode_triplets(
        net, image, positive, negatives, styles["target"], torch.from_numpy(EVERY_KIND), torch.tensor(shared)
    )
    torch.testing.assert_close(anchor, (net.content_encoder(image), styles["target"]))
    positive_style = net.style_encoder(positive).mean
    torch.testing.assert_close(encoded, (net.content_encoder(positive), positive_style))
    for column, (content, style) in enumerate(found):
        for row, kind in enumerate(EVERY_KIND[:, column]):
            picture = negatives[row, column][None]
            torch.testing.assert_close(content[row], net.content_encoder(picture)[0])
            own = net.style_encoder(picture).mean[0]
            wanted = positive_style[row] if kind == MEDIUM else own
            if kind == EASY and shared[row]:
                wanted = styles["target"][row]
            torch.testing.assert_close(style[row], wanted)


def test_encoded_triplets_can_be_learnt_from(
    made: tuple[Translator, Tensor, Tensor, dict[str, Tensor]],
) -> None:
    """No inference tensors: R saves them for its backward."""
    net, image, reference, styles = made
    positive, negatives = generate_negatives(net, image, reference, styles, EVERY_KIND[:, :1])
    anchor, _, _ = encode_triplets(
        net, image, positive.clone(), negatives.clone(), styles["target"], torch.from_numpy(EVERY_KIND[:, :1]),
        torch.zeros(6, dtype=torch.bool),
    )  # fmt: skip
    weight = torch.ones(32, requires_grad=True)
    (anchor[0] * weight[:, None, None]).sum().backward()
    assert weight.grad is not None


def test_category_names_are_in_the_order_of_the_strategies() -> None:
    assert CATEGORIES == ("easy", "medium", "hard", "own")
