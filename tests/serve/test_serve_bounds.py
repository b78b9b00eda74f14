"""Everything that costs takes a place first: metrics, stored images by id, examples, the check of readiness."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from serving import settings_for

from rgcluster.serve import exposition
from rgcluster.serve.backend import describe
from rgcluster.serve.http.application import create_app


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


async def get(app: FastAPI, url: str) -> Answer:
    """Call the application as a server does."""
    path, _, query = url.partition("?")
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    answer = Answer()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

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
