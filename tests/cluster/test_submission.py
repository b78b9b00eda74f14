"""What is decided before a job is submitted, and what is read back from it."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import command
from lines import job_command
from places import PROJECT

from rgcluster.cli.jobs import JOBS, plan_job
from rgcluster.errors import ConfigError, EndpointError
from rgcluster.submission import submit as work
from rgcluster.submission.probe import MARK, read_answer
from rgcluster.submission.upload import files_to_upload, pack_upload


def test_a_plan_is_read_from_the_jobs_own_options() -> None:
    plan = plan_job("pipeline", ["--preset", "smoke", "--run=s3://b/team/a", "--set", "seed=3"], PROJECT)
    assert plan.entrypoint == "python jobs/pipeline.py --preset smoke --run=s3://b/team/a --set seed=3"
    assert (plan.run, plan.places, plan.preset, plan.overrides) == (
        "s3://b/team/a",
        ("s3://b/team/a",),
        "smoke",
        ("seed=3",),
    )
    assert plan.name.startswith("pipeline-a-")
    assert plan.name == plan_job("jobs/pipeline.py", ["--run", "s3://b/team/a"], PROJECT).name
    assert plan.name != plan_job("pipeline", ["--run", "s3://b/other/a"], PROJECT).name
    assert plan_job("pipeline", ["--run", "/r/a"], PROJECT, "mine").name == "mine"
    assert plan_job("prepare", ["--rows", "10", "/d/in", "s3://b/out"], PROJECT).places == ("s3://b/out",)
    assert plan_job("evaluate", ["--run", "/r/a"], PROJECT).run is None
    assert plan_job("sweep", ["--run", "/r/a"], PROJECT).preset is None
    serving = plan_job("serve", ["--run", "x=/r/a", "--run", "s3://b/c?region=eu"], PROJECT)
    assert serving.places == ("/r/a", "s3://b/c?region=eu")


def test_every_job_has_a_file_that_runs_its_command() -> None:
    assert {path.stem for path in (PROJECT / "jobs").glob("*.py")} == set(JOBS)
    for name, words in JOBS.items():
        options = {
            "prepare": "/in /out", "table": "2 --run /r", "serve": "--run /r", "sweep": "--run /r",
            "evaluate": "--run /r", "pipeline": "--run /r",
        }.get(name, "--run /r --data /d")  # fmt: skip
        assert job_command(f"python jobs/{name}.py {options}") == " ".join(words)
        assert plan_job(name, options.split(), PROJECT).places == (
            ("/out",) if name == "prepare" else ("/r",)
        )


def test_defaults_are_those_of_the_command() -> None:
    assert plan_job("pipeline", ["--run", "/r"], PROJECT).preset == "demo"
    assert plan_job("guidance", ["--run", "/r", "--data", "/d"], PROJECT).preset == "celeba128"
    assert plan_job("table", ["2", "--run", "/r"], PROJECT).preset is None


@pytest.mark.parametrize(
    ("job", "options", "message"),
    [
        ("nothing", ["--run", "/r"], "no job nothing in .*/jobs: there are evaluate, guidance, pipeline"),
        ("pipeline", ["--run", "runs/a"], "runs/a: a relative path, which on the cluster"),
        ("guidance", ["--run", "/r/a", "--data", "shards"], "shards: a relative path"),
        ("prepare", ["celeba", "/r/shards"], "celeba: a relative path"),
        ("prepare", ["/celeba"], "prepare: missing argument 'target'; write the job's options after --"),
        ("evaluate", [], "evaluate: missing option '--run'; write the job's options after --"),
        ("pipeline", [], "runs/demo: a relative path, which on the cluster"),
        ("pipeline", ["--run"], "pipeline: option '--run' requires an argument"),
        ("guidance", ["--run", "/r/a", "--data", "/d", "--stepz", "3"], "guidance: no such option: --stepz"),
        (
            "prepare",
            ["/in", "/out", "--rows", "many"],
            "prepare: invalid value for '--rows': ",
        ),
        ("pipeline", ["--run", "/r/a", "--set", "stepz=1"], "unknown key 'stepz'"),
        (
            "serve",
            ["--run", "/r/a", "--set", "api_key=open sesame"],
            "command lines are visible to other users",
        ),
        ("serve", ["--run", "/r/a", "--set", "fronts=0"], "fronts"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(job: str, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_job(job, options, PROJECT)


def test_a_place_is_the_same_however_it_is_written() -> None:
    for one, other in (("/r/a", "/r//b/../a/"), ("s3://bucket/a", "s3://bucket/a/")):
        plans = [plan_job("evaluate", ["--run", place], PROJECT) for place in (one, other)]
        assert plans[0].places == plans[1].places == (one,) and plans[0].name == plans[1].name


def test_what_is_uploaded_is_what_ray_would_upload(tmp_path: Path) -> None:
    for name in ("keep.py", "data/big.bin", "runs/a/x", "sub/skip.log", "sub/keep.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x" * 1000)
    (tmp_path / "in" / ".gitignore").write_text("runs/\n*.log\n")
    (tmp_path / "in" / ".rayignore").write_text("data/\n")
    kept = {"keep.py": 1000, "sub/keep.txt": 1000, ".gitignore": 12, ".rayignore": 6}
    assert files_to_upload(tmp_path / "in") == kept
    pack_upload(tmp_path / "in", 1, tmp_path / "out.zip")
    assert set(zipfile.ZipFile(tmp_path / "out.zip").namelist()) == set(kept)
    with pytest.raises(
        ConfigError,
        match=r"an upload of 0.0 MiB, the limit is 0.001; the largest files are .*keep.*list files",
    ):
        pack_upload(tmp_path / "in", 0.001, tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()


def test_an_upload_over_the_limit_is_refused_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "pipeline.py").write_text("")
    (tmp_path / "weights.bin").write_bytes(b"x" * (3 << 20))
    result = command(
        "submit", "pipeline", "--working-dir", str(tmp_path), "--max-upload-mib", "2", "--", "--run", "/r/a"
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert (
        "an upload of 3.0 MiB, the limit is 2; the largest files are weights.bin (3.0 MiB)" in result.stderr
    )


def submitted(name: str, status: str, entrypoint: str) -> Any:
    return SimpleNamespace(submission_id=name, status=SimpleNamespace(value=status), entrypoint=entrypoint)


def test_a_resubmission_takes_the_next_name_and_a_running_one_is_followed() -> None:
    plan = plan_job("pipeline", ["--run", "/r/a"], PROJECT, "a")
    same, other = plan.entrypoint, plan.entrypoint + " --set seed=1"
    assert work.submission_of([], plan) == ("a", False)
    assert work.submission_of(
        [submitted("b", "RUNNING", same), submitted("a-look-1f", "RUNNING", "x")], plan
    ) == ("a", False)
    assert work.submission_of([submitted("a", "FAILED", other)], plan) == ("a-2", False)
    assert work.submission_of(
        [submitted("a", "FAILED", same), submitted("a-2", "SUCCEEDED", same)], plan
    ) == ("a-3", False)
    assert work.submission_of([submitted("a", "FAILED", same), submitted("a-2", "PENDING", same)], plan) == (
        "a-2",
        True,
    )
    with pytest.raises(ConfigError, match="a is at work on /r/a with other options"):
        work.submission_of([submitted("a", "RUNNING", other)], plan)


class Client:
    """Breaks the connection after the first piece of the log, as a proxy does."""

    def __init__(self, status: str, code: int | None) -> None:
        self.tails, self.end, self.code = 0, status, code

    def get_address(self) -> str:
        return "http://here"

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.tails += 1
        yield "one\ntwo\n"
        if self.tails == 1:
            raise RuntimeError("closed")
        yield "three\n"

    def get_job_info(self, name: str) -> Any:
        status = "RUNNING" if self.tails == 1 else self.end
        return SimpleNamespace(
            status=SimpleNamespace(value=status), driver_exit_code=self.code, message="it ended"
        )


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("STOPPED", None, 1), ("FAILED", None, 1)],
)
def test_logs_are_followed_once_and_the_status_is_the_drivers(
    status: str, code: int | None, exit_status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work.time, "sleep", lambda seconds: None)
    written: list[str] = []
    assert work.follow(Client(status, code), "a", written.append) == exit_status
    assert "".join(written) == "one\ntwo\nthree\n"


def test_the_probes_answer_is_found_in_its_logs() -> None:
    assert read_answer(f"noise\n{MARK}{{}}\n") == {}
    assert read_answer(f'{MARK}{{"type": "ConfigError", "message": "m"}}') == {
        "type": "ConfigError",
        "message": "m",
    }
    assert read_answer("ImportError: nothing") is None


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[int]]]:
    """A server that answers every request with the first of the list."""
    statuses = [403]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(statuses[0], "no")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", statuses
    server.shutdown()
    server.server_close()


def test_tokens_and_dashboards_that_do_not_answer(refusing: tuple[str, list[int]]) -> None:
    address, statuses = refusing
    with pytest.raises(
        ConfigError, match="the cluster refuses the token; put the cluster's own in RAY_AUTH_TOKEN"
    ):
        work.connect(address)
    statuses[0] = 401
    with pytest.raises(ConfigError, match="the cluster asks for a token, and none was found"):
        work.connect(address)
    statuses[0] = 500
    with pytest.raises(EndpointError, match="no Ray dashboard answers there"):
        work.connect(address)
    with pytest.raises(
        ConfigError, match="no Ray dashboard answers there .*--address http://HOST:8265"
    ) as told:
        work.connect("http://127.0.0.1:9")
    assert len(str(told.value).splitlines()) == 1


def test_a_token_that_lies_there_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(work, "TOKEN_FILE", tmp_path / "token")
    work.use_token()
    import os

    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / "token").write_text("secret")
    work.use_token()
    assert os.environ.pop("RAY_AUTH_MODE") == "token"
