"""A job: its file, its options, the locations that it writes to, and its submission id."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rgcluster.base.storage import digest_bytes
from rgcluster.config import load_config
from rgcluster.errors import ConfigError

__all__ = ["JobPlan", "known_jobs", "plan_job"]

PRESETS = {"pipeline": "demo", "translation": "celeba128", "retrieval": "celeba128", "guidance": "celeba128",
           "store": "celeba128", "sweep": "celeba128", "table": "celeba128"}  # fmt: skip
"""Default presets of the jobs that train."""


@dataclass(frozen=True)
class JobPlan:
    """A job to submit."""

    job: str
    options: tuple[str, ...]
    places: tuple[str, ...]
    """Locations that it writes to, which every node must be able to write."""
    run: str | None
    preset: str | None
    """None if the job does not train, or if the run has a configuration already."""
    overrides: tuple[str, ...]
    name: str

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", f"jobs/{self.job}.py", *self.options])


def known_jobs(directory: Path) -> list[str]:
    """Return the names of the jobs in a working directory."""
    return sorted(path.stem for path in (directory / "jobs").glob("*.py"))


def plan_job(job: str, options: Sequence[str], directory: Path, name: str | None = None) -> JobPlan:
    """Return the job to submit; ConfigError for an unknown job, a wrong option or a relative path."""
    job = Path(job).name.removesuffix(".py")
    jobs = known_jobs(directory)
    if job not in jobs:
        there = f"there are {', '.join(jobs)}" if jobs else "submit from the project's directory"
        raise ConfigError(f"no job {job} in {directory / 'jobs'}: {there}")
    runs = [path.partition("=")[2] if _named(path) else path for path in _values(options, "--run")]
    places = runs if job != "prepare" else _positional(options)[1:2]
    if not places:
        what = "SOURCE and SHARDS" if job == "prepare" else "--run DIR"
        raise ConfigError(f"{job}: no {what} among the job's options; write them after --")
    sources = _positional(options)[:1] if job == "prepare" else _values(options, "--data")
    for place in (*places, *sources):
        if "://" not in place and not Path(place).is_absolute():
            raise ConfigError(
                f"{place}: a relative path, which on the cluster lies in a folder that goes with the job; give an "
                "absolute one that every machine shares, or s3://... or gs://..."
            )
    overrides = tuple(_values(options, "--set"))
    given = _values(options, "--preset")
    preset = given[-1] if given else PRESETS.get(job) if job not in ("sweep", "table") else None
    if job in PRESETS:
        load_config(preset or PRESETS[job], overrides)
    return JobPlan(
        job, tuple(options), tuple(places), runs[0] if job in PRESETS else None, preset, overrides,
        _name(name, job, places[0]),
    )  # fmt: skip


def _name(given: str | None, job: str, place: str) -> str:
    """Return the submission id, which is the same for the same location."""
    if given is None:
        path = place.partition("?")[0].rstrip("/")
        short = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit("/", 1)[-1])[:40].strip("-") or "run"
        return f"{job}-{short}-{digest_bytes(place.encode())[:6]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}", given):
        raise ConfigError(f"--name {given}: use letters, digits, '.', '_' and '-'")
    return given


def _values(options: Sequence[str], flag: str) -> list[str]:
    found = []
    for at, word in enumerate(options):
        if word == flag:
            if at + 1 == len(options):
                raise ConfigError(f"{flag}: no value after it")
            found.append(options[at + 1])
        elif word.startswith(f"{flag}="):
            found.append(word.partition("=")[2])
    return found


def _positional(options: Sequence[str]) -> list[str]:
    """Return the words that are neither options nor their values; every flag of `data shard` takes a value."""
    words, skip = [], False
    for word in options:
        if skip:
            skip = False
        elif word.startswith("--"):
            skip = "=" not in word
        else:
            words.append(word)
    return words


def _named(run: str) -> bool:
    """Return whether a run is given as NAME=DIRECTORY, as for serving."""
    return "=" in run and not re.match(r"[^=]*[/?]", run)
