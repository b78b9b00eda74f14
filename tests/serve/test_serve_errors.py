"""From exception types to HTTP statuses, whatever the messages say."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from ray import cloudpickle
from serving import encoded, endpoint, post, settings_for
from untrained import noise_images

from rgcluster.base.attributes import parse_target
from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.config import DataConfig
from rgcluster.errors import (
    ConfigError,
    ContradictoryTarget,
    DataError,
    OutOfMemory,
    RGClusterError,
    StaleGeneration,
    StoreMismatch,
    StoreUnavailable,
    TargetError,
    TooFewNeighbours,
    UnknownAttribute,
    UnknownId,
)
from rgcluster.serve.backend import InProcess
from rgcluster.serve.http import targets
from rgcluster.serve.http.errors import ApiError, api_error
from rgcluster.store.local import LocalStore
from rgcluster.translate.finished import wanted_changes

NAMES = ("Black_Hair", "Blond_Hair", "Male")
IMAGE = encoded(noise_images(1, 48, seed=3)[0])


class Failing(InProcess):
    """A backend whose every call raises one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def translate(self, name: str, job: Any) -> Any:
        raise self._error

    async def neighbours(self, name: str, job: Any, count: int) -> Any:
        raise self._error

    async def stored_image(self, name: str, row_id: int) -> Any:
        raise self._error

    async def examples(self, name: str) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnknownId("worded in any way"), 404, "not_found"),
        (TooFewNeighbours("worded in any way"), 422, "too_few_neighbours"),
        (StoreUnavailable("no attribute"), 503, "unavailable"),
        (StaleGeneration("worded in any way"), 503, "unavailable"),
        (StoreMismatch("worded in any way"), 503, "store_mismatch"),
        (DataError("the image 5 is not in the store"), 500, "internal"),
        (ConfigError("--to x: no attribute 'x'"), 500, "internal"),
        (OutOfMemory("worded in any way"), 500, "internal"),
        (ValueError("worded in any way"), 500, "internal"),
    ],
)
def test_statuses_follow_the_type_of_an_exception(
    noise_run: Path, error: Exception, status: int, code: str
) -> None:
    with endpoint(settings_for(noise_run, limits={"retry_after_s": 7}), Failing(error)) as address:
        answers = [
            post(address, "translate", IMAGE, target="Male"),
            post(address, "neighbors", IMAGE),
            requests.get(f"{address}/v1/neighbors", {"id": "8"}, timeout=60),
            requests.get(f"{address}/v1/examples", timeout=60),
        ]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert ("Retry-After" in answer.headers) == (status == 503)
    assert status != 503 or answers[0].headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("Blond", UnknownAttribute, "unknown_attribute"),
        ("Male,-Male", ContradictoryTarget, "contradictory_target"),
        ("Black_Hair,Blond_Hair", ContradictoryTarget, "contradictory_target"),
    ],
)
def test_targets_raise_typed_errors(text: str, kind: type[TargetError], code: str) -> None:
    with pytest.raises(kind) as raised:
        parse_target(text, [0, 0, 0], NAMES, [NAMES[:2]])
    assert (
        isinstance(raised.value, ConfigError) and str(raised.value) == f"--to {text}: {raised.value.reason}"
    )
    with pytest.raises(ApiError) as answered:
        data = DataConfig(attributes=NAMES, exclusive=(NAMES[:2],))
        targets.parse(text, data, "start")
    fault = answered.value.detail
    assert (answered.value.status, fault.code, fault.field) == (422, code, "start")
    assert fault.message == raised.value.reason and "--to" not in fault.message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1", [0, 1, 0]),
        ("2", [0, 0, 1]),
        (" 1 ", [0, 1, 0]),
        ("0, 1, 2", "contradictory_target"),
        ("0,1,0", "contradictory_target"),
        ("1,1", [0, 1, 0]),
        ("", [-1, -1, -1]),
    ],
)
def test_attributes_called_like_values_are_names_as_on_the_command_line(
    text: str, wanted: list[int] | str
) -> None:
    data = DataConfig(attributes=("0", "1", "2"), exclusive=(), domains="one-hot", crop=0)
    if isinstance(wanted, list):
        assert targets.parse(text, data, "target").tolist() == wanted
        assert wanted_changes(text, data).tolist() == wanted
        return
    with pytest.raises(ApiError) as answered:
        targets.parse(text, data, "target")
    assert answered.value.detail.code == wanted
    with pytest.raises(ContradictoryTarget):
        wanted_changes(text, data)


def test_a_vector_may_hold_the_name_of_an_attribute() -> None:
    data = DataConfig(attributes=("0", "Male"), exclusive=())
    assert targets.parse("0,1", data, "target").tolist() == [0, 1]
    assert targets.parse("0", data, "target").tolist() == [1, -1]


@pytest.mark.parametrize(
    "error", [UnknownAttribute("a", "no attribute 'a'"), ContradictoryTarget("a,-a", "both"), UnknownId("x")]
)
def test_typed_errors_survive_a_process_boundary(error: RGClusterError) -> None:
    for copy in (pickle.loads(pickle.dumps(error)), cloudpickle.loads(cloudpickle.dumps(error))):
        assert type(copy) is type(error) and str(copy) == str(error)
        assert api_error(copy).detail == api_error(error).detail


def test_the_store_raises_a_typed_error_for_an_unknown_id(noise_run: Path) -> None:
    with LocalStore(snapshot_of(Location(noise_run))) as store, pytest.raises(UnknownId):
        store.fetch(np.array([2]))
