"""Command lines, checked against the real command without running it."""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

from places import PROJECT
from typer.main import get_command

import rgcluster.cli

__all__ = ["BadLine", "job_command", "parse", "root"]


class BadLine(Exception):
    """A line that its program would refuse."""


@lru_cache
def root() -> Any:
    """The `rgcluster` command, made once: it takes a third of a second."""
    return get_command(rgcluster.cli.app)


def parse(words: Sequence[str]) -> str:
    """Return the name of the subcommand that `rgcluster WORDS` would run, e.g. "data shard".

    BadLine where a command or an option is unknown or missing, or a value is of the wrong kind.
    """
    command = root()
    names: list[str] = []
    try:
        context = command.make_context("rgcluster", list(words))
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, list(rest), parent=context)
            names.append(name)
    except Exception as error:
        # Typer brings a Click of its own, or uses the installed one: told by what its errors have in common.
        if not hasattr(error, "format_message"):
            raise
        raise BadLine(
            f"rgcluster {' '.join(words)}: {' '.join(error.format_message().split())[:200]}"
        ) from None
    return " ".join(names)


def job_command(line: str, jobs: Path = PROJECT / "jobs") -> str:
    """Return the subcommand that a line `python .../jobs/NAME.py OPTIONS` would run; BadLine where none."""
    program, file, *words = shlex.split(line)
    job = jobs / Path(file).name
    if program not in ("python", "python3") or Path(file).parent.name != "jobs" or not job.is_file():
        raise BadLine(f"{line}: not a job of jobs/")
    seen: list[list[str]] = []
    with (
        mock.patch.object(sys, "argv", [str(job), *words]),
        mock.patch.object(rgcluster.cli, "main", lambda: seen.append(sys.argv[1:])),
    ):
        runpy.run_path(str(job), run_name="__main__")
    return parse(seen[0])
