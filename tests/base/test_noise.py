"""What Ray says of its own inside does not reach the terminal; what others say does."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from rgcluster.base.cluster.internals import quiet_driver, quiet_tokens
from rgcluster.base.cluster.loss import LOST

LEVEL = "RAY_BACKEND_LOG_LEVEL"


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The level that a driver sees while it connects, which says it on stderr as Ray does."""
    seen: list[str | None] = []

    def connect(*args: Any, **options: Any) -> str:
        seen.append(os.environ.get(LEVEL))
        os.write(
            2, f"Set ray log level from environment variable {LEVEL} to fatal\nsomething else\n".encode()
        )
        return "connected"

    monkeypatch.setattr("ray._private.worker.connect", connect)
    return seen


def test_a_driver_connects_quietly_and_other_lines_are_kept(
    levels: list[str | None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    monkeypatch.delenv(LEVEL, raising=False)
    with quiet_driver():
        assert LEVEL not in os.environ, "the processes that are started get their own level"
        assert worker.connect() == "connected"
    assert levels == ["fatal"] and LEVEL not in os.environ
    assert capfd.readouterr().err == "something else\n"
    print("still there", file=sys.stderr)
    assert capfd.readouterr().err == "still there\n"


def test_a_level_that_the_user_set_counts(levels: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import worker

    monkeypatch.setenv(LEVEL, "debug")
    with quiet_driver():
        worker.connect()
    assert levels == ["debug"]


def test_an_error_while_connecting_loses_no_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    def connect(*args: Any) -> None:
        os.write(2, b"why\n")
        raise ConnectionError("refused")

    monkeypatch.delenv(LEVEL, raising=False)
    monkeypatch.setattr(worker, "connect", connect)
    with pytest.raises(ConnectionError), quiet_driver():
        worker.connect()
    assert capfd.readouterr().err == "why\n" and worker.connect is connect


ENDING = """
import os, signal, sys
from rgcluster.base.cluster.loss import announce_loss
with announce_loss():
    {}
"""


@pytest.mark.parametrize(
    ("way", "status", "announced"),
    [
        ("pass", 0, False), ("sys.exit(143)", 143, False), ("raise ValueError", 1, False), ("os._exit(1)", 1, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, True),
    ],
)  # fmt: skip
def test_a_process_that_ray_ends_says_so(way: str, status: int, announced: bool) -> None:
    line = [sys.executable, "-c", ENDING.format(way)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert result.returncode == status and (LOST in result.stderr) == announced


def test_that_tokens_are_on_is_not_said_at_every_start() -> None:
    quiet_tokens()
    assert not logging.getLogger("ray._private.authentication.authentication_token_setup").isEnabledFor(
        logging.INFO
    )
