"""What a log shows of long work."""

from __future__ import annotations

import time

import pytest

from rgcluster.base import progress


def test_a_log_has_a_line_for_progress_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.console, "print", lambda text, **_: lines.append(text.split(maxsplit=1)[1]))
    update = progress._Lines("stage", 0.0)
    for second, done in ((1, 40), (20, 40), (40, 40), (41, 60), (42, 70), (61, 80)):
        now[0] = float(second)
        update(done, 100, "fast")
    # It went on from step 40: 20 steps took 40 seconds, 40 steps 60.
    assert lines == ["60/100, about 80 s left, fast", "80/100, about 30 s left, fast"]


def test_a_silent_start_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.console, "print", lambda text, **_: lines.append(text))
    silence = progress._Silence(lambda: "shards: waiting")
    for second in (1, 9, 10, 12, 60, 71):
        now[0] = float(second)
        silence._poll()
    assert lines == ["shards: waiting (10 s so far)", "shards: waiting (71 s so far)"]
    silence.progress(3)
    now[0] = 500.0
    silence._poll()
    assert len(lines) == 2


def test_what_an_earlier_start_had_done_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.console, "print", lambda text, **_: lines.append(text))
    silence = progress._Silence(lambda: "translation: waiting")
    now[0] = 0.7
    silence.progress(40)
    now[0] = 11.0
    silence._poll()
    assert lines == ["translation: waiting (11 s so far)"]
    silence.progress(40)
    now[0] = 80.0
    silence._poll()
    silence.progress(45)
    now[0] = 200.0
    silence._poll()
    assert len(lines) == 2


def test_a_task_explains_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(progress.console, "print", lambda text, **_: lines.append(text))
    with progress.explain_waits(lambda: "CPUs, 0 of 2 are free"), progress.task("shards"):
        time.sleep(1.2)
    assert lines[0].startswith("shards: waiting for CPUs, 0 of 2 are free (")
    with progress.explain_waits(lambda: str(1 / 0)), progress.task("shards"):
        time.sleep(1.2)
    assert lines[2].startswith("shards: waiting for its first result (")
    with progress.waiting("Ray to start"):
        time.sleep(1.2)
    assert lines[4].startswith("waiting for Ray to start (")
