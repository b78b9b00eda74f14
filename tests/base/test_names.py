"""Names and paths are anybody's: spaces, accents, other scripts, long ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3 import place, s3_server

from rgcluster.base.remote import connect
from rgcluster.base.rundir import safe_name, store_name
from rgcluster.base.storage import Location
from rgcluster.cli.jobs import plan_job
from rgcluster.errors import ConfigError
from rgcluster.serve.settings import named_runs, settings_of
from rgcluster.store.actors.names import require_name
from rgcluster.train.records.gauges import Gauges

NAMES = (
    "x y",
    "été",
    "e\u0301te\u0301",
    "顔",
    "лицо",
    "🙂",
    "a" * 200,
    "-x",
    "..",
    "a#b",
    "100%",
    "a\tb",
    "'\"$(x)",
)


@given(st.text(max_size=60))
def test_a_safe_name_is_safe_and_stays_one(name: str) -> None:
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,47}", safe)
    assert safe_name(name) == safe
    require_name(safe)


@given(st.text(max_size=20), st.text(max_size=20))
def test_different_names_stay_different(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)


def test_safe_names_are_kept_and_others_readable() -> None:
    assert safe_name("run-1.b_c") == "run-1.b_c"
    assert re.fullmatch(r"un-ete-[0-9a-f]{6}", safe_name("un été"))
    assert re.fullmatch(r"name-[0-9a-f]{6}", safe_name("顔"))


@pytest.mark.parametrize("name", NAMES)
def test_every_run_has_a_store_that_actors_can_be_named_after(name: str, tmp_path: Path) -> None:
    run = Location(tmp_path / "run")
    run.path = f"{tmp_path}/{name}"
    require_name(store_name(run))
    assert len(store_name(run)) < 64


def test_a_name_given_to_a_store_is_refused_with_one_that_works() -> None:
    with pytest.raises(ConfigError, match=r"'été' cannot name a store: .*'ete-[0-9a-f]{6}' would do"):
        require_name("été")


@pytest.mark.parametrize("name", NAMES)
def test_metrics_take_every_run(name: str, tmp_path: Path, ray_session: None) -> None:
    stage = Location(tmp_path)
    stage.path = f"{tmp_path}/{name}/translation"
    gauges = Gauges(stage)
    gauges.log(5, {"images_per_second": 3.0, "wait_data": 0.1, "rg-unit/total": 2.0, "Blond Haïr": 1.0})


def test_served_runs_get_a_name_from_their_directory(tmp_path: Path) -> None:
    (name,) = named_runs([str(tmp_path / "un été")])
    assert re.fullmatch(r"un-ete-[0-9a-f]{6}", name)
    assert list(named_runs([f"faces={tmp_path / 'un été'}"])) == ["faces"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        (tmp_path / "lr=0.1").mkdir()
        assert list(named_runs(["lr=0.1"]).values()) == [str(tmp_path / "lr=0.1")]
    with pytest.raises(ConfigError, match="'été' cannot name a model: use letters of the English alphabet"):
        settings_of({"runs": {"été": "/r"}})


@pytest.mark.parametrize("name", NAMES)
def test_a_job_has_an_id_whatever_its_run_is_called(name: str) -> None:
    plan = plan_job("pipeline", ["--run", f"/runs/{name}"], Path(__file__).parents[2])
    assert re.fullmatch(r"pipeline-[A-Za-z0-9_-]+-[0-9a-f]{6}", plan.name)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("..",)])
def test_files_of_every_name_are_written_and_found(name: str, tmp_path: Path) -> None:
    file = Location(tmp_path / name) / name / "file.json"
    file.write_json({"name": name})
    assert (Location(tmp_path) / name).names() == [name]
    assert Location(str(file)).read_json() == {"name": name}


def test_objects_of_every_name_are_written_and_found(tmp_path: Path) -> None:
    names = [name for name in NAMES if name not in ("..", "a\tb") and "?" not in name]
    with s3_server("names") as address:
        for name in names:
            file = Location(place(address, f"names/{name}/file.json"))
            file.write_json({"name": name})
            again = Location(str(file))
            assert again.path == f"names/{name}/file.json" and again.read_json() == {"name": name}


def test_addresses_of_other_stores_keep_their_names() -> None:
    assert connect("gs://anonymous@bucket/un été/a#b/100%")[1] == "bucket/un été/a#b/100%"
    assert connect("file:///tmp/un été/x y")[1] == "/tmp/un été/x y"


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        Location(b"/runs/\xff".decode("utf-8", "surrogateescape"))
