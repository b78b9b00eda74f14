"""Intervals and p-values of differences, against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rgcluster.evaluate.metrics.intervals import contrast, holm, inception, kernel, mean
from rgcluster.evaluate.metrics.scores import inception_score, kernel_distance


def images(count: int, rows: int, seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "row": np.arange(count) % rows,
        "acc": generator.normal(shift, 1, count).astype(np.float32),
        "features": generator.normal(shift, 1, (count, 8)).astype(np.float32),
        "logits": generator.normal(0, 2, (count, 5)).astype(np.float32),
    }


def test_the_difference_is_that_of_the_means_and_the_interval_holds_it() -> None:
    a, b = images(120, 40, 0, 0.5), images(120, 40, 1)
    found = contrast([[(1, a), (-1, b)]], mean("acc"), 40)
    assert found.difference == pytest.approx(a["acc"].mean() - b["acc"].mean(), abs=1e-6)
    assert found.low < found.difference < found.high
    assert found.per_training_seed == pytest.approx([found.difference])


def test_equal_models_differ_by_nothing() -> None:
    a = images(60, 20, 0)
    for statistic in (mean("acc"), kernel(a["features"]), inception):
        found = contrast([[(1, a), (-1, a)]], statistic, 20)
        assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_missing_values_count_for_nothing() -> None:
    a = images(10, 5, 0)
    a["acc"][:6] = np.nan
    assert mean("acc")(a, np.ones((1, 5)))[0] == pytest.approx(a["acc"][6:].mean())


def test_inputs_of_one_test_image_stay_together() -> None:
    """Copies of the same measurement narrow nothing: the interval is that of the test images."""
    few = images(30, 30, 3)
    many = {key: np.concatenate([value] * 8) for key, value in few.items()}
    zero = {"row": few["row"], "acc": np.zeros(30, np.float32)}
    zeros = {"row": many["row"], "acc": np.zeros(240, np.float32)}
    once = contrast([[(1, few), (-1, zero)]], mean("acc"), 30)
    eight = contrast([[(1, many), (-1, zeros)]], mean("acc"), 30)
    assert eight.low == pytest.approx(once.low) and eight.high == pytest.approx(once.high)


def test_training_seeds_that_disagree_widen_the_interval() -> None:
    zero = {"row": np.arange(50), "acc": np.zeros(50, np.float32)}
    seeds = [
        [(1.0, {"row": np.arange(50), "acc": np.full(50, value, np.float32)}), (-1.0, zero)]
        for value in (-1.0, 0.0, 2.0)
    ]
    found = contrast(seeds, mean("acc"), 50)
    assert found.difference == pytest.approx(1 / 3)
    assert found.per_training_seed == pytest.approx([-1, 0, 2])
    assert found.low < 0 < found.high


def constant(*values: float) -> list[list[tuple[float, dict[str, np.ndarray]]]]:
    """One comparison a training seed, whose difference is the value on every test image."""
    zero = {"row": np.arange(50), "acc": np.zeros(50)}
    return [[(1.0, zero | {"acc": np.full(50, value)}), (-1.0, zero)] for value in values]


def test_several_training_seeds_give_students_t() -> None:
    values = [0.4, 1.0, 1.3]
    found = contrast(constant(*values), mean("acc"), 50)
    expected = stats.ttest_1samp(values, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_three_seeds_that_agree_in_sign_are_not_enough() -> None:
    found = contrast(constant(0.1, 1.0, 2.0), mean("acc"), 50)
    assert min(found.per_training_seed) > 0 and found.low < 0 and found.p > 0.05


def test_students_t_rejects_equal_models_as_often_as_its_level() -> None:
    draws = np.random.default_rng(0).normal(size=(400, 3))
    rejected = [contrast(constant(*values), mean("acc"), 50).p < 0.05 for values in draws.tolist()]
    assert 0.02 < np.mean(rejected) < 0.09


def test_one_training_seed_has_the_p_value_of_resampled_test_images() -> None:
    a, zero = images(400, 400, 0, 0.1), {"row": np.arange(400), "acc": np.zeros(400)}
    found = contrast([[(1, a), (-1, zero)]], mean("acc"), 400)
    assert found.p == pytest.approx(stats.ttest_1samp(a["acc"], 0).pvalue, abs=0.02)
    assert contrast([[(1, a), (-1, a)]], mean("acc"), 400).p == 1


def test_holms_correction_against_a_hand_count() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([0.02]) == [0.02] and holm([]) == []


def test_kernel_is_kid_but_for_the_real_images_own_term() -> None:
    a, b, real = images(64, 64, 0, 0.4), images(64, 64, 1), images(64, 64, 2)["features"]
    weights = np.ones((1, 64))
    ours = kernel(real)(a, weights)[0] - kernel(real)(b, weights)[0]
    whole = [kernel_distance(x["features"], real, subsets=1, subset_size=64)[0] for x in (a, b)]
    assert ours == pytest.approx(whole[0] - whole[1], rel=1e-4)


def test_kernel_leaves_out_pairs_of_copies() -> None:
    a, real = images(6, 6, 0), images(5, 5, 2)["features"]
    weights = np.array([2.0, 1, 0, 1, 1, 1])
    k = (a["features"] @ a["features"].T / 8 + 1) ** 3
    pairs = [(weights[i] * weights[j], k[i, j]) for i in range(6) for j in range(6) if i != j]
    across = ((a["features"] @ real.T / 8 + 1) ** 3).mean(1)
    wanted = sum(w * v for w, v in pairs) / sum(w for w, _ in pairs) - 2 * np.average(across, weights=weights)
    assert kernel(real)(a, weights[None])[0] == pytest.approx(wanted, rel=1e-5)


def test_inception_is_the_score_without_splits() -> None:
    a = images(50, 50, 4)
    assert inception(a, np.ones((1, 50)))[0] == pytest.approx(
        inception_score(a["logits"], splits=1)[0], rel=1e-6
    )
