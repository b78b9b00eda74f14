"""`rgcluster bench gpu`: rehearsed on the CPU without Ray; on a GPU with `-m gpu`, which needs no Ray either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rgcluster.bench.gpu import program
from rgcluster.bench.gpu.gallery import Gallery, Vectors
from rgcluster.bench.gpu.part import Part, Place, Skip
from rgcluster.bench.gpu.program import JSON, PAGE, run_program
from rgcluster.bench.gpu.training import GRID
from rgcluster.bench.result import Row
from rgcluster.errors import ConfigError, RGClusterError

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from rgcluster.cli import main; main()"


def quiet(line: str) -> None:
    pass


def check(folder: Path) -> None:
    """The JSON has figures of every part, the page shows each, and the grid is a picture."""
    found = json.loads((folder / JSON).read_text())
    assert found["bench"] == "gpu" and not found["failed"]
    assert list(found["seconds"]) == [part.name for part in program.PARTS]
    speeds = {row["case"]: row["value"] for row in found["rows"] if row["metric"] == "speed"}
    assert {"plain step, fp32", "eager, channels-last", "eager, contiguous"} <= speeds.keys()
    assert any(case.startswith("guided step") for case in speeds) and speeds["training, stage 1"] > 0
    searched = [row for row in found["rows"] if row["metric"].startswith("search on")]
    assert len(searched) >= 3 and all(row["value"] > 0 for row in searched)
    page = (folder / PAGE).read_text()
    for part in program.PARTS:
        assert f"## {part.name[0].upper()}{part.name[1:]}" in page
    assert f"]({GRID})" in page
    with Image.open(folder / GRID) as grid:
        assert grid.size == (6 * 34 - 2, 6 * 34 - 2)
        assert np.asarray(grid).std() > 10


def test_the_program_is_rehearsed_without_ray_and_without_a_gpu(tmp_path: Path) -> None:
    words = ["bench", "gpu", "--out", str(tmp_path / "out"), "--device", "cpu", "--scale", "tiny"]
    # A file, because drawing starts processes, which import the program's main file.
    (tmp_path / "main.py").write_text(f"if __name__ == '__main__':\n    {WITHOUT_RAY}\n")
    line = [sys.executable, str(tmp_path / "main.py"), *words]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # more threads only wait for each other
    result = subprocess.run(line, capture_output=True, text=True, timeout=800, env=alone)
    assert result.returncode == 0, result.stderr
    assert f"page: {tmp_path / 'out' / PAGE}" in result.stdout
    check(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted((JSON, PAGE, GRID))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_rehearsal_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no GPU here; `--device cpu --scale tiny` rehearses"):
        run_program(tmp_path / "out", "cuda", "tiny", 1.0, quiet)
    assert not (tmp_path / "out").exists()


def _part(name: str, error: Exception | None = None) -> Part:
    def measure(place: Place, left: float) -> Sequence[Row]:
        if error:
            raise error
        return [Row(name, "speed", 1.0, "1/s")]

    return Part(name, measure)


def test_a_part_that_fails_or_is_skipped_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (
        _part("first", RuntimeError("out of memory")),
        _part("second", Skip("no such thing")),
        _part("third"),
    )
    monkeypatch.setattr(program, "PARTS", parts)
    with pytest.raises(RGClusterError, match="first: RuntimeError: out of memory"):
        run_program(tmp_path, "cpu", "tiny", 1.0, quiet)
    found = json.loads((tmp_path / JSON).read_text())
    assert [row["case"] for row in found["rows"]] == ["third"]
    assert found["skipped"] == {"second": "no such thing"} and list(found["failed"]) == ["first"]
    page = (tmp_path / PAGE).read_text()
    for words in (
        "Failed: RuntimeError: out of memory",
        "Skipped: no such thing",
        "| third | speed | 1 1/s |",
    ):
        assert words in page
    assert GRID not in page


def test_what_there_is_no_time_for_is_skipped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PARTS", (_part("first"),))
    assert run_program(tmp_path, "cpu", "tiny", 0.0, quiet) == []
    assert json.loads((tmp_path / JSON).read_text())["skipped"] == {"first": "no time was left"}
    assert "Skipped: no time was left" in (tmp_path / PAGE).read_text()


def test_a_gallery_finds_what_brute_force_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 8, generator=generator)
    queries, excluded = torch.randn(4, 8, generator=generator), torch.tensor([3, 7, 0, 49])
    distances = torch.cdist(queries, vectors)
    assert torch.equal(Vectors(vectors).nearest(queries, 3), distances.topk(3, largest=False).indices)
    distances[torch.arange(4), excluded] = torch.inf
    rows = distances.topk(3, largest=False).indices
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 2, 2, 3)
    gallery = Gallery(images, vectors)
    assert torch.equal(gallery.find(queries, 3, excluded)[..., 0, 0, 0], rows.to(torch.uint8))
    assert gallery.draw(5, 2).shape == (5, 2, 2, 2, 3)


@pytest.mark.gpu
def test_the_program_runs_on_a_gpu(tmp_path: Path) -> None:
    run_program(tmp_path, "cuda", "tiny", 10.0, quiet)
    check(tmp_path)
    found = json.loads((tmp_path / JSON).read_text())
    cases = {row["case"] for row in found["rows"]}
    assert {"compiled, channels-last", "compiled, contiguous"} <= cases
    agreement = [row["value"] for row in found["rows"] if row["metric"] == "neighbours as on the CPU"]
    assert agreement and min(agreement) > 0.9
