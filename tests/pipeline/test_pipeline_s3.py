"""The smoke pipeline with everything on S3, whose requests fail now and then; the server is moto's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from conftest import command
from processes import start
from s3 import FAULTS, FaultyProxy, place, s3_server

from rgcluster.base.storage import Location
from rgcluster.pipeline.stages import STAGES
from rgcluster.train.records.metrics import read_metrics

pytestmark = pytest.mark.long


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    with s3_server("runs") as address:
        proxy = FaultyProxy(address)
        yield proxy
        proxy.close()


def test_everything_on_s3_with_faults_an_outage_and_again(proxy: FaultyProxy) -> None:
    proxy.every = 23
    root = Location(place(proxy.target, "runs/team/smoke"))
    impatient = place(proxy.address, "runs/team/smoke", attempts=3)
    process = start("demo", "--preset", "smoke", "--run", impatient, "--set", "cluster.max_failures=0")
    deadline = time.monotonic() + 200
    while not (root / "translation" / "stage.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1][-3000:]
        time.sleep(0.2)
    proxy.down = True
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert "does not answer as it should" in errors.splitlines()[-1], errors
    proxy.down = False

    run = place(proxy.address, "runs/team/smoke")
    first = command("demo", "--preset", "smoke", "--run", run, timeout=400)
    assert first.returncode == 0, first.stderr[-3000:]
    assert set(proxy.met) == set(FAULTS), proxy.met
    assert (root / "report" / "index.html").exists()
    assert (root / "shards" / "manifest.json").read_json()["faces"] == {"seed": 0, "count": 160}
    rows = (root / "evaluation" / "results.json").read_json()["tables"]["translation"]
    assert all(row["counterfactual"] is not None for row in rows if row["model"] == "rg-unit")
    assert read_metrics(root / "guidance")[-1]["step"] == 10
    assert not [name for name in root.names() if name.startswith("preflight")]
    before = {stage: (root / stage / "stage.json").read_json() for stage in STAGES}
    assert all(record["finished"] for record in before.values())

    again = command("demo", "--preset", "smoke", "--run", run, timeout=200)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {stage: (root / stage / "stage.json").read_json() for stage in STAGES} == before
    assert not any(stage in again.stderr for stage in STAGES)

    shown = command("status", "--run", run)
    assert shown.returncode == 0 and "evaluation  finished: in" in shown.stdout
    proxy.down = True
    broken = command("status", "--run", impatient)
    assert broken.returncode == 1
    assert broken.stderr.count("\n") == 1 and "does not answer as it should" in broken.stderr
