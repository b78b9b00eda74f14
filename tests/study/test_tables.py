"""The paper's tables: rows over training seeds, files, names of cells, protocols kept apart. No training."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from results import made_results
from tiny import small_shards, tiny_config

from rgcluster.base.rundir import enter, link_stage, stage_directory, work_once
from rgcluster.base.storage import Location
from rgcluster.config import load_config
from rgcluster.data.shards import ShardSet
from rgcluster.errors import ConfigError, DataError, RunConflict
from rgcluster.evaluate.measure.differences import judged
from rgcluster.evaluate.measure.evaluation import _values, over_seeds
from rgcluster.evaluate.measure.inputs import evaluation_inputs
from rgcluster.evaluate.measure.protocol import require_same
from rgcluster.study.cells import Study, cell_name
from rgcluster.study.report import notes, shown_tables, verdicts, write_table
from rgcluster.study.space import cells_of, parse_axis
from rgcluster.study.sweep import with_variants
from rgcluster.study.tables import check_table, merge
from rgcluster.study.writing import as_csv, as_latex


def results(number: int = 2) -> dict[str, Any]:
    made = made_results()
    made["protocol"] |= {"gallery": 144, "test_images": 16, "digest": "d"}
    record = {
        "comparison": "rg-unit − gmm-unit-continued", "metric": "acc", "lower_is_better": False,
        "difference": 0.02, "low": 0.01, "high": 0.03, "level": 0.95, "per_training_seed": [0.01, 0.03],
        "verdict": "better",
    }  # fmt: skip
    undecided = record | {"metric": "kid", "low": -0.01, "verdict": "no difference", "lower_is_better": True}
    return made | {
        "table": number, "training_seeds": [0, 1], "cells": ["a", "b"], "differences": [record, undecided],
    }  # fmt: skip


def test_rows_over_training_seeds_are_means_with_a_deviation() -> None:
    rows = [
        {"model": "rg-unit", "acc": 0.8, "acc_spread": 0.1, "fid": None, "by": {"Male": 0.5}, "steps": 3},
        {"model": "rg-unit", "acc": 0.6, "acc_spread": 0.3, "fid": None, "by": {"Male": 0.7}, "steps": 3},
    ]
    merged = merge(rows)
    assert merged["acc"] == pytest.approx(0.7)
    assert merged["acc_spread"] == pytest.approx(0.2)
    assert merged["acc_training_spread"] == pytest.approx(np.std([0.8, 0.6], ddof=1))
    assert merged["by"]["Male"] == pytest.approx(0.6) and merged["by_training_spread"]["Male"] > 0
    assert merged["fid"] is None and merged["steps"] == 3 and merged["training_seeds"] == 2
    assert merge(rows[:1])["acc_training_spread"] is None


def test_values_over_evaluation_seeds_have_a_spread_and_none_from_one() -> None:
    values = [
        {"seed": 0, "acc": 0.8, "fid": None, "acc_per_attribute": {"Male": 0.5}},
        {"seed": 1, "acc": 0.6, "fid": None, "acc_per_attribute": {"Male": 0.9}},
    ]
    row = over_seeds(values)
    assert row["acc"] == pytest.approx(0.7) and row["acc_spread"] == pytest.approx(np.std([0.8, 0.6], ddof=1))
    assert row["acc_per_attribute_spread"]["Male"] == pytest.approx(np.std([0.5, 0.9], ddof=1))
    assert row["fid"] is None and "seed" not in row
    assert over_seeds(values[:1])["acc_spread"] is None


class _Index(SimpleNamespace):
    """A row index of labels [N, A]."""

    def __init__(self, labels: np.ndarray) -> None:
        super().__init__(labels=labels)

    def __len__(self) -> int:
        return len(self.labels)


def test_acc_equals_a_manual_count_of_right_answers() -> None:
    config = tiny_config("evaluation.images=6", "evaluation.classifier_steps=1")
    generator = np.random.default_rng(0)
    own = generator.integers(0, 2, (4, 7), np.int8)
    columns, labels = [1, 2, 3, 4, 5], generator.integers(0, 2, (20, 7), np.int8)
    evaluation: Any = SimpleNamespace(
        config=config, columns=columns, test=SimpleNamespace(index=_Index(own)),
        train=SimpleNamespace(index=SimpleNamespace(labels=labels)),
    )  # fmt: skip
    targets = evaluation_inputs(config, 0, 4, labels[:, columns]).targets
    predicted = np.zeros((6, 7), np.int8)
    predicted[:, columns] = targets
    predicted[0, 1] = 1 - predicted[0, 1]  # Black_Hair wrong once, Young three times, and what does not count
    predicted[:3, 5] = 1 - predicted[:3, 5]
    predicted[:, 0] = 1
    features = generator.normal(size=(6, 4)).astype(np.float32)
    made = {
        "predicted": predicted, "index": np.arange(6), "features": features, "logits": features,
        **{key: np.full(6, np.nan) for key in ("diversity", "counterfactual", "edit", "keep", "content_kept")},
    }  # fmt: skip
    reference: Any = SimpleNamespace(features=features + 1)
    values = _values(evaluation, 0, made, reference)
    assert values["acc"] == pytest.approx(1 - 4 / 30)
    assert values["acc_per_attribute"] == pytest.approx(
        {"Black_Hair": 5 / 6, "Blond_Hair": 1, "Brown_Hair": 1, "Male": 1, "Young": 3 / 6}
    )
    assert made["acc"] == pytest.approx([3 / 5, 4 / 5, 4 / 5, 1, 1, 1])
    assert values["counterfactual"] is None and values["edit"] is None
    inputs = evaluation_inputs(config, 0, 4, labels[:, columns])
    changed = own[inputs.rows][:, columns] != targets
    right = predicted[:, columns] == targets
    assert values["acc_changed"] == pytest.approx(right[changed].mean())
    for place, name in enumerate(config.data.attributes):
        expected = right[:, place][changed[:, place]]
        found = values["acc_changed_per_attribute"][name]
        assert found == (pytest.approx(expected.mean()) if len(expected) else None)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 7])
def test_every_table_is_written_with_all_its_rows(tmp_path: Path, number: int) -> None:
    made = results(number)
    page = write_table(Location(tmp_path), made).read_text()
    first = shown_tables(made)[0]
    rows = list(csv.reader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [row[0] for row in rows[1:]] == [row.name for row in first.rows]
    assert len({len(row) for row in rows}) == 1
    latex = (tmp_path / "table.tex").read_text()
    assert latex.count("{") == latex.count("}") and r"\end{table}" in latex
    assert all(name in page for name in ("undecided", "[+1.00, +3.00]", "each training seed"))


def test_csv_and_latex_hold_the_papers_values() -> None:
    table = shown_tables(results())[0]
    assert "30.04" in as_csv(table) and "97.0" in as_csv(table)
    assert r"\small 30.04" in as_latex(table) and "_" not in as_latex(table).replace(r"\_", "")


def test_verdicts_name_better_and_undecided_metrics() -> None:
    (sentence,) = verdicts(results())
    assert sentence.startswith(
        "rg-unit − gmm-unit-continued: better on ACC, % (+2.00, +1.00 to +3.00); undec"
    )


def test_a_verdict_needs_more_where_a_table_has_more_cells() -> None:
    record = {"lower_is_better": True, "difference": -0.1, "level": 0.95, "p": 0.02}
    assert [one["verdict"] for one in judged([record])] == ["better"]
    assert [one["verdict"] for one in judged([record | {"lower_is_better": False}])] == ["worse"]
    several = judged([record, record | {"p": 0.6}, record | {"p": 0.7}])
    assert [one["verdict"] for one in several] == ["no difference"] * 3
    assert several[0]["p_holm"] == pytest.approx(0.06) and several[0]["p"] == 0.02


def test_notes_tell_training_seeds_from_evaluation_seeds() -> None:
    several, one = notes(results())[0], notes(results() | {"training_seeds": [0]})[0]
    assert "differences of 2 training seeds, each pooled over the evaluation seeds" in several
    assert "Holm's correction over the 2 differences of this table" in several
    assert "ACC of changed attributes is the mean of the images' shares" in notes(results())[1]
    inflated = results()
    inflated["tables"]["translation"][-2]["is"] = 9.0
    assert "is meaningless for RG-UNIT (9.000)" in notes(inflated)[-1]
    assert one.startswith("One training seed was run") and "pooled over the evaluation seeds" in one


def test_values_of_different_protocols_are_kept_apart() -> None:
    same = {"images": 48, "digest": "a", "versions": {"torch": "2.9"}}
    require_same({"one": same, "two": same | {"versions": {"torch": "2.10"}}})
    with pytest.raises(
        DataError, match="three and one were measured by different protocols .images: 64 and 48"
    ):
        require_same({"one": same, "three": same | {"images": 64, "digest": "b"}})


def test_a_cells_name_lists_its_settings_and_is_unique() -> None:
    config, other = tiny_config(), tiny_config("guidance.steps=11")
    cell = {"seed": 0, "guidance.retrieval_count": 3, "data.fraction": 0.25}
    assert cell_name(config, cell).startswith("seed-0-retrieval_count-3-fraction-0.25-")
    assert cell_name(config, cell) != cell_name(other, cell)


def test_a_linked_stage_is_found_and_moves_with_its_study(tmp_path: Path) -> None:
    study = Location(tmp_path / "study")
    run, shared = study / "cells" / "one", study / "stages" / "d1" / "translation"
    assert str(stage_directory(run, "translation")) == str(run / "translation")
    (shared / "stage.json").write_json({"finished": True})
    link_stage(run, "translation", shared)
    assert str(stage_directory(run, "translation")) == str(shared)
    (tmp_path / "study").rename(tmp_path / "moved")
    moved = stage_directory(Location(tmp_path / "moved" / "cells" / "one"), "translation")
    assert (moved / "stage.json").read_json() == {"finished": True}


def test_work_is_done_once_and_other_work_refused(tmp_path: Path) -> None:
    place, done = Location(tmp_path), []
    for _ in range(2):
        work_once(place, {"steps": 3}, lambda: done.append(1))
    assert done == [1]
    with pytest.raises(RunConflict, match="steps = 3, now 4"):
        enter(place, {"steps": 4})


def test_what_one_run_of_a_study_would_be_refused_for_is_told_before_the_first(tmp_path: Path) -> None:
    study = Study(Location(tmp_path), tiny_config(), small_shards())
    study.check([{}, {"guidance.retrieval_count": 79}])
    with pytest.raises(ConfigError, match="guidance.retrieval_count = 80, but the store will hold only 79"):
        study.check([{}, {"guidance.retrieval_count": 80}])
    for number in (1, 2, 4):
        check_table(study, number, 2)
    with pytest.raises(ConfigError, match="no table 5: there are 1, 2, 3, 4, 6, 7"):
        check_table(study, 5, 1)
    with pytest.raises(ConfigError, match="the study: unknown key 'guidance.stepz'"):
        study.check([{"guidance.stepz": 1}])
    few = Study(Location(tmp_path), tiny_config("store.images=train", "data.fraction=1"), few_shards())
    with pytest.raises(ConfigError, match="guidance.retrieval_count = 10, but the store will hold only 8"):
        check_table(few, 4, 1)
    assert list(tmp_path.iterdir()) == []


def few_shards() -> ShardSet:
    return replace(small_shards(), splits={"train": 9, "test": 20})


def test_a_grid_is_every_combination_once() -> None:
    axes = [parse_axis("guidance.retrieval_count=1,3,10"), parse_axis("data.fraction=0.25,0.5,1.0")]
    cells = cells_of(axes, "grid", 0, 0)
    assert len(cells) == 9 and len({str(cell) for cell in cells}) == 9
    assert cells[0] == {"guidance.retrieval_count": 1, "data.fraction": 0.25}


def test_a_random_search_is_drawn_by_the_seed_within_its_ranges() -> None:
    axes = [
        parse_axis("guidance.optimizer.learning_rate=1e-5..1e-3:log"),
        parse_axis("data.fraction=0.5,1.0"),
    ]
    cells = cells_of(axes, "random", 20, 4)
    assert cells == cells_of(axes, "random", 20, 4) != cells_of(axes, "random", 20, 5)
    rates = [cell["guidance.optimizer.learning_rate"] for cell in cells]
    assert min(rates) >= 1e-5 and max(rates) <= 1e-3 and sum(rate < 1e-4 for rate in rates) >= 3


@pytest.mark.parametrize(
    ("texts", "search", "words"),
    [
        ([], "grid", "nothing to sweep over"),
        (["data.fraction"], "grid", "expected key=value"),
        (["data.fraction=0.5,0.5"], "grid", "repeated"),
        (["data.fraction=1..0.5"], "random", "low..high"),
        (["data.fraction=0.1..0.5"], "grid", "a grid needs values"),
        (["data.fraction=0.5", "data.fraction=1"], "grid", "twice"),
    ],
)
def test_invalid_search_spaces_are_refused(texts: list[str], search: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cells_of([parse_axis(text) for text in texts], search, 3, 0)


def test_the_live_table_shows_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from rgcluster.study import live
    from rgcluster.study.trials import Trial

    for terminal in (True, False):
        screen = Console(file=io.StringIO(), force_terminal=terminal, width=120)
        monkeypatch.setattr(live, "console", screen)
        monkeypatch.setattr(live, "finished_results", lambda study, cell: made_results(kid=0.25))
        trials = [Trial({"guidance.retrieval_count": 3}), Trial({"guidance.retrieval_count": 10})]
        study: Any = None
        with live.LiveTable(study, "kid") as table:
            table.show(trials)
            trials[0].state, trials[0].step, trials[0].loss = "training", 5, 1.25
            table.show(trials)
            trials[0].state = "finished"
            table.show(trials)
        text = screen.file.getvalue()  # type: ignore[attr-defined]
        assert all(word in text for word in ("waiting", "training", "finished", "10"))
        if terminal:
            assert "1.25" in text and "0.25" in text


def test_a_plot_has_a_line_for_each_setting_of_the_other_axis(tmp_path: Path) -> None:
    from rgcluster.study.plots import write_sweep_report

    made = results()
    trials = [
        {
            "name": f"{count}-{share}", "state": "finished",
            "cell": {"guidance.retrieval_count": count, "data.fraction": share},
            "rows": [made["tables"]["translation"][4] | {"kid": share / count}],
        }
        for count in (1, 3, 10) for share in (0.25, 1.0)
    ]  # fmt: skip
    sweep = {
        "protocol": made["protocol"], "metric": "kid", "search": "grid", "best": "10-0.25", "trials": trials,
        "axes": ["guidance.retrieval_count", "data.fraction"],
    }  # fmt: skip
    page = write_sweep_report(Location(tmp_path), sweep).read_text()
    plot = (tmp_path / "plots" / "guidance.retrieval_count-kid.svg").read_text()
    assert plot.count("<circle") == 6 and plot.count("<title>") == 2
    assert ElementTree.fromstring(plot).tag == "{http://www.w3.org/2000/svg}svg"
    assert "RG-UNIT, fraction 0.25" in page and "10-0.25" in page


def test_the_pages_of_a_study_escape_their_values(tmp_path: Path) -> None:
    from rgcluster.study.plots import write_sweep_report

    made = results()
    made["cells"], made["differences"][0]["comparison"] = ["<b>"], "<i>"
    page = write_table(Location(tmp_path / "table"), made).read_text()
    assert "&lt;b&gt;" in page and "&lt;i&gt;: better" in page and "<b>" not in page and "<i>" not in page
    trial = {"name": "one", "state": "failed", "why": "<b>", "cell": {"data.fraction": 0.5}}
    sweep = {
        "protocol": {"extractor": "<i>"}, "metric": "kid", "search": "grid", "best": None, "trials": [trial],
        "axes": ["data.fraction"],
    }  # fmt: skip
    page = write_sweep_report(Location(tmp_path / "sweep"), sweep).read_text()
    assert "failed: &lt;b&gt;" in page and "&lt;i&gt;" in page and "<b>" not in page and "<i>" not in page


@pytest.mark.parametrize(
    ("over", "given", "trained"),
    [
        ("guidance.steps=3,4", "", ["rg-unit"]),
        ("guidance.steps=3,4", "seed=3", ["rg-unit"]),
        (
            "guidance.steps=3,4",
            "guidance.variants=[rg-unit, gmm-unit-continued]",
            ["rg-unit", "gmm-unit-continued"],
        ),
        ("seed=0,1", "", ["gmm-unit-continued", "rg-unit-random", "rg-unit"]),
    ],
)
def test_a_sweep_trains_the_baselines_where_they_differ(over: str, given: str, trained: list[str]) -> None:
    overrides = [given] if given else []
    config = with_variants(load_config("smoke", overrides), overrides, [parse_axis(over)])
    assert list(config.guidance.variants) == trained
