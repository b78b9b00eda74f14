"""Distances and scores, against closed forms, plain loops and torch-fidelity's FID."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import tiny_config

from rgcluster.data.splits import hash_share, row_id
from rgcluster.errors import DataError, TooFewNeighbours
from rgcluster.evaluate.measure import reference
from rgcluster.evaluate.measure.inputs import hashed_order
from rgcluster.evaluate.metrics import counterfactual
from rgcluster.evaluate.metrics import precision as retrieval
from rgcluster.evaluate.metrics import scores as metrics

RNG = np.random.default_rng


def _features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = RNG(seed)
    mixing = RNG(99).normal(size=(width, width)) / np.sqrt(width)
    return (rng.normal(size=(count, width)) @ mixing + shift).astype(np.float32)


def _standardised(count: int, width: int, seed: int) -> np.ndarray:
    """Return features whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = RNG(seed).normal(size=(count, width))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_frechet_distance_of_diagonal_gaussians() -> None:
    s, t = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
    mean = np.array([1.0, -2.0, 0.0])
    a, b = _standardised(50, 3, 0) * s, _standardised(70, 3, 1) * t + mean
    expected = (mean**2).sum() + ((s - t) ** 2).sum()
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(300, 500), (20, 30), (20, 300)])
def test_frechet_distance_is_torch_fidelitys_with_many_and_few_rows(n: int, m: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = _features(n, 64, 0), _features(m, 64, 1, shift=0.3)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (a, b)), verbose=False
    )
    ours = metrics.frechet_distance(a, b)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    for count in (10, 200):
        a = _features(count, 32, 0)
        assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


_ARRAYS = hnp.arrays(np.float64, (6, 4), elements=st.floats(-10, 10))


@settings(max_examples=40, deadline=None)
@given(_ARRAYS, _ARRAYS, st.permutations(range(6)))
def test_frechet_distance_laws(a: np.ndarray, b: np.ndarray, order: list[int]) -> None:
    distance = metrics.frechet_distance(a, b)
    assert distance >= 0
    assert metrics.frechet_distance(b, a) == pytest.approx(distance, abs=1e-6)
    assert metrics.frechet_distance(a[order], b) == pytest.approx(distance, abs=1e-6)


def test_fid_is_none_with_a_reason_for_few_images_and_warns_below_ten_thousand() -> None:
    few, some, many = (_features(n, 4, n) for n in (2_047, 2_048, 10_000))
    refused = metrics.fid_or_reason(few, many)
    assert refused.value is None and "2,047" in str(refused.note)
    warned = metrics.fid_or_reason(some, many)
    assert warned.value is not None and "biased" in str(warned.note)
    assert metrics.fid_or_reason(many, many).note is None


def test_kernel_distance_is_a_plain_loop() -> None:
    x, y = _features(5, 3, 0), _features(5, 3, 1)

    def kernel(u: np.ndarray, v: np.ndarray) -> float:
        return float((np.dot(u.astype(float), v) / 3 + 1) ** 3)

    within = [[kernel(s[i], s[j]) for i in range(5) for j in range(5) if i != j] for s in (x, y)]
    across = [kernel(x[i], y[j]) for i in range(5) for j in range(5)]
    expected = np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(across)
    mean, spread = metrics.kernel_distance(x, y, subsets=3, subset_size=5)
    assert mean == pytest.approx(expected, rel=1e-5)
    assert spread == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_a_mean_over_subsets_that_the_seed_draws() -> None:
    a, b = _features(150, 48, 0), _features(120, 48, 1, shift=0.2)
    mean, spread = metrics.kernel_distance(a, b, subsets=20, subset_size=50, seed=7)
    assert (mean, spread) == metrics.kernel_distance(a, b, subsets=20, subset_size=50, seed=7)
    assert mean != metrics.kernel_distance(a, b, subsets=20, subset_size=50, seed=8)[0]
    assert 0 < spread < mean and metrics.kernel_distance(a, a, subsets=20)[0] < 0.1 * mean
    assert metrics.kernel_distance(a, b, subsets=20) == metrics.kernel_distance(
        a, b, subsets=20, subset_size=60
    )


def test_kernel_distance_refuses_subsets_larger_than_a_set() -> None:
    with pytest.raises(DataError, match="subsets of 9"):
        metrics.kernel_distance(_features(8, 3, 0), _features(20, 3, 1), subset_size=9)


def test_inception_score_is_the_plain_formula_over_shuffled_splits() -> None:
    logits = RNG(0).normal(size=(205, 30)).astype(np.float32) * 3
    shuffled = logits[np.random.RandomState(2020).permutation(205)].astype(np.float64)
    p = np.exp(shuffled) / np.exp(shuffled).sum(1, keepdims=True)
    parts = [p[i * 205 // 10 : (i + 1) * 205 // 10] for i in range(10)]
    scores = [np.exp((part * np.log(part / part.mean(0))).sum(1).mean()) for part in parts]
    mean, spread = metrics.inception_score(logits)
    assert mean == pytest.approx(np.mean(scores), rel=1e-9)
    assert spread == pytest.approx(np.std(scores), rel=1e-9)


def test_inception_score_counts_certain_classes() -> None:
    logits = np.where(np.eye(4)[np.arange(400) % 4] > 0, 0.0, -2000.0)
    assert metrics.inception_score(logits, splits=1)[0] == pytest.approx(4)
    assert metrics.inception_score(np.zeros((40, 4)), splits=4) == pytest.approx((1, 0))


def test_diversity_is_the_mean_over_pairs_then_groups() -> None:
    groups = [RNG(i).normal(size=(4, 7)).astype(np.float32) for i in range(3)]
    pairs = [np.mean([((g[i] - g[j]) ** 2).sum() for i in range(4) for j in range(i)]) for g in groups]
    assert metrics.pairwise_diversity(iter(groups)) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert metrics.pairwise_diversity([np.ones((3, 5), np.float32)]) == 0
    with pytest.raises(DataError):
        metrics.pairwise_diversity([np.ones((1, 5), np.float32)])


def test_features_that_are_not_finite_are_refused() -> None:
    broken = _features(10, 3, 0)
    broken[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        metrics.frechet_distance(broken, _features(10, 3, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_precision_is_a_plain_loop_with_ties_by_row_number(seed: int, k: int) -> None:
    rng = RNG(seed)
    # Few distinct values, so that many distances are equal.
    gallery, queries = rng.integers(0, 3, (30, 2)).astype(float), rng.integers(0, 3, (7, 2)).astype(float)
    labels, wanted = rng.integers(0, 2, (30, 4)), rng.integers(0, 2, (7, 4))
    shares = np.zeros(4)
    for query, want in zip(queries, wanted, strict=True):
        order = sorted(range(30), key=lambda i: (float(((gallery[i] - query) ** 2).sum()), i))
        shares += (labels[order[:k]] == want).mean(0)
    found = retrieval.query_shares(gallery, labels, queries, wanted, k).mean(0)
    np.testing.assert_allclose(found, shares / 7, atol=1e-12)


def test_neighbours_do_not_depend_on_the_size_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = RNG(0).normal(size=(50, 5)), RNG(1).normal(size=(20, 5))
    whole = retrieval.nearest(gallery, queries, 10)
    monkeypatch.setattr(retrieval, "_DISTANCES_AT_ONCE", 150)
    np.testing.assert_array_equal(retrieval.nearest(gallery, queries, 10), whole)
    with pytest.raises(TooFewNeighbours):
        retrieval.nearest(gallery, queries, 51)


def test_random_baseline_is_the_precision_of_the_whole_gallery() -> None:
    rng = RNG(0)
    labels, wanted = rng.integers(0, 2, (40, 5)), (rng.random((9, 5)) < 0.2).astype(int)
    gallery, queries = rng.normal(size=(40, 3)), rng.normal(size=(9, 3))
    everything = retrieval.query_shares(gallery, labels, queries, wanted, k=40).mean(0)
    np.testing.assert_allclose(retrieval.random_shares(labels, wanted).mean(0), everything, atol=1e-12)


def test_labels_of_minus_one_are_refused() -> None:
    with pytest.raises(DataError, match="-1"):
        retrieval.random_shares(np.array([[-1, 1]]), np.array([[0, 1]]))


def test_mean_absolute_difference_is_in_units_of_full_scale() -> None:
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    white[1, :2] = 0
    np.testing.assert_allclose(counterfactual.mean_absolute_difference(black, white), [1, 0.5])
    np.testing.assert_allclose(counterfactual.mean_absolute_difference(white, black), [1, 0.5])


def test_content_kept_counts_agreement_on_its_columns_alone() -> None:
    before = np.array([[1, 0, 1, 0], [1, 1, 1, 1]], bool)
    after = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], bool)
    kept = counterfactual.content_kept(before, after, [1, 2, 3])
    assert kept is not None
    np.testing.assert_allclose(kept, [2 / 3, 2 / 3])
    assert counterfactual.content_kept(before, after, []) is None


def test_edit_and_keep_errors_split_the_error_at_the_region_that_the_truth_changes() -> None:
    inputs = np.full((2, 1, 4, 3), 100, np.uint8)
    truth = inputs.copy()
    truth[0, 0, :2] = 151
    made = truth.copy()
    made[0, 0, 0] = 100  # one of two edited pixels was left
    made[:, 0, 3] = 151  # and a pixel outside was painted
    edit, keep = counterfactual.edit_and_keep_errors(inputs, made, truth)
    np.testing.assert_allclose(edit, [0.1, np.nan])
    np.testing.assert_allclose(keep, [0.1, 0.05])


def test_the_untouched_input_has_the_whole_edit_error_and_no_keep_error() -> None:
    generator = np.random.default_rng(0)
    inputs = generator.integers(0, 256, (3, 8, 8, 3), np.uint8)
    truth = inputs.copy()
    truth[:, :4] = 255 - truth[:, :4]
    edit, keep = counterfactual.edit_and_keep_errors(inputs, inputs, truth)
    assert (keep < 0.05).all() and (edit > 0.1).all()
    assert np.array_equal(counterfactual.edit_and_keep_errors(inputs, truth, truth)[0], np.zeros(3))


def test_the_hashed_order_draws_from_every_class_folder_and_from_ids_alone() -> None:
    names = [f"{kind}/{number}.jpg" for kind in ("cat", "dog", "wild") for number in range(400)]
    ids = np.array([row_id("afhq", name) for name in names])
    order = hashed_order(ids)
    assert sorted(order) == list(range(1200)) and np.array_equal(order, hashed_order(ids))
    shares = np.bincount(order[:300] // 400, minlength=3) / 300
    assert (shares > 0.25).all()
    assert np.array_equal(ids[::-1][hashed_order(ids[::-1])], ids[order])


def test_the_hashed_order_is_independent_of_split_and_fraction() -> None:
    ids = np.array([row_id("faces", f"{number}.jpg") for number in range(2000)])
    first = hashed_order(ids)[:500]
    for salt in (0, 1, 2):
        assert 0.2 < (hash_share(ids[first], salt) < 0.25).mean() < 0.3


def test_real_features_are_those_of_the_drawn_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    train: Any = SimpleNamespace(images=lambda rows: pixels[rows])
    extractor = SimpleNamespace(features_and_logits=lambda images: (images[:, 0, 0, :2], images[:, 0, 0, :1]))
    monkeypatch.setattr(reference, "ray", SimpleNamespace(get=lambda value: value))
    monkeypatch.setattr(reference, "best_extractor", lambda *_, **__: extractor)
    measure = reference._MeasureReal(tiny_config(), train, np.array([1, 4, 7, 9]), False)
    found = measure({"start": np.array([1]), "stop": np.array([3])})
    assert found["index"].tolist() == [4, 7] and found["features"].tolist() == [[4, 4], [7, 7]]
