"""The probe: is retrieval used by a run?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from hypothesis import given
from hypothesis import strategies as st

from rgcluster.evaluate.measure.probe import content_precision, edit_error, swap_change
from rgcluster.evaluate.metrics.counterfactual import edit_region


def flat(*values: int) -> np.ndarray:
    """Images of 1x1 pixels, one a value."""
    return np.repeat(np.array(values, np.uint8)[:, None, None, None], 3, axis=3)


def test_the_edit_region_is_where_more_than_ten_levels_change() -> None:
    assert edit_region(flat(100, 100, 100), flat(110, 111, 80)).reshape(-1).tolist() == [False, True, True]


def test_changes_are_averaged_inside_the_region() -> None:
    region = np.array([True, True, False])[:, None, None]
    assert swap_change(flat(0, 10, 0), flat(4, 4, 255), region) == 5
    assert edit_error(flat(0, 255, 0), flat(255, 255, 7), region) == 0.5
    assert swap_change(flat(1), flat(9), np.zeros((1, 1, 1), bool)) == 0


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=8),
    st.lists(st.integers(0, 255), min_size=8, max_size=8),
)
def test_a_change_is_symmetric_and_zero_for_the_same_picture(first: list[int], second: list[int]) -> None:
    a, b = flat(*first), flat(*second[: len(first)])
    region = np.ones(a.shape[:3], bool)
    assert swap_change(a, b, region) == swap_change(b, a, region)
    assert swap_change(a, a, region) == 0


def test_content_precision_is_the_share_of_equal_labels() -> None:
    assert content_precision(np.array([[1, 0], [0, 0]], np.int8), np.array([1, 0], np.int8)) == 0.75


def test_the_command_probes_a_finished_run(smoke_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    result = command("probe", "--run", str(smoke_run), "--count", "8", "--json", str(file))
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())
    assert set(found["swap"]) == {"random", "other_domain", "none"}
    assert all(value >= 0 for value in found["swap"].values())
    assert 0 < found["oracle"]["edit_identity"] < 1
    content = found["content"]
    assert set(content) == {"retrieval", "random_in_domain", "pixels", "labels"}
    assert content["labels"] >= content["pixels"] and content["labels"] >= content["random_in_domain"]
    assert len(found["contribution"]) == 3 and all(value >= 0 for value in found["contribution"])
    assert "random in place of nearest" in result.stdout
    results = json.loads((smoke_run / "evaluation" / "results.json").read_text())
    assert set(results["probe"]) == set(found)


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    result = command("probe", "--run", str(tmp_path))
    assert result.returncode == 2 and "not a run directory" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("change", [0, 5, 10])
def test_small_changes_are_no_edit(change: int) -> None:
    assert not edit_region(flat(50), flat(50 + change)).any()
