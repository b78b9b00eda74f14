"""A pipeline where names have spaces and accents, in the C locale, with a second driver that is refused meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from conftest import command
from processes import lines_of_ray, start

from rgcluster.base.logs.notices import read_notices
from rgcluster.base.rundir import safe_name
from rgcluster.base.storage import Location

pytestmark = pytest.mark.long


def test_a_pipeline_at_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    run = tmp_path / "un été" / "x y é"
    process = start("demo", "--preset", "smoke", "--run", str(run))
    deadline = time.monotonic() + 120
    while not (run / "shards" / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    for arguments in (
        ["train", "all", "--preset", "smoke", "--data", str(run / "shards"), "--run", str(run)],
        ["evaluate", "--run", str(run)],
        ["demo", "--preset", "smoke", "--run", str(run)],
    ):
        refused = command(*arguments, timeout=60)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert f"{run}: in use by process {process.pid} on" in refused.stderr
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    assert not lines_of_ray(errors + out), errors[-3000:]
    assert str(run / "report" / "index.html") in out.replace("\n", "")
    for stage in ("translation", "retrieval", "guidance"):
        assert read_notices(Location(run / stage)) == []
        assert list((run / stage / "tensorboard").glob("events.*"))
    face = next((run / "faces").rglob("*.jpg"))
    photo = tmp_path / "ma photo é.jpg"
    photo.write_bytes(face.read_bytes())
    for arguments in (
        ["translate", str(photo), "--run", str(run), "--to", "Male", "--out", str(tmp_path / "après.png")],
        [
            "store",
            "query",
            str(photo),
            "--run",
            str(run),
            "--to",
            "Male",
            "--out",
            str(tmp_path / "près.png"),
        ],
        ["status", "--run", str(run)],
        ["data", "check", str(run / "shards")],
        ["export", "--run", str(run), "--format", "torch", "--out", str(tmp_path / "modèle.pt2")],
        ["serve", "--run", str(run), "--dry-run"],
    ):
        result = command(*arguments, timeout=200)
        assert result.returncode == 0 and not lines_of_ray(result.stderr), result.stderr[-3000:]
    assert yaml.safe_load(result.stdout)["runs"] == {safe_name(run.name): str(run)}
    assert (tmp_path / "après.png").exists() and (tmp_path / "modèle.pt2").exists()
