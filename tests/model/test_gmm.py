"""The style prior (eq. 1) and the keyed random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Normal, kl_divergence

from rgcluster.model import gmm
from rgcluster.model.networks import Posterior
from rgcluster.model.noise import Draw, keyed_integers, keyed_normal, keyed_uniform

DOMAIN = torch.tensor([[1, 0], [0, 0]])


def posterior(batch: int, size: int, seed: int = 0) -> Posterior:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, batch, size, generator=generator)
    return Posterior(mean, log_variance)


# --- the prior ---


def test_prior_mean_is_plus_or_minus_one_repeated() -> None:
    expected = torch.tensor([[1.0, 1, 1, -1, -1, -1], [-1, -1, -1, -1, -1, -1]])
    assert torch.equal(gmm.prior_mean(DOMAIN, 3), expected)


def test_styles_have_the_components_mean_and_deviation() -> None:
    domain = torch.tensor([[1, 0, 1, 1, 0]]).expand(20_000, 5)
    styles = gmm.sample_style(
        domain, torch.randn(20_000, 40, generator=torch.Generator().manual_seed(0)), std=0.5
    )
    torch.testing.assert_close(styles.mean(dim=0), gmm.prior_mean(domain[:1], 8)[0], atol=0.02, rtol=0)
    torch.testing.assert_close(styles.std(dim=0), torch.full((40,), 0.5), atol=0.02, rtol=0)


def test_style_without_noise_is_the_mean() -> None:
    assert torch.equal(gmm.sample_style(DOMAIN, torch.zeros(2, 16), 0.5), gmm.prior_mean(DOMAIN, 8))


@given(seed=st.integers(0, 1000), std=st.floats(0.1, 3.0))
@settings(deadline=None, max_examples=30)
def test_kl_is_torchs_closed_form_summed_over_the_style(seed: int, std: float) -> None:
    q = posterior(2, 6, seed)
    own, component = Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(gmm.prior_mean(DOMAIN, 3), std)
    expected = kl_divergence(own, component).sum(dim=1).mean()
    torch.testing.assert_close(gmm.kl_divergence(q, DOMAIN, std), expected, rtol=1e-4, atol=1e-4)


def test_kl_is_the_expected_log_ratio() -> None:
    """Monte Carlo, from the definition."""
    q = posterior(2, 4)
    own, component = Normal(q.mean, (0.5 * q.log_variance).exp()), Normal(gmm.prior_mean(DOMAIN, 2), 0.5)
    torch.manual_seed(0)
    samples = own.sample((200_000,))
    estimate = (own.log_prob(samples) - component.log_prob(samples)).sum(dim=2).mean()
    torch.testing.assert_close(gmm.kl_divergence(q, DOMAIN, 0.5), estimate, rtol=0.01, atol=0)


def test_kl_is_zero_at_the_component_and_nowhere_else() -> None:
    mean = gmm.prior_mean(DOMAIN, 4)
    log_variance = torch.full_like(mean, 0.25).log()
    assert gmm.kl_divergence(Posterior(mean, log_variance), DOMAIN, 0.5).abs() < 1e-6
    assert gmm.kl_divergence(Posterior(mean + 0.1, log_variance), DOMAIN, 0.5) > 1e-3
    assert gmm.kl_divergence(Posterior(mean, log_variance + 0.1), DOMAIN, 0.5) > 1e-3
    assert gmm.kl_divergence(Posterior(mean, log_variance), 1 - DOMAIN, 0.5) > 1


def test_kl_pulls_the_posterior_to_the_component() -> None:
    mean, log_variance = torch.zeros(2, 4, requires_grad=True), torch.zeros(2, 4, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_variance], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        gmm.kl_divergence(Posterior(mean, log_variance), DOMAIN, 0.5).backward()
        optimizer.step()
    torch.testing.assert_close(mean.detach(), gmm.prior_mean(DOMAIN, 2), atol=0.01, rtol=0)
    torch.testing.assert_close(log_variance.detach().exp(), torch.full((2, 4), 0.25), atol=0.01, rtol=0)


# --- keyed numbers ---

ROWS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=12, unique=True)
KEYS = {
    "seed": st.integers(-(2**63), 2**63 - 1),
    "step": st.integers(0, 2**40),
    "draw": st.sampled_from(Draw),
}


@given(rows=ROWS, cut=st.integers(0, 12), data=st.data(), **KEYS)
def test_numbers_do_not_depend_on_the_order_of_the_rows_or_their_split(
    rows: list[int], cut: int, data: st.DataObject, seed: int, step: int, draw: Draw
) -> None:
    ids = np.array(rows, np.int64)
    whole = keyed_integers(seed, draw, step, ids, 3)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    assert np.array_equal(keyed_integers(seed, draw, step, ids[order], 3), whole[order])
    ranks = [keyed_integers(seed, draw, step, part, 3) for part in (ids[:cut], ids[cut:])]
    assert np.array_equal(np.concatenate(ranks), whole)


@given(rows=ROWS, **KEYS)
def test_a_step_for_each_row_is_the_same_as_one_for_all(
    rows: list[int], seed: int, step: int, draw: Draw
) -> None:
    ids = np.array(rows, np.int64)
    steps = np.full(len(ids), step, np.int64)
    assert np.array_equal(keyed_integers(seed, draw, steps, ids, 2), keyed_integers(seed, draw, step, ids, 2))


@given(rows=ROWS, **KEYS)
def test_more_numbers_begin_with_the_fewer(rows: list[int], seed: int, step: int, draw: Draw) -> None:
    ids = np.array(rows, np.int64)
    assert np.array_equal(
        keyed_uniform(seed, draw, step, ids, 5)[:, :2], keyed_uniform(seed, draw, step, ids, 2)
    )


def test_every_part_of_the_key_makes_another_stream() -> None:
    """No two of 5 seeds x every use x 50 steps x 40 rows share a 64-bit number."""
    rows = np.arange(40, dtype=np.int64)
    numbers = [
        keyed_integers(seed, draw, step, rows, 1)
        for seed in (-1, 0, 1, 2, 2**40)
        for draw in Draw
        for step in range(50)
    ]
    flat = np.concatenate(numbers).ravel()
    assert len(np.unique(flat)) == len(flat) == 5 * len(Draw) * 50 * 40


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_uniforms_are_uniform(seed: int) -> None:
    uniform = keyed_uniform(seed, Draw.CATEGORY, 3, np.arange(5000, dtype=np.int64), 4)
    assert 0 < uniform.min() and uniform.max() < 1
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-4
    across_steps = np.concatenate(
        [keyed_uniform(seed, Draw.CATEGORY, t, np.zeros(1, np.int64), 1) for t in range(3000)]
    )
    assert stats.kstest(across_steps.ravel(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_normals_are_standard_normal_and_independent(seed: int) -> None:
    normal = keyed_normal(seed, Draw.TARGET_STYLE, 7, np.arange(20_000, dtype=np.int64), 6)
    assert normal.dtype == np.float32 and np.isfinite(normal).all()
    assert np.abs(normal.mean(axis=0)).max() < 0.04
    assert np.abs(normal.var(axis=0) - 1).max() < 0.05
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-4
    correlation = np.corrcoef(normal, rowvar=False) - np.eye(6)
    assert np.abs(correlation).max() < 0.04
    assert abs(np.corrcoef(normal[:-1, 0], normal[1:, 0])[0, 1]) < 0.04
