"""What writes into the directory of a run or of a study holds its lease while it does."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from inside import run_inside
from untrained import untrained_run

from rgcluster.base.locks.lease import holder_of
from rgcluster.base.storage import Location
from rgcluster.cli import commands
from rgcluster.study import table


def held_by(found: list[int], written: Path) -> Any:
    """Return what takes the place of a writer: it notes which process holds the lease of the directory."""

    def write(*given: object) -> Path:
        holder = holder_of(Location(written))
        found.append(holder.pid if holder else 0)
        return written

    return write


def test_a_report_is_written_under_the_lease_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained_run(tmp_path / "run")
    found: list[int] = []
    monkeypatch.setattr(commands, "write_report", held_by(found, tmp_path / "run"))
    assert run_inside("report", "--run", str(tmp_path / "run")) == (0, "")
    assert found == [os.getpid()] and holder_of(Location(tmp_path / "run")) is None


def test_a_table_is_written_under_the_lease_of_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    monkeypatch.setattr(table, "open_study", lambda *given: (Location(tmp_path), None, None))
    monkeypatch.setattr(table, "ray_session", nullcontext)
    monkeypatch.setattr(table, "Study", lambda *given: None)
    monkeypatch.setattr(table, "check_table", lambda *given: None)
    for name in ("make_table", "write_table"):
        monkeypatch.setattr(table, name, held_by(found, tmp_path))
    table.table(2, None, str(tmp_path), None, (), 1)
    assert found == [os.getpid()] * 2
