"""A command that is asked to end ends, whatever swallows the exception that asks it, and however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SWALLOWS = """
import time
try:
    for _ in range(2):
        try:
            print("begun", flush=True)
            for _ in range(600):
                time.sleep(0.1)
        except:
            pass
    for _ in range(600):
        time.sleep(0.1)
finally:
    time.sleep(2.5)
    print("cleaned up", flush=True)
"""
REPLACES = """
import time
print("begun", flush=True)
try:
    time.sleep(60)
except SystemExit:
    raise SystemExit(1) from None
"""
"""What `ray.get` does."""
CRASHES = """
import ctypes, time
class Half:
    def __del__(self, read=ctypes.string_at):
        read(0)
half = [Half()]
half.append(half)
print("begun", flush=True)
time.sleep(60)
"""


def ended(body: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command with this body after a SIGTERM."""
    code = f"from rgcluster import cli\ncli.app = lambda: exec({body!r}, {{}})\ncli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    begun = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    return process.returncode, begun + out, errors


@pytest.mark.parametrize(
    ("body", "out"),
    [
        pytest.param(
            SWALLOWS, "begun\nbegun\ncleaned up\n", id="swallowed twice, and asked again while it cleans up"
        ),
        pytest.param(REPLACES, "begun\n", id="another status in its place"),
        pytest.param(CRASHES, "begun\n", id="half-made state that crashes the interpreter's end"),
    ],
)
def test_a_command_that_is_terminated_ends_in_one_line(body: str, out: str) -> None:
    line = "rgcluster: terminated; the same command continues where this one stopped\n"
    assert ended(body) == (143, out, line)
