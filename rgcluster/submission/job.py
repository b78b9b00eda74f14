"""A job as it will be submitted: its options, the places it writes to and the name it is known by."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from rgcluster.base.storage import digest_bytes
from rgcluster.errors import ConfigError

__all__ = ["JobPlan", "name_of_submission"]


@dataclass(frozen=True)
class JobPlan:
    """A job as it will be submitted."""

    job: str
    options: tuple[str, ...]
    places: tuple[str, ...]
    """Where it writes: every node must, too."""
    run: str | None
    preset: str | None
    """None where it places no training, or where the run's own configuration holds."""
    overrides: tuple[str, ...]
    name: str

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", f"jobs/{self.job}.py", *self.options])


def name_of_submission(given: str | None, job: str, place: str) -> str:
    """Return the id of a submission: the same place, the same name; ConfigError for a given one that cannot be."""
    if given is None:
        path = place.partition("?")[0].rstrip("/")
        short = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit("/", 1)[-1])[:40].strip("-") or "run"
        return f"{job}-{short}-{digest_bytes(place.encode())[:6]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}", given):
        raise ConfigError(f"--name {given}: use letters, digits, '.', '_' and '-'")
    return given
