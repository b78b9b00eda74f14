"""What a log shows of long work."""

from __future__ import annotations

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
