"""What this package leaves out of Ray Train's start, which its private parts must still name so."""

from __future__ import annotations

import os

import pytest
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from rgcluster.base.cluster.internals import without_idle_actors
from rgcluster.base.session import WATCHER, ray_session


@pytest.mark.parametrize(
    ("by_driver", "left_out"),
    [(True, {"DatasetsCallback", "PlacementGroupCleanerCallback"}), (False, {"DatasetsCallback"})],
)
def test_no_actor_is_started_that_has_nothing_to_do(by_driver: bool, left_out: set[str]) -> None:
    trainer = TorchTrainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))

    def callbacks() -> set[str]:
        return {type(callback).__name__ for callback in trainer._create_default_callbacks()}  # type: ignore[attr-defined]

    before = callbacks()
    without_idle_actors(trainer, by_driver=by_driver)
    assert before - callbacks() == left_out


@pytest.mark.parametrize(("address", "watched"), [("", "0"), ("local", "0"), ("10.0.0.1:6379", None)])
def test_draining_nodes_are_watched_for_on_clusters_of_others(
    address: str, watched: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rgcluster.base import session

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.delenv(WATCHER, raising=False)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    for name in ("_start", "_connect", "_shut_down", "_require"):
        monkeypatch.setattr(session, name, lambda *anything: None)
    with ray_session():
        assert os.environ.get(WATCHER) == watched
    assert WATCHER not in os.environ
