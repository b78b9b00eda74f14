"""Everything that costs takes a place first: metrics, stored images by id, examples, the check of readiness."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from serving import encoded, settings_for
from untrained import noise_images

from rgcluster.serve import exposition
from rgcluster.serve.backend import describe
from rgcluster.serve.http import routes
from rgcluster.serve.http.application import create_app

LARGE = encoded(noise_images(1, 200)[0])
"""Decoded in a thread."""


class SlowBackend:
    """Answers when it is let go, and counts the calls."""

    def __init__(self) -> None:
        self.let_go, self.calls, self.now = asyncio.Event(), 0, 0
        self.most = 0

    async def _slow(self, result: Any) -> Any:
        self.calls, self.now = self.calls + 1, self.now + 1
        self.most = max(self.most, self.now)
        await self.let_go.wait()
        self.now -= 1
        return result

    async def stored_image(self, name: str, row_id: int) -> Any:
        return await self._slow(np.zeros((32, 32, 3), np.uint8))

    async def examples(self, name: str) -> list[bytes]:
        return await self._slow([b"\x89PNG"])

    async def ready(self, name: str) -> bool:
        return bool(await self._slow(True))


def app_of(run: Path, backend: Any, **limits: Any) -> FastAPI:
    settings = settings_for(run, limits=limits)
    return create_app(settings, [describe(name, place) for name, place in settings.runs.items()], backend)


@dataclass
class Answer:
    """What the application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def get(app: FastAPI, url: str, image: bytes = b"") -> Answer:
    """Call the application as a server does; with an image, post it."""
    path, _, query = url.partition("?")
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST" if image else "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"image/png")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    answer = Answer()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": image, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer


async def at_once(app: FastAPI, paths: list[str], then: Callable[[], Awaitable[None]]) -> list[Answer]:
    """Send requests, and do something while they are under way."""
    tasks = [asyncio.create_task(get(app, path)) for path in paths]
    await then()
    return list(await asyncio.gather(*tasks))


@pytest.mark.parametrize("path", ["/v1/neighbors?id=8", "/v1/examples", "/v1/examples/0"])
def test_what_asks_the_store_takes_a_place(noise_run: Path, path: str) -> None:
    async def run() -> list[Answer]:
        backend = SlowBackend()
        app = app_of(noise_run, backend, waiting=2)

        async def then() -> None:
            while backend.now < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            backend.let_go.set()

        answers = await at_once(app, [path] * 5, then)
        assert backend.most == 2
        return answers

    answers = asyncio.run(run())
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 3 and json.loads(refused[0].body)["error"]["code"] == "busy"
    assert refused[0].headers["retry-after"] == "1"


class DeafBackend:
    """Waits in threads until it is let go, as for a store that does not answer; translates never."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    async def stored_image(self, name: str, row_id: int) -> Any:
        await asyncio.to_thread(self.let_go.wait, 20)
        raise ConnectionError  # nobody hears of it

    async def examples(self, name: str) -> list[bytes]:
        return [] if self.let_go.is_set() else await self.stored_image(name, 0)

    async def translate(self, name: str, job: Any) -> Any:
        await asyncio.Event().wait()


def statuses(answers: list[Answer]) -> list[int]:
    return sorted(answer.status for answer in answers)


@pytest.mark.parametrize("path", ["/v1/neighbors?id=8", "/v1/examples", "/v1/examples/0"])
def test_work_that_was_given_up_keeps_its_place_until_it_ends(
    noise_run: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> list[list[int]]:
        backend = DeafBackend()
        app = app_of(noise_run, backend, waiting=2, request_seconds=0.1)
        turns = [statuses(await asyncio.gather(*(get(app, path) for _ in range(3)))) for _ in range(2)]
        backend.let_go.set()
        await asyncio.sleep(0.2)
        return [*turns, statuses([await get(app, "/v1/examples")])]

    assert asyncio.run(run()) == [[429, 504, 504], [429, 429, 429], [200]]
    assert "never retrieved" not in caplog.text


def test_images_are_decoded_in_the_time_of_a_request_and_keep_its_place(
    noise_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go, backend = threading.Event(), DeafBackend()
    backend.let_go.set()
    monkeypatch.setattr(routes, "read_picture", lambda *given: let_go.wait(20))

    async def run() -> list[int]:
        app = app_of(noise_run, backend, waiting=1, request_seconds=0.1)
        first = [(await get(app, "/v1/translate?target=Male", LARGE)).status for _ in range(2)]
        let_go.set()
        await asyncio.sleep(0.2)
        return [*first, (await get(app, "/v1/examples")).status]

    assert len(LARGE) > routes.SMALL_BYTES and asyncio.run(run()) == [504, 429, 200]


def test_translations_that_were_given_up_leave_the_queue_at_once(noise_run: Path) -> None:
    async def run() -> list[int]:
        app = app_of(noise_run, DeafBackend(), waiting=1, request_seconds=0.1)
        return [(await get(app, "/v1/translate?target=Male", LARGE)).status for _ in range(3)]

    assert asyncio.run(run()) == [504, 504, 504]


def test_readiness_is_checked_once_however_many_ask(noise_run: Path) -> None:
    async def run() -> tuple[list[Answer], int]:
        backend = SlowBackend()

        async def then() -> None:
            await asyncio.sleep(0.05)
            backend.let_go.set()

        answers = await at_once(app_of(noise_run, backend), ["/v1/ready"] * 20, then)
        return answers, backend.calls

    answers, calls = asyncio.run(run())
    assert {answer.status for answer in answers} == {200} and calls == 1


def test_metrics_are_gathered_once_for_a_bounded_number(
    noise_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered, let_go = [], threading.Event()

    def gather() -> str:
        gathered.append(time.monotonic())
        let_go.wait(10)
        return "ray_rgcluster_queue 1\n"

    monkeypatch.setattr(exposition, "_gather", gather)
    app = app_of(noise_run, SlowBackend())
    exposition.add_metrics(app, 1)

    async def then() -> None:
        await asyncio.sleep(0.1)
        let_go.set()

    answers = asyncio.run(at_once(app, ["/metrics"] * 5, then))
    assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429]
    assert len(gathered) == 1
    again = asyncio.run(at_once(app, ["/metrics"], then))
    assert again[0].body == b"ray_rgcluster_queue 1\n" and len(gathered) == 1
    monkeypatch.setattr(exposition, "KEPT_SECONDS", 0.0)
    asyncio.run(at_once(app, ["/metrics"], then))
    assert len(gathered) == 2


def test_metrics_are_asked_of_the_nodes_and_not_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ray_rgcluster_queue 1\nelse 2\n")

        def log_message(self, *given: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Exporter) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        node = {
            "Alive": True, "NodeManagerAddress": "127.0.0.1", "MetricsExportPort": server.server_address[1],
        }  # fmt: skip
        monkeypatch.setattr(exposition, "ray", SimpleNamespace(nodes=lambda: [node]))
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        gathered = exposition._gather()
        server.shutdown()
    assert gathered == "ray_rgcluster_queue 1\n"
