"""A sweep and the paper's tables by their commands, at smoke size: complete, shared, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from processes import descendants, start

from rgcluster.config import Config
from rgcluster.data.splits import hash_share, row_id

pytestmark = pytest.mark.long

# One thread everywhere: with others, sums may come out in another order.
GRID = ("--retrieval-count", "1,3,10", "--data-fraction", "0.25,0.5,1.0", "--set", "cluster.threads=1")


def stages(study: Path, name: str) -> list[Path]:
    """Where the study's own stages of this name lie."""
    return sorted((study / "stages").glob(f"*/{name}/stage.json"))


def finished(study: Path, name: str) -> list[Path]:
    return [file for file in stages(study, name) if json.loads(file.read_text())["finished"]]


def kill_tree(root: int) -> None:
    """Kill the driver, and what it leaves behind."""
    left = descendants(root)
    for pid in (root, *left):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="module")
def study(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a sweep of nine trials whose driver was killed once two were finished, and that went on."""
    directory = tmp_path_factory.mktemp("study") / "study"
    line = ("sweep", "--preset", "smoke", "--data", str(smoke_run / "shards"), "--run", str(directory), *GRID)
    process = start(*line)
    deadline = time.monotonic() + 900
    while len(finished(directory, "evaluation")) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.3)
    kill_tree(process.pid)
    process.wait()
    assert 2 <= len(finished(directory, "evaluation")) < 9
    before = {file: file.stat().st_mtime_ns for file in (directory / "stages").glob("*/*/model/*")}
    done = {file: file.read_text() for file in finished(directory, "evaluation")}
    result = command(*line, timeout=1200)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {file: file.stat().st_mtime_ns for file in before} == before, "a finished stage was trained again"
    assert {file: file.read_text() for file in done} == done, "a finished trial was measured again"
    return directory


def test_nine_trials_train_three_of_each_stage_that_they_share(study: Path) -> None:
    counts = {name: len(finished(study, name)) for name in ("translation", "retrieval", "store", "guidance")}
    assert counts == {"translation": 3, "retrieval": 3, "store": 3, "guidance": 9}
    assert len(finished(study, "reference")) == 1
    results = json.loads((study / "sweep" / "results.json").read_text())
    assert [trial["state"] for trial in results["trials"]] == ["finished"] * 9
    cells = {(t["cell"]["guidance.retrieval_count"], t["cell"]["data.fraction"]) for t in results["trials"]}
    assert len(cells) == 9
    for trial in results["trials"]:
        (row,) = [row for row in trial["rows"] if row["model"] == "rg-unit"]
        assert row["retrieval_count"] == trial["cell"]["guidance.retrieval_count"]
        assert row["data_fraction"] == trial["cell"]["data.fraction"]
        assert np.isfinite(row["kid"]) and 0 <= row["acc"] <= 1


def test_the_sweep_names_its_best_trial_and_draws_plots(study: Path) -> None:
    results = json.loads((study / "sweep" / "results.json").read_text())
    kids = {
        trial["name"]: row["kid"]
        for trial in results["trials"]
        for row in trial["rows"]
        if row["model"] == "rg-unit"
    }
    assert results["best"] == min(kids, key=lambda name: kids[name])
    best = Config.from_yaml((study / "sweep" / "best.yaml").read_text(), "best.yaml")
    assert f"retrieval_count-{best.guidance.retrieval_count}-" in results["best"]
    plots = {file.name for file in (study / "sweep" / "plots").iterdir()}
    assert {"guidance.retrieval_count-kid.svg", "data.fraction-acc.svg"} <= plots
    assert "<svg" in (study / "sweep" / "report" / "index.html").read_text()


def test_the_same_sweep_again_runs_nothing(study: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in (study / "stages").rglob("stage.json")}
    line = ("sweep", "--preset", "smoke", "--data", str(shards_of(study)), "--run", str(study), *GRID)
    assert command(*line).returncode == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_sweep_that_cannot_run_is_refused_at_once(smoke_run: Path, tmp_path: Path) -> None:
    line = ("sweep", "--preset", "smoke", "--data", str(smoke_run / "shards"), "--run", str(tmp_path / "no"))
    too_much = command(*line, "--retrieval-count", "1,3", "--set", "store.shards=5000")
    assert too_much.returncode == 2
    assert "5000 store shards x 0.1" in too_much.stderr and "or store.shards, or add" in too_much.stderr
    for values, words in (
        ("guidance.retrieval_count=1,1000", "the store will hold only 127 images besides the query's own"),
        ("store.index=exact,ivfpq", "ivfpq needs 256 vectors or more"),
    ):
        refused = command(*line, "--over", values)
        assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1
    unknown = command(*line, "--over", "guidance.steps_=1,2")
    assert unknown.returncode == 2 and "did you mean 'guidance.steps'" in unknown.stderr
    assert not (tmp_path / "no").exists() or not list((tmp_path / "no").rglob("metrics.jsonl"))


def test_a_failed_trial_keeps_the_results_of_the_others(study: Path, tmp_path: Path) -> None:
    """Of two trials one learns so fast that its loss is no number; the other is there already."""
    copy = tmp_path / "study"
    shutil.copytree(study, copy)
    line = ("sweep", "--preset", "smoke", "--data", str(shards_of(study)), "--run", str(copy))
    result = command(*line, "--over", "guidance.optimizer.learning_rate=2e-4,1e30")
    assert result.returncode == 1
    assert "1 of 2 trials failed" in result.stderr and "guidance.optimizer.learning_rate" in result.stderr
    trials = json.loads((copy / "sweep" / "results.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "failed"]


def shards_of(study: Path) -> Path:
    cell = next((study / "cells").iterdir())
    return Path(json.loads((cell / "data.json").read_text())["shards"])


@pytest.mark.parametrize(
    ("number", "rows"),
    [
        (1, ["random images", "easy", "medium", "hard", "all"]),
        (2, ["untouched input", "true counterfactuals", "GMM-UNIT", "GMM-UNIT continued",
             "RG-UNIT, random neighbours", "RG-UNIT", "real images"]),
        (4, ["0 (continued)", "1", "3", "10", "3, random"]),
        (3, [f"{model}, {share}" for model in ("GMM-UNIT", "GMM-UNIT continued", "RG-UNIT, random neighbours",
                                               "RG-UNIT") for share in ("25%", "50%", "100%")]),
    ],
)  # fmt: skip
def test_each_table_is_complete_and_reuses_finished_stages(study: Path, number: int, rows: list[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in (study / "stages").glob("*/*/model/*")}
    line = ("table", str(number), "--preset", "smoke", "--data", str(shards_of(study)), "--run", str(study))
    result = command(*line, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(finished(study, "translation")) == len(finished(study, "retrieval")) == 3
    directory = study / "tables" / str(number)
    written = list(csv.reader((directory / "table.csv").open()))
    assert [row[0] for row in written[1:]] == rows
    results = json.loads((directory / "results.json").read_text())
    assert results["protocol"]["digest"] and results["differences"]
    for record in results["differences"]:
        assert record["low"] <= record["high"]
        assert record["per_training_seed"] == pytest.approx([record["difference"]])
    for row in results["tables"].get("translation", []):
        assert row["acc"] is not None and (row["kid"] is not None or row["model"] in ("truth", "real"))
    assert "each training seed" in (directory / "report" / "index.html").read_text()
    assert (directory / "table.tex").read_text().startswith(r"\begin{table}")


def test_labels_of_unlabelled_images_are_never_read(study: Path, smoke_run: Path, tmp_path: Path) -> None:
    """Poison in the labels that a fraction of .25 must not see: every network and the store come out the same."""
    faces = tmp_path / "faces"
    shutil.copytree(smoke_run / "faces", faces)
    lines = (faces / "list_attr_celeba.txt").read_text().splitlines()
    dataset = json.loads((smoke_run / "shards" / "manifest.json").read_text())["dataset"]
    partition = dict(line.split() for line in (faces / "list_eval_partition.txt").read_text().splitlines())
    poisoned = 0
    for number, line in enumerate(lines[2:], 2):
        name, *signs = line.split()
        share = float(hash_share(np.array([row_id(dataset, name)]), salt=1)[0])
        if partition[name] == "0" and share >= 0.25:
            lines[number] = " ".join([name, *("-1" if sign == "1" else "1" for sign in signs)])
            poisoned += 1
    assert poisoned > 60
    (faces / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    shards, run = tmp_path / "shards", tmp_path / "run"
    assert command("data", "shard", str(faces), str(shards)).returncode == 0
    result = command(
        "train", "all", "--preset", "smoke", "--data", str(shards), "--run", str(run),
        "--set", "data.fraction=0.25", "--set", "guidance.variants=[rg-unit]", "--set", "cluster.threads=1",
        timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    (clean,) = [
        cell for cell in (study / "cells").iterdir() if "retrieval_count-3-fraction-0.25" in cell.name
    ]
    for stage in ("translation", "retrieval", "guidance"):
        digests = [
            json.loads((place / "model" / "manifest.json").read_text())["digests"]
            for place in (run / stage, resolved(clean, stage))
        ]
        assert digests[0] == digests[1], stage
    stores = [
        json.loads((place / "snapshot" / "manifest.json").read_text())["shards"]
        for place in (run / "store", resolved(clean, "store"))
    ]
    files = [[(shard["count"], shard["files"]) for shard in store] for store in stores]
    assert files[0] == files[1]  # of every file the checksum; directories have names of their own
    assert sum(shard["count"] for shard in stores[0]) == 128


def resolved(cell: Path, stage: str) -> Path:
    return (cell / stage / json.loads((cell / stage / "elsewhere.json").read_text())["at"]).resolve()
