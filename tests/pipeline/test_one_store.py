"""The store of a run in a process that works on several of its stages."""

from __future__ import annotations

from pathlib import Path

from rgcluster.base.storage import Location
from rgcluster.data.shards import open_shards
from rgcluster.pipeline.run import Pipeline
from rgcluster.store import list_stores
from rgcluster.translate.finished import open_run, shards_of


def _pipeline(run: Path) -> Pipeline:
    config, location = open_run(str(run))
    return Pipeline(location, config, open_shards(Location(shards_of(location))))


def test_a_store_that_a_stage_starts_stays_for_the_next_ones(smoke_run: Path, ray_session: None) -> None:
    pipeline = _pipeline(smoke_run)
    with pipeline.one_store():
        with pipeline.start_store(pipeline.name_of_store("evaluation")) as first:
            assert first.count == 128
        assert first.name in list_stores()
        with pipeline.start_store(pipeline.name_of_store("figures")) as second:
            assert second.ping() is None and second.name == first.name
    assert first.name not in list_stores()


def test_without_it_each_stage_stops_its_own(smoke_run: Path, ray_session: None) -> None:
    pipeline = _pipeline(smoke_run)
    with pipeline.start_store(pipeline.name_of_store("evaluation")) as store:
        assert store.name in list_stores()
    assert store.name not in list_stores()
