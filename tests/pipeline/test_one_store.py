"""The store of a run in a process that evaluates it and draws its figures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import pytest
from tiny import small_shards, tiny_config

from rgcluster.base.storage import Location
from rgcluster.errors import StoreUnavailable
from rgcluster.pipeline import context, run
from rgcluster.pipeline.run import Pipeline


class FakeStore(AbstractContextManager["FakeStore"]):
    """Counts what was started and what still runs."""

    started: list[FakeStore]

    def __init__(self, name: str) -> None:
        self.name, self.runs = name, True
        self.started.append(self)

    def ping(self) -> None:
        if not self.runs:
            raise StoreUnavailable(f"{self.name} does not answer")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runs = False


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    FakeStore.started = []
    monkeypatch.setattr(context.RayStore, "share", lambda place, name, **options: FakeStore(name))
    monkeypatch.setattr(context, "list_stores", lambda: {})
    return Pipeline(Location(tmp_path), tiny_config(), small_shards())


def use(pipeline: Pipeline, name: str) -> FakeStore:
    with pipeline.start_store(pipeline.name_of_store(name)) as store:
        store.ping()
    return store  # type: ignore[return-value]


def test_an_evaluation_and_its_figures_use_one_store(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def finish(name: str) -> None:
        order.append(name)
        if name in ("guidance", "evaluation"):
            use(pipeline, name)

    monkeypatch.setattr(pipeline, "finish", finish)
    monkeypatch.setattr(pipeline, "_draw_figures", lambda: use(pipeline, "figures"))
    monkeypatch.setattr(run, "write_report", lambda config, place: place)
    pipeline.report()
    assert order[-1] == "evaluation" and "guidance" in order
    ours, shared = FakeStore.started  # stage 3 has one of its own, which ends with it
    assert ours.name.endswith("-guidance") and shared.name.endswith("-evaluation")
    assert not ours.runs and not shared.runs


def test_a_store_that_ended_meanwhile_is_started_again(pipeline: Pipeline) -> None:
    with pipeline.one_store():
        first = use(pipeline, "evaluation")
        assert use(pipeline, "figures") is first
        first.runs = False
        assert use(pipeline, "figures") is not first
    assert [store.runs for store in FakeStore.started] == [False, False]


def test_an_error_ends_the_store(pipeline: Pipeline) -> None:
    with pytest.raises(KeyError), pipeline.one_store():
        use(pipeline, "evaluation")
        raise KeyError
    assert not FakeStore.started[0].runs
    assert use(pipeline, "figures").name.endswith("-figures")
