"""The ladder of trainings: which share of a preset fits the time."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_config

from rgcluster.base.storage import Location
from rgcluster.config import load_config, with_values
from rgcluster.pipeline import ladder

DEMO = load_config("demo")


def test_faster_machines_train_longer() -> None:
    shares = [ladder.choose(DEMO, 15, per_step).share for per_step in (0.001, 0.1, 0.15, 0.3, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1 and shares[-1] == ladder.RUNGS[-1]


@pytest.mark.parametrize("per_step", [0.02, 0.08, 0.12, 0.2])
def test_a_chosen_rung_fits_and_the_next_one_does_not(per_step: float) -> None:
    rung = ladder.choose(DEMO, 15, per_step)
    assert rung.fits == (rung.seconds <= 15 * 60)
    above = [share for share in ladder.RUNGS if share > rung.share]
    if above:
        longer = with_values(DEMO, ladder.scaled(DEMO, above[-1]))
        assert ladder.MARGIN * ladder.estimate(longer, per_step) > 15 * 60


@pytest.mark.parametrize("share", ladder.RUNGS)
def test_rungs_keep_whole_reports_and_the_order_of_the_mask(share: float) -> None:
    config = with_values(DEMO, ladder.scaled(DEMO, share))
    assert config.translation.steps % config.translation.report_every == 0
    assert config.guidance.steps % config.guidance.report_every == 0
    assert config.translation.attention_from <= config.translation.attention_full < config.translation.steps


def test_a_slow_machine_gets_a_message_that_the_time_is_too_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "seconds_per_step", lambda config: 3.0)
    config, why = ladder.fit_to_time(DEMO, Location(tmp_path / "run"), 15)
    assert config.translation.steps == ladder.scaled(DEMO, ladder.RUNGS[-1])["translation.steps"]
    assert "more than the 15 min limit" in why and "--set translation.steps=" in why


def test_a_run_that_was_begun_keeps_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "seconds_per_step", lambda config: 0.3)
    run = Location(tmp_path / "run")
    first, _ = ladder.fit_to_time(DEMO, run, 15)
    (run / "config.yaml").write_text(first.to_yaml())
    monkeypatch.setattr(ladder, "seconds_per_step", lambda config: 0.001)
    again, why = ladder.fit_to_time(DEMO, run, 15)
    assert again == first and "was begun with" in why


def test_short_trainings_and_no_limit_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ladder, "seconds_per_step")
    run = Location(tmp_path / "run")
    assert ladder.fit_to_time(tiny_config(), run, 15) == (tiny_config(), "")
    assert ladder.fit_to_time(DEMO, run, 0) == (DEMO, "")


def test_a_step_is_timed() -> None:
    assert 0 < ladder.seconds_per_step(tiny_config()) < 10


def test_a_machine_that_became_slower_trains_stage_3_for_less() -> None:
    """Stage 1 as fast as it was timed leaves the plan; each slower one gets no more steps, and at least half."""
    planned, fitting = DEMO.guidance.steps, 60 * 15
    quick = 0.05 * ladder.IN_TRAINING * DEMO.translation.steps
    assert ladder.shorten(DEMO, quick, quick + 20, 15) == (DEMO, "")
    steps = []
    for slower in (1.5, 3, 3.2, 3.3, 3.4, 3.5, 9):
        config, why = ladder.shorten(DEMO, slower * quick, slower * quick + 20, 15)
        assert config.guidance.steps % config.guidance.report_every == 0
        if config.guidance.steps not in (planned, planned // 2):
            per_step = 0.05 * slower
            rest = ladder.FIXED_SECONDS_AFTER + per_step * ladder.REST_AFTER
            guided = per_step * ladder.IN_TRAINING * ladder._guided(config) * config.guidance.steps
            assert fitting - 20 < slower * quick + 20 + rest + guided <= fitting
            assert f"--set guidance.steps={config.guidance.steps}" in why
        steps.append(config.guidance.steps)
    assert steps == sorted(steps, reverse=True) and steps[0] == planned and steps[-1] == planned // 2
    assert len(set(steps)) > 2


def test_stage_3_keeps_its_steps_where_there_is_no_limit_or_no_whole_stage_1() -> None:
    assert ladder.shorten(DEMO, 800, 850, 0) == (DEMO, "")
    assert ladder.shorten(DEMO, 800, 300, 15) == (DEMO, "")
    assert ladder.shorten(tiny_config(), 800, 850, 15) == (tiny_config(), "")
