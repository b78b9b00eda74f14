"""A job: its options, the locations that it writes to, and its submission id."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from rgcluster.base.storage import digest_bytes
from rgcluster.errors import ConfigError

__all__ = ["JobPlan", "name_of_submission"]


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


def name_of_submission(given: str | None, job: str, place: str) -> str:
    """Return the submission id, the same for the same location; ConfigError for a given one that is not valid."""
    if given is None:
        path = place.partition("?")[0].rstrip("/")
        short = re.sub(r"[^A-Za-z0-9_-]+", "-", path.rsplit("/", 1)[-1])[:40].strip("-") or "run"
        return f"{job}-{short}-{digest_bytes(place.encode())[:6]}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}", given):
        raise ConfigError(f"--name {given}: use letters, digits, '.', '_' and '-'")
    return given
