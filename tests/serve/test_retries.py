"""Retries: what is tried again, after which pause, and what is said in the end."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import DeploymentUnavailableError
from serving import settings_for

from rgcluster.base.remote import persistently
from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.client import Client
from rgcluster.errors import (
    ConfigError,
    EndpointError,
    RequestRefused,
    StoreMismatch,
    StoreUnavailable,
    UnknownId,
)
from rgcluster.serve.backend import describe
from rgcluster.serve.deploy import deployments, live
from rgcluster.serve.http.errors import ApiError
from rgcluster.store import LocalStore, SnapshotWriter, read_manifest


class Answers:
    """Gives its items one after another, the last one for ever; raises those that are exceptions."""

    def __init__(self, *items: Any) -> None:
        self.items, self.calls = list(items), 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        item = self.items[min(self.calls, len(self.items)) - 1]
        if isinstance(item, Exception):
            raise item
        return item


def response(status: int, body: bytes = b"{}", **headers: str) -> requests.Response:
    made = requests.Response()
    made.status_code, made._content, made.url = status, body, "http://here/v1/models"
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that tenacity would have slept."""
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    return slept


def test_a_client_waits_for_retry_after_and_longer_each_time(pauses: list[float]) -> None:
    client = Client("http://here")
    busy, date = response(429, Retry_After="3"), response(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
    answers = Answers(busy, date, requests.ConnectionError(), response(200, b'{"models": []}'))
    client._session.request = answers  # type: ignore[method-assign]
    assert client.models() == [] and answers.calls == 4
    assert pauses == pytest.approx([3, 0.4, 0.8])


def test_a_client_gives_up_before_its_patience_ends_and_at_once_on_its_own_errors(
    pauses: list[float],
) -> None:
    client = Client("http://here", patience=2)
    refused = b'{"error": {"message": "no attribute", "remedy": "see /v1/domains"}}'
    client._session.request = Answers(response(503, Retry_After="5"))  # type: ignore[method-assign]
    with pytest.raises(EndpointError, match="answered 503"):
        client.models()
    client._session.request = Answers(response(422, refused))  # type: ignore[method-assign]
    with pytest.raises(RequestRefused, match="no attribute; see /v1/domains"):
        client.models()
    assert pauses == []


def test_what_another_attempt_cannot_mend_is_told_at_once(pauses: list[float]) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(
        ConfigError, match=r"no TLS connection \(.*\); write http:// for an endpoint without TLS"
    ):
        Client(f"https://127.0.0.1:{server.server_address[1]}").models()
    server.shutdown()
    server.server_close()
    client = Client("http://here")
    client._session.request = Answers(requests.TooManyRedirects("Exceeded 30 redirects."))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"no such request is possible \(Exceeded 30 redirects.\)"):
        client.models()
    assert pauses == []


def test_uploads_that_arrow_gave_up_on_are_repeated_and_other_errors_are_not(pauses: list[float]) -> None:
    passing = Answers(OSError("Failed to flush response stream"), OSError("CompleteMultipartUpload"), 7)
    assert persistently(passing) == 7 and pauses == pytest.approx([0.1, 0.4])
    lasting = Answers(OSError("Failed to flush response stream"))
    with pytest.raises(OSError, match="flush"):
        persistently(lasting)
    final = Answers(OSError("ACCESS_DENIED"))
    with pytest.raises(OSError, match="DENIED"):
        persistently(final)
    assert (lasting.calls, final.calls) == (4, 1)


def backend_over(answer: Callable[..., Any]) -> deployments.HandleBackend:
    """A backend over one fake handle: as with Serve's, `remote` is no coroutine function, its result can be awaited."""

    def remote(*arguments: Any) -> Any:
        async def response() -> Any:
            return answer(*arguments)

        return response()

    settings: Any = SimpleNamespace(limits=SimpleNamespace(retry_after_s=1))
    handle: Any = SimpleNamespace(stored_image=SimpleNamespace(remote=remote))
    return deployments.HandleBackend({"run": handle}, settings)


@pytest.mark.parametrize(
    ("answers", "calls", "message"),
    [
        ([ActorDiedError(), ActorDiedError(), 7], 3, ""),
        ([ActorDiedError()], 5, "went down 5 times"),
        ([DeploymentUnavailableError(SimpleNamespace(name="x", app_name="y"))], 1, "cannot be started"),  # type: ignore[arg-type]
    ],
)
def test_a_request_of_a_replica_that_died_is_sent_to_another(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], calls: int, message: str
) -> None:
    monkeypatch.setattr(deployments, "RETRY_SECONDS", 0.0)
    remote = Answers(*answers)
    backend = backend_over(remote)
    if message:
        with pytest.raises(ApiError, match=message):
            asyncio.run(backend.stored_image("run", 3))
    else:
        assert asyncio.run(backend.stored_image("run", 3)) == 7  # type: ignore[comparison-overlap]
    assert remote.calls == calls


def test_an_error_that_a_translator_returns_is_raised() -> None:
    with pytest.raises(UnknownId):
        asyncio.run(backend_over(lambda *arguments: UnknownId("no such image")).stored_image("run", 3))


class Failing(LocalStore):
    """A store whose shards can be silent, and which tells when it was closed."""

    silent = False

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.closed = threading.Event()

    def fetch(self, ids: Any) -> Any:
        if self.silent:
            raise StoreUnavailable("shard 0 did not answer within 10 s")
        return super().fetch(ids)

    def close(self) -> None:
        super().close()
        self.closed.set()


def test_a_store_that_is_opened_again_is_checked_like_the_first(
    noise_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, opened = tmp_path / "snapshot", list[Failing]()
    shutil.copytree(snapshot_of(Location(noise_run)).local(), place)

    def open_store(*given: Any) -> Failing:
        opened.append(Failing(place))
        return opened[-1]

    monkeypatch.setattr(live, "open_store", open_store)
    engine = live.LiveEngine(describe("noise", str(noise_run)), settings_for(noise_run))
    retriever = engine._engine.translators.retriever

    async def ask(times: int) -> None:
        await asyncio.gather(*(engine.stored_image(8) for _ in range(times)))

    opened[0].silent = True
    asyncio.run(ask(3))  # several requests fail at once, and one of them opens the store
    assert len(opened) == 2 and retriever.store is opened[1] and opened[0].closed.wait(10)
    with pytest.raises(StoreUnavailable, match="was closed: connect again"):
        opened[0].random_async([1], 1, seed=0)

    held = read_manifest(place)  # the run is trained and embedded again
    with SnapshotWriter(
        place, 1, held.dimension, held.image_shape, {**held.digests, "retrieval": "beef"}, replace=True
    ) as writer:
        ids = opened[1].ids()
        writer.append(ids, opened[1].vectors(ids), opened[1].fetch(ids))
        writer.commit()
    opened[1].silent = True
    for _ in range(2):
        with pytest.raises(StoreMismatch, match="retrieval beef"):
            asyncio.run(ask(1))
    assert retriever.store is opened[1]
    assert [store.closed.is_set() for store in opened] == [True, False, True, True]
