"""Stage 2: what its settings change in a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stages import Studio, one_step


@pytest.mark.parametrize(("style", "share"), [("own", 0.0), ("either", 0.5), ("target", 1.0)])
def test_a_share_of_the_easy_negatives_has_the_anchors_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str, share: float
) -> None:
    stage: Any = Studio(tmp_path, monkeypatch).stage("retrieval", easy_style=style)
    rows = np.arange(2000, dtype=np.int64)
    shared = stage._shares_style(3, rows).numpy()
    assert abs(shared.mean() - share) < 0.04
    assert (stage._shares_style(3, rows[::-1].copy()).numpy() == shared[::-1]).all()  # keyed by row


def test_only_easy_negatives_have_another_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studio = Studio(tmp_path, monkeypatch)
    kinds = ("easy", "all")
    plain, _ = one_step(studio.stage("retrieval", "plain", negatives=kinds))
    other, _ = one_step(studio.stage("retrieval", "other", negatives=kinds, easy_style="target"))
    changed = {name for name in plain if plain[name] != other[name]}
    # The distance of anchor and positive does not depend on the negatives.
    assert {"easy/total", "easy/far"} <= changed and not changed & {"easy/near", "all/near"}
