"""Rows of other domains: none that is to be avoided where another occurs; in the shares of the data, or balanced."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from rgcluster.train.steps.other_domains import TRIES, OtherDomains


def rows_of(shares: dict[tuple[int, ...], int]) -> npt.NDArray[np.int8]:
    domains = np.concatenate([np.tile(domain, (count, 1)) for domain, count in shares.items()])
    return np.random.default_rng(0).permutation(domains.astype(np.int8))


def numbers(count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**63, (count, TRIES), np.int64).astype(np.uint64)


CAT, DOG, FOX = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("rare", [500, 50, 3, 1])
def test_two_domains(balanced: bool, rare: int) -> None:
    """The target is never the own domain, the reference never the target: a hard negative would be a positive."""
    domains = rows_of({CAT: 1000 - rare, DOG: rare})
    others = OtherDomains(domains, balanced=balanced)
    target = domains[others.draw(numbers(1000), [domains])]
    assert (target != domains).any(axis=1).all()
    reference = domains[others.draw(numbers(1000, 1), [domains, target])]
    assert (reference == domains).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_three_domains_of_which_two_are_rare(balanced: bool) -> None:
    domains = rows_of({CAT: 940, DOG: 50, FOX: 10})
    others = OtherDomains(domains, balanced=balanced)
    target = domains[others.draw(numbers(1000), [domains])]
    reference = domains[others.draw(numbers(1000, 1), [domains, target])]
    for avoided in (domains, target):
        assert (reference != avoided).any(axis=1).all()
    of_cats = target[(domains == CAT).all(axis=1)]
    share = (of_cats == DOG).all(axis=1).mean()
    assert share == pytest.approx(0.5 if balanced else 50 / 60, abs=0.06)


def test_rows_of_a_domain_are_equally_often_drawn() -> None:
    domains = rows_of({CAT: 90, DOG: 10})
    drawn = OtherDomains(domains, balanced=True).draw(numbers(20_000), [np.tile(CAT, (20_000, 1))])
    counts = np.bincount(drawn, minlength=100)[(domains == DOG).all(axis=1)]
    assert counts.sum() == 20_000 and counts.min() > 1800 and counts.max() < 2200


def test_one_domain_alone_is_drawn_from() -> None:
    domains = rows_of({CAT: 7})
    drawn = OtherDomains(domains, balanced=False).draw(numbers(50), [domains[:1].repeat(50, axis=0)])
    assert set(drawn.tolist()) == set(range(7))
