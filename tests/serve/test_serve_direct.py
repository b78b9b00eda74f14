"""HTTP without a proxy: when it is chosen, and the socket that outlives those who accept on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from nodes import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rgcluster.base.placement import Node
from rgcluster.errors import ConfigError, RGClusterError
from rgcluster.serve.deploy.listening import ListeningSocket, receive_socket
from rgcluster.serve.deploy.plan import serves_directly
from rgcluster.serve.deploy.server import Server
from rgcluster.serve.settings import settings_of

ONE, GPU = [Node(2.0)], [Node(8.0, 1.0)]


@pytest.mark.parametrize(
    ("settings", "nodes", "direct"),
    [
        ({}, ONE, True),
        ({}, GPU, True),
        ({}, [*ONE, *ONE], False),
        ({"fronts": 2}, ONE, False),
        ({"max_replicas": 2}, ONE, False),
        ({"http": "proxy"}, ONE, False),
        ({"http": "direct"}, [*ONE, *ONE], True),
        ({"runs": {"a": "x", "b": "y"}}, ONE, True),
        ({"runs": {"a": "x", "b": "y"}}, GPU, False),
        ({"runs": {"a": "x", "b": "y"}, "gpus": 0.5}, GPU, True),
    ],
)
def test_one_replica_on_one_machine_needs_no_proxy(
    settings: dict[str, Any], nodes: list[Node], direct: bool
) -> None:
    assert serves_directly(settings_of({"runs": {"a": "x"}, **settings}), nodes) is direct


@pytest.fixture
def listener() -> Iterator[ListeningSocket]:
    made = ListeningSocket("127.0.0.1", free_port())
    yield made
    made.close()


def answering(listener: ListeningSocket, text: str) -> Server:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(text)

    return Server(Starlette(routes=[Route("/", answer)]), receive_socket(listener.path), 5.0)


def address(listener: ListeningSocket) -> str:
    return f"http://127.0.0.1:{listener.port}/"


def test_a_connection_waits_until_it_is_accepted(listener: ListeningSocket) -> None:
    waiting: list[str] = []
    client = threading.Thread(target=lambda: waiting.append(requests.get(address(listener), timeout=30).text))
    client.start()
    client.join(0.2)
    assert client.is_alive()
    server = answering(listener, "at last")
    client.join(30)
    server.stop()
    assert waiting == ["at last"]


def test_one_follows_another_and_no_request_fails(listener: ListeningSocket) -> None:
    answers: list[str] = []
    stop = threading.Event()

    def client(session: Any) -> None:
        while not stop.is_set():
            answer = session.get(address(listener), timeout=30)
            answers.append(answer.text if answer.ok else "failed")

    first = answering(listener, "first")
    # A session keeps its connection, and must be told that it ends.
    clients = [threading.Thread(target=client, args=(one,)) for one in (requests.Session(), requests)]
    for one in clients:
        one.start()
    while not answers:  # both accept from here on
        time.sleep(0.01)
    second = answering(listener, "second")
    first.stop()
    with pytest.raises(RGClusterError, match="has ended"):
        first.check()
    second.check()
    stop.set()
    for one in clients:
        one.join()
    second.stop()
    assert answers[0] == "first" and answers[-1] == "second" and set(answers) == {"first", "second"}


def test_a_port_in_use_is_reported_in_one_line(listener: ListeningSocket) -> None:
    with pytest.raises(ConfigError, match="choose another with --port or --host"):
        ListeningSocket("127.0.0.1", listener.port)
    listener.close()
    ListeningSocket("127.0.0.1", listener.port).close()
    with pytest.raises(OSError):
        receive_socket(listener.path)
