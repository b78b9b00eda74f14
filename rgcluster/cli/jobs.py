"""The jobs in `jobs/`: the command that each of them runs, and what its options mean to `rgcluster submit`."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

import rgcluster.cli
from rgcluster.config import load_config
from rgcluster.errors import ConfigError
from rgcluster.serve.settings import named_runs, settings_of, split_run
from rgcluster.submission.job import JobPlan, name_of_submission

__all__ = ["JOBS", "plan_job", "run_job"]

JOBS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate",),
    "guidance": ("train", "guidance"),
    "pipeline": ("demo",),
    "prepare": ("data", "shard"),
    "retrieval": ("train", "retrieval"),
    "serve": ("serve",),
    "store": ("store", "build"),
    "sweep": ("sweep",),
    "table": ("table",),
    "translation": ("train", "translation"),
}
"""By job, the words of the `rgcluster` command that it runs."""


def run_job(file: str) -> None:
    """Run the command of a job's file with the options of the command line."""
    sys.argv[1:1] = JOBS[Path(file).stem]
    rgcluster.cli.main()


def plan_job(job: str, options: Sequence[str], directory: Path, name: str | None = None) -> JobPlan:
    """Return the job to submit; ConfigError for an unknown job, a wrong option or a relative path."""
    job = Path(job).name.removesuffix(".py")
    jobs = sorted(known for known in JOBS if (directory / "jobs" / f"{known}.py").is_file())
    if job not in jobs:
        there = f"there are {', '.join(jobs)}" if jobs else "submit from the project's directory"
        raise ConfigError(f"no job {job} in {directory / 'jobs'}: {there}")
    values = _parsed(job, options)
    runs = _runs(values.get("run"))
    places = [str(values["target"])] if job == "prepare" else runs
    sources = [str(values[name]) for name in ("source", "data") if values.get(name)]
    for place in (*places, *sources):
        if "://" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{place}: a relative path, which on the cluster lies in a folder that goes with the job; give an "
                "absolute one that every machine shares, or s3://... or gs://..."
            )
    if job == "serve":  # a key among the settings would be shown to everybody with the job's command line
        settings_of({"runs": named_runs(values["run"])}, values.get("set_") or ())
    overrides = tuple(values.get("set_") or ()) if "preset" in values else ()
    if "preset" in values:
        load_config(values["preset"] or "celeba128", overrides)
    return JobPlan(
        job, tuple(options), tuple(map(_normal, places)), runs[0] if "preset" in values else None,
        values.get("preset"), overrides, name_of_submission(name, job, _normal(places[0])),
    )  # fmt: skip


def _normal(place: str) -> str:
    """Return a location in the spelling by which jobs at the same one are found."""
    return place.rstrip("/") if "://" in place else posixpath.normpath(place)


def _parsed(job: str, options: Sequence[str]) -> Mapping[str, Any]:
    """Return the values of a job's options by the names of its command's parameters, defaults among them."""
    command: Any = get_command(rgcluster.cli.app)
    for word in JOBS[job]:
        command = command.commands[word]
    try:
        return dict(command.make_context(f"jobs/{job}.py", list(options)).params)
    except Exception as error:
        # Typer brings a Click of its own, or uses the installed one: told by what its errors have in common.
        if not hasattr(error, "format_message"):
            raise
        text = " ".join(error.format_message().split()).rstrip(".")
        raise ConfigError(f"{job}: {text[0].lower()}{text[1:]}; write the job's options after --") from None


def _runs(given: Any) -> list[str]:
    """Return the run directories of an option that takes one, or several with names before them."""
    return [split_run(text)[1] for text in ([given] if isinstance(given, str) else given or ())]
