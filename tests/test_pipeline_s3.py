"""The smoke pipeline with everything on S3, whose requests fail now and then; the server is moto's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import command
from s3 import FAULTS, FaultyProxy, place, s3_server

from rgcluster.storage import Location
from rgcluster.train.metrics import read_metrics

pytestmark = pytest.mark.long


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    with s3_server("runs") as address:
        proxy = FaultyProxy(address)
        yield proxy
        proxy.close()


def test_everything_on_s3_with_faults_and_again(proxy: FaultyProxy) -> None:
    proxy.every = 23
    run = place(proxy.address, "runs/team/smoke")
    first = command("demo", "--preset", "smoke", "--run", run, timeout=400)
    assert first.returncode == 0, first.stderr[-3000:]
    assert set(proxy.met) == set(FAULTS), proxy.met
    root = Location(place(proxy.target, "runs/team/smoke"))
    assert (root / "report" / "index.html").exists()
    assert (root / "shards" / "manifest.json").read_json()["faces"] == {"seed": 0, "count": 160}
    rows = (root / "evaluation" / "results.json").read_json()["tables"]["translation"]
    assert all(row["counterfactual"] is not None for row in rows if row["model"] == "rg-unit")
    assert read_metrics(root / "guidance")[-1]["step"] == 10
    stages = ("translation", "retrieval", "store", "guidance", "precision", "reference", "evaluation")
    before = {stage: (root / stage / "stage.json").read_json() for stage in stages}
    assert all(record["finished"] for record in before.values())

    again = command("demo", "--preset", "smoke", "--run", run, timeout=200)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {stage: (root / stage / "stage.json").read_json() for stage in stages} == before
    assert not any(stage in again.stderr for stage in stages)

    shown = command("status", "--run", run)
    assert shown.returncode == 0 and shown.stdout.count("finished") >= len(stages)
    proxy.down = True
    broken = command("evaluate", "--run", place(proxy.address, "runs/team/smoke", attempts=2), timeout=200)
    assert broken.returncode == 1
    assert broken.stderr.count("\n") == 1 and "does not answer as it should" in broken.stderr
