"""The `rgcluster` command in this process: fast, for what ends before Ray starts."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from rgcluster.cli import main


def run_inside(*arguments: str) -> tuple[int, str]:
    """Run the command as a user does; return its exit status and what it wrote to stderr."""
    out, errors = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", ["rgcluster", *arguments]), mock.patch("signal.signal"):
        with redirect_stdout(out), redirect_stderr(errors):
            try:
                main()
            except SystemExit as end:
                return int(end.code or 0), errors.getvalue()
    return 0, errors.getvalue()
