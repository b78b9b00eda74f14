"""The command line without Ray: bad input is one line and exit status 2, `--dry-run` starts nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command
from inside import run_inside

from rgcluster.base.locks.lease import Lease
from rgcluster.base.storage import Location


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--preset", "dmeo"], "did you mean 'demo'"),
        (["demo", "--set", "guidance.retrieval_cuont=3"], "did you mean 'guidance.retrieval_count'"),
        (["demo", "--set", "translation.steps"], "expected section.key=value"),
        (["train", "all", "--data", "nowhere", "--run", "x"], "rgcluster data shard"),
        (
            ["demo", "--preset", "smoke", "--set", "guidance.retrieval_count=500", "--run", "x"],
            "will hold only 127",
        ),
        (["evaluate", "--run", "nowhere"], "not a run directory"),
        (["data", "shard", "nowhere", "shards"], "rgcluster data faces"),
        (
            ["train", "all", "--data", ".", "--run", "x"],
            "holds no shards; write some with `rgcluster data shard",
        ),
        (["train", "all", "--data", "nowhere", "--run", "x", "--dry-run"], "no such directory"),
        (["data", "shard", ".", "shards"], "no images there, nor tables that name them"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, errors = run_inside(*arguments)
    assert status == 2, errors
    assert words in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_dry_run_prints_the_configuration_and_starts_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = command(
        "demo",
        "--preset",
        "paper",
        "--run",
        str(run),
        "--dry-run",
        "--set",
        "translation.optimizer.learning_rate=2e-4",
    )
    assert result.returncode == 0, result.stderr
    assert "learning_rate: 0.0002" in result.stdout
    assert "D: 2.92 M parameters" in result.stdout
    assert not run.exists()


WITHOUT_FAISS = "import sys; sys.modules['faiss'] = None; from rgcluster.cli import main; main()"


@pytest.mark.parametrize("words", [("store", "info", "--at", "x"), ("demo", "--run", "x")])
def test_without_faiss_the_extra_that_brings_it_is_named(words: tuple[str, ...]) -> None:
    line = [sys.executable, "-c", WITHOUT_FAISS, *words]
    result = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("rgcluster: FAISS is not installed: `pip install 'rgcluster[cpu]'`")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("rgcluster.cli", "numpy pyarrow torch ray"),  # every command pays for these, `--help` included
        ("rgcluster.cli.sharding", "torch faiss ray.data ray.train ray.serve pandas"),
        ("rgcluster.study.opening, rgcluster.study.space", "torch ray faiss"),
        ("rgcluster.cli.finished, rgcluster.client", "torch ray faiss"),  # `translate --url`
        ("rgcluster.cli.finished, rgcluster.translate.opened", "ray.data ray.train ray.serve pandas scipy"),
        ("rgcluster.cli.commands", "scipy.stats torch._dynamo"),
        ("rgcluster.serve.deploy.launch", "torch scipy ray.data ray.train"),
        # What is checked before a run starts, parameters counted: without torch's compiler, which takes a second.
        (
            "rgcluster.config as c, rgcluster.pipeline.checks as p; p.network_sizes(c.load_config('demo'))",
            "torch._dynamo",
        ),
    ],
)
def test_commands_import_no_more_than_they_use(module: str, late: str) -> None:
    look = f"import sys, {module}; print(*(name for name in {late.split()} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "\n"), result.stderr


def test_weights_lists_what_each_metric_uses() -> None:
    result = command("weights")
    assert result.returncode == 0
    assert "efficientnet-lite0" in result.stdout and "fid-inception" in result.stdout
    for name in ("lpips-alex", "lpips-vgg", "resnet50", "vgg16", "in use", "looked in", "sha256"):
        assert name in result.stdout


def test_weights_take_a_path_and_refuse_a_wrong_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    found = command("--weights", f"vgg16={file}", "weights")
    assert found.returncode == 0 and str(file) in "".join(found.stdout.split("\n"))
    for text, words in (("vgg17=x", "is not a file"), (f"vgg17={file}", "no weights are called 'vgg17'")):
        refused = command("--weights", text, "weights")
        assert refused.returncode == 2 and words in refused.stderr


def test_an_unexpected_error_keeps_its_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("first line\n\n  second line\nthird")

    monkeypatch.setattr("rgcluster.base.weights.survey", fail)
    status, errors = run_inside("weights")
    assert status == 1
    assert (
        errors
        == "rgcluster: RuntimeError: first line second line third (RGCLUSTER_TRACEBACK=1 shows where)\n"
    )


def test_names_are_written_where_their_letters_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    script = "from rgcluster import cli; cli.app = lambda: cli.out.print('un été │ 顔'); cli.main()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "un \\xe9t\\xe9 \\u2502 \\u9854\n"


IN_TURN = """
import sys
from rgcluster.cli import main
place = sys.argv[1]
for words in (
    ["data", "faces", place + "/faces", "--count", "2"],
    ["demo", "--preset", "smoke", "--run", place, "--dry-run"],
    ["evaluate", "--run", place],
):
    sys.argv = ["rgcluster", *words]
    try:
        main()
    except SystemExit as end:
        print("status", end.code)
"""


def test_any_path_works_in_the_c_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    place = tmp_path / "un été" / "x y 顔"
    line = [sys.executable, "-c", IN_TURN, str(place)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert len(list((place / "faces" / "img_align_celeba").iterdir())) == 2
    assert "store name" in result.stdout and re.findall(r"(?m)^status (\d+)$", result.stdout) == [
        "0",
        "0",
        "2",
    ]
    assert f"{place}: not a run directory" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--preset", "smoke"],
        ["train", "guidance", "--data", "shards"],
        ["store", "build", "--data", "shards"],
        ["evaluate"],
        ["report"],
        ["table", "2"],
        ["sweep", "--retrieval-count", "1,3"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_run_that_is_at_work_is_refused_before_anything_else(words: list[str], tmp_path: Path) -> None:
    with Lease(Location(tmp_path / "un été")):
        status, errors = run_inside(*words, "--run", str(tmp_path / "un été"))
    assert status == 2 and errors.count("\n") == 1
    assert (
        f"un été: in use by process {os.getpid()} on " in errors
        and f"end it with `kill {os.getpid()}`" in errors
    )
    assert not (tmp_path / "un été").exists()
