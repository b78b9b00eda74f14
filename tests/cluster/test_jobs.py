"""Inside a Ray job: relative targets are refused; two jobs do not change one place."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from inside import run_inside
from places import PROJECT

from rgcluster.base.cluster.job import refuse_relative, submission_id
from rgcluster.cli.jobs import plan_job
from rgcluster.errors import ConfigError
from rgcluster.submission import submit as work

JOB = json.dumps({"metadata": {"job_submission_id": "prepare-a"}, "runtime_env": {}})


def test_a_job_knows_that_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() is None
    refuse_relative("--run", "runs/a")
    for text, expected in (("{", None), ("{}", None), ('{"metadata": null}', None), (JOB, "prepare-a")):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", text)
        assert submission_id() == expected
    with pytest.raises(
        ConfigError, match="--run runs/a: a relative path, which in a Ray job lies in the job's own"
    ):
        refuse_relative("--run", "runs/a")
    for path in ("/shared/a", "s3://bucket/a", "~/a", Path("/shared/a")):
        refuse_relative("--run", path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "shard", "/nested", "shards"],
        ["data", "shard", "nested", "/shards"],
        ["data", "faces", "faces", "--count", "8"],
        ["demo", "--preset", "smoke"],
        ["train", "all", "--data", "/shards", "--run", "runs/a"],
        ["train", "all", "--data", "shards", "--run", "/runs/a"],
        ["evaluate", "--run", "runs/a"],
        ["report", "--run", "runs/a"],
        ["sweep", "--run", "runs/a", "--retrieval-count", "1,3"],
        ["table", "2", "--run", "runs/a"],
        ["serve", "--run", "a=runs/a"],
        ["store", "copy", "/from", "to"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_relative_targets_are_refused_in_a_job(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", JOB)
    status, errors = run_inside(*arguments)
    assert status == 2 and "a relative path, which in a Ray job lies" in errors, errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def submitted(name: str, status: str, job: str, place: str) -> Any:
    return SimpleNamespace(
        submission_id=name, status=SimpleNamespace(value=status), entrypoint=f"python jobs/{job}.py",
        metadata={"job": job, "place": place},
    )  # fmt: skip


def test_another_job_on_the_same_place_is_refused() -> None:
    plan = plan_job("evaluate", ["--run", "/r/a"], PROJECT)
    running = submitted("guidance-a-1", "RUNNING", "guidance", "/r/a")
    with pytest.raises(ConfigError, match="guidance-a-1 is at work on /r/a .*`ray job stop guidance-a-1`"):
        work.submission_of([running], plan)
    for other in (
        submitted("guidance-a-1", "FAILED", "guidance", "/r/a"),
        submitted("guidance-b-1", "RUNNING", "guidance", "/r/b"),
        submitted("serve-a-1", "RUNNING", "serve", "/r/a"),
        SimpleNamespace(
            submission_id="x", status=SimpleNamespace(value="RUNNING"), entrypoint="x", metadata=None
        ),
    ):
        assert work.submission_of([other], plan) == (plan.name, False)
    serve = plan_job("serve", ["--run", "/r/a"], PROJECT)
    assert work.submission_of([running], serve) == (serve.name, False)
