"""The probe: is retrieval used by a run?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from hypothesis import given
from hypothesis import strategies as st

from rgcluster.evaluate.measure.following import moved_share
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


@given(st.floats(-1, 2), st.floats(0, 50))
def test_the_moved_share_ignores_a_change_to_the_side(share: float, aside: float) -> None:
    old, new = np.array([[200.0, 150.0, 90.0]]), np.array([[240.0, 190.0, 90.0]])
    before = np.array([[150.0, 120.0, 80.0]])
    after = before + share * (new - old) + aside * np.array([[1.0, -1.0, 0.0]])
    assert moved_share(old, new, before, after) == pytest.approx(share, abs=1e-9)


def test_the_command_reports_whether_translations_follow_the_store(smoke_run: Path, tmp_path: Path) -> None:
    file, snapshot = tmp_path / "probe.json", smoke_run / "store" / "snapshot"
    held = {path: path.stat().st_mtime_ns for path in snapshot.rglob("*")}
    arguments = ("--count", "8", "--dye", "245,230,205", "--json", str(file))
    result = command("probe", "--run", str(smoke_run), *arguments)
    assert result.returncode == 0, result.stderr
    found = json.loads(file.read_text())["following"]
    assert found["added"] > 0 and found["removed"] > 0
    assert found["new"][2] - found["old"][2] > 30  # the truth's hair is paler
    assert {path: path.stat().st_mtime_ns for path in snapshot.rglob("*")} == held  # the run is left alone
    refused = command("probe", "--run", str(smoke_run), "--dye", "245,230")
    assert refused.returncode == 2 and "is no colour" in refused.stderr


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
