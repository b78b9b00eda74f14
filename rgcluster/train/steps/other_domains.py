"""Draws training rows whose domain is another than given ones, however rare that is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rgcluster.data.index import LabelColumns

__all__ = ["TRIES", "OtherDomains"]

Domains = npt.NDArray[np.int8] | LabelColumns
Rows = npt.NDArray[np.int64]

TRIES = 16
"""Draws among all rows before those of the other domains are counted."""


class OtherDomains:
    """The training rows by domain; `domains` int8 [N, n]. `balanced`: every domain is equally often drawn."""

    def __init__(self, domains: Domains, *, balanced: bool) -> None:
        self.domains, self._balanced = domains, balanced

    def draw(self, numbers: npt.NDArray[np.uint64], avoid: Sequence[npt.NDArray[np.int8]]) -> Rows:
        """Return for each row of `numbers` [B, TRIES] the number of a training row, int64 [B].

        Its domain is none of `avoid`, int8 [B, n] each; where no image has such a one, it is another than the last
        of these, which matters most; where all images have that one, any.
        """
        drawn = (numbers % np.uint64(len(self.domains))).astype(np.int64)
        fits = np.ones(drawn.shape, bool)
        for domain in avoid:
            fits &= (self.domains[drawn] != domain[:, None]).any(axis=2)
        if self._balanced:
            fits[:] = False
        rows = drawn[np.arange(len(drawn)), fits.argmax(axis=1)]
        for number in np.flatnonzero(~fits.any(axis=1)):
            rows[number] = self._among_others(numbers[number], [domain[number] for domain in avoid])
        return rows

    def _among_others(self, numbers: npt.NDArray[np.uint64], avoid: list[npt.NDArray[np.int8]]) -> int:
        distinct, members = self._by_domain
        for avoided in (avoid, avoid[-1:], []):
            others = np.ones(len(distinct), bool)
            for domain in avoided:
                others &= (distinct != domain).any(axis=1)
            if others.any():
                break
        chosen = np.flatnonzero(others)
        if self._balanced:
            rows = members[chosen[int(numbers[0]) % len(chosen)]]
            return int(rows[int(numbers[1]) % len(rows)])
        ends = np.cumsum([len(members[domain]) for domain in chosen])
        place = int(numbers[0]) % int(ends[-1])
        at = int(np.searchsorted(ends, place, side="right"))
        return int(members[chosen[at]][place - ends[at]])

    @cached_property
    def _by_domain(self) -> tuple[npt.NDArray[np.int8], list[Rows]]:
        """The domains that occur, and the rows of each."""
        distinct, numbers = np.unique(self.domains[:], axis=0, return_inverse=True)
        order: npt.NDArray[Any] = np.argsort(numbers.ravel(), kind="stable")
        return distinct, np.split(order, np.cumsum(np.bincount(numbers.ravel()))[:-1])
