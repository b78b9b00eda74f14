"""Who may call the endpoint: API key, Host, and Origin, under every root path."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from inside import run_inside
from ray import cloudpickle
from serving import settings_for
from starlette.applications import Starlette
from starlette.routing import Mount
from tiny import tiny_config
from typer.testing import CliRunner

from rgcluster.cli import app as command_line
from rgcluster.errors import ConfigError, UnknownId
from rgcluster.serve.backend import InProcess, ServedModel, describe
from rgcluster.serve.deploy import launch
from rgcluster.serve.deploy.deployments import build
from rgcluster.serve.http.application import create_app
from rgcluster.serve.settings import ServeSettings, settings_of, with_api_key

KEY = "open sesame"
ROOTS = ("", "/faces", "/proxy/faces", "/v1", "/v1/health")


@dataclass
class Answer:
    """What an ASGI application sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


async def call(
    app: FastAPI,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    root: str = "",
    query: bytes = b"",
) -> Answer:
    """Call the application as a server does whose applications lie below `root`."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.lower().encode(), v.encode()) for k, v in {"host": "localhost", **(headers or {})}.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": root, "query_string": query, "headers": raw,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], {k.decode().lower(): v.decode() for k, v in sent[0]["headers"]}, body)


def request(*arguments: Any, **options: Any) -> Answer:
    """`call` in an event loop of its own."""
    return asyncio.run(call(*arguments, **options))


def application(run: Path, **changes: Any) -> FastAPI:
    settings = settings_for(run, **changes)
    return create_app(settings, [describe("noise", str(run))], InProcess({}))


@pytest.fixture(scope="module")
def keyed(noise_run: Path) -> FastAPI:
    return application(noise_run, api_key=KEY)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of every route of the API."""
    return [
        (method, route.path.replace("{number}", "0"))
        for route in app.routes
        if isinstance(route, APIRoute) and route.path.startswith("/v1/")
        for method in sorted(route.methods)
    ]


ROUTES = routes(
    create_app(
        settings_of({"runs": {"noise": "/r"}}),
        [ServedModel("noise", "/r", tiny_config(), 9, "0")],
        InProcess({}),
    )
)
OPEN = {("GET", "/v1/health"), ("GET", "/v1/ready")}
BESIDES = [
    ("GET", "/metrics"), ("GET", "/v1/nothing"), ("GET", "/v1/domains/"), ("HEAD", "/v1/models"),
    ("OPTIONS", "/v1/models"), ("DELETE", "/v1/models"),
]  # fmt: skip
"""Requests that no route of the API takes: the key is looked at first."""
FOREIGN = {"X-API-Key": KEY, "Host": "evil.example"}


def test_the_matrix_covers_the_real_routes() -> None:
    assert {("POST", "/v1/translate"), ("GET", "/v1/neighbors"), ("GET", "/v1/domains"), *OPEN} <= set(ROUTES)
    assert len(ROUTES) == 11


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(("method", "path"), [*ROUTES, *BESIDES])
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({}, 401, "no_key", id="no key"),
        pytest.param({"X-API-Key": "wrong key"}, 401, "no_key", id="wrong key"),
        pytest.param({"Authorization": "Bearer wrong"}, 401, "no_key", id="wrong bearer"),
        pytest.param({"X-API-Key": "\u00e9"}, 401, "no_key", id="wrong letters"),
        pytest.param(FOREIGN, 400, "foreign_host", id="foreign host"),
    ],
)
def test_no_route_is_reached_without_the_key_or_at_a_foreign_host(
    keyed: FastAPI, headers: dict[str, str], status: int, code: str, method: str, path: str, root: str
) -> None:
    if (method, path) in OPEN and headers is not FOREIGN:
        assert request(keyed, root + path, method, headers, root).status == 200
        return
    for full in (root + path, path, "/" + path):  # servers leave the root path on, or take it off
        answer = request(keyed, full, method, headers, root)
        assert (answer.status, answer.code) == (status, code), full


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "wrong key"}, FOREIGN], ids=["no key", "wrong key", "host"]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_is_reached_where_another_application_mounts_it(
    keyed: FastAPI, method: str, path: str, headers: dict[str, str]
) -> None:
    mounted: Any = Starlette(routes=[Mount("/faces", keyed)])
    answer = request(mounted, f"/faces{path}", method, headers)
    if (method, path) in OPEN and headers is not FOREIGN:
        assert answer.status == 200
    else:
        assert answer.code == ("foreign_host" if headers is FOREIGN else "no_key")


def test_a_websocket_is_closed(keyed: FastAPI) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/domains", "root_path": "", "query_string": b"", "headers": []}
    asyncio.run(keyed(scope, lambda: asyncio.sleep(0, {"type": "websocket.connect"}), send))
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("root", ROOTS)
def test_the_key_opens_every_root_path_and_the_page_needs_none(keyed: FastAPI, root: str) -> None:
    assert request(keyed, f"{root}/v1/domains", headers={"X-API-Key": KEY}, root=root).status == 200
    assert (
        request(keyed, f"{root}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, root=root).status
        == 200
    )
    for path in ("/", "/page.js", "/style.css", "/openapi.json"):
        assert request(keyed, root + path, root=root).status == 200
    assert request(keyed, f"{root}/v1/health", root=root).status == 200
    if root:
        assert request(keyed, root, root=root).headers["location"] == f"http://localhost{root}/"


def test_the_key_is_in_no_dump_and_no_repr(noise_run: Path) -> None:
    settings = settings_for(noise_run, api_key=KEY)
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert KEY not in text
    for copy in (pickle.loads(pickle.dumps(settings)), cloudpickle.loads(cloudpickle.dumps(settings))):
        assert copy.api_key.get_secret_value() == KEY, "replicas get the key"


@pytest.mark.parametrize("key", ["brief", "sch\u00fcsselchen", "two\nlines of it"])
def test_a_key_that_does_not_fit_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key") as refused:
        settings_of({"runs": {"a": "x"}, "api_key": key})
    assert key not in str(refused.value) and repr(key) not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "api_key: 12345678",
        "api_key: [12345678]",
        "api_key: '12345678",
        "api_key: {a: 12345678}",
        "api_key: 12345678: 1",
    ],
)
def test_a_settings_file_that_is_wrong_is_refused_without_quoting_the_key(text: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"runs: {{a: /r}}\n{text}\n")
    status, errors = run_inside("serve", "--run", "/r", "--config", str(file))
    assert status == 2 and "12345678" not in errors and str(file) in errors, errors


def test_the_key_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise_run: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("from the file\n")
    settings = settings_of({"runs": {"noise": str(noise_run)}, "api_key_file": str(file)})
    monkeypatch.delenv("RGCLUSTER_API_KEY", raising=False)
    found = with_api_key(settings).api_key
    assert found and found.get_secret_value() == "from the file"
    monkeypatch.setenv("RGCLUSTER_API_KEY", KEY)
    found = with_api_key(settings).api_key
    assert found and found.get_secret_value() == KEY
    monkeypatch.delenv("RGCLUSTER_API_KEY")
    file.write_text("\n")
    with pytest.raises(ConfigError, match="the file is empty"):
        with_api_key(settings)
    with pytest.raises(ConfigError, match="No such file"):
        with_api_key(settings.model_copy(update={"api_key_file": str(tmp_path / "none")}))


def test_the_key_is_refused_where_others_can_read_it(noise_run: Path) -> None:
    with pytest.raises(ConfigError, match="RGCLUSTER_API_KEY"):
        settings_of({"runs": {"a": "x"}}, [f"api_key={KEY}"])
    with pytest.raises(ConfigError, match="RGCLUSTER_API_KEY"):
        settings_of({"runs": {"a": "x"}}, [f" api_key.x ={KEY}"])
    with pytest.raises(ConfigError, match="api_key_file"):
        build({"runs": {"noise": str(noise_run)}, "api_key": KEY})


def test_a_dry_run_does_not_print_the_key(noise_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RGCLUSTER_API_KEY", KEY)
    printed = CliRunner().invoke(command_line, ["serve", "--run", str(noise_run), "--dry-run"])
    assert printed.exit_code == 0 and KEY not in printed.output and "api_key: (set)" in printed.output


@pytest.fixture(scope="module")
def plain(noise_run: Path) -> FastAPI:
    return application(noise_run)


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example",
        "evil.example@localhost", "localhost/evil", "localhost#x", "", "[::1", "localhost:port", "[evil]",
    ],
)  # fmt: skip
def test_a_foreign_host_is_refused(plain: FastAPI, root: str, host: str) -> None:
    for method, path in [*ROUTES, ("GET", "/"), ("OPTIONS", "/v1/models")]:
        answer = request(plain, root + path, method, {"host": host}, root)
        assert (answer.status, answer.code) == (400, "foreign_host")
    assert "--allowed-host" in answer.body.decode()


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST.", "faces.localhost:1", "127.0.0.1:8000", "[::1]:8000", "[::1]",
        "192.0.2.7:8000",
    ],
)  # fmt: skip
def test_localhost_and_ip_addresses_are_answered(plain: FastAPI, host: str) -> None:
    assert request(plain, "/v1/models", headers={"host": host}).status == 200


def test_allowed_hosts_are_answered_and_no_others(noise_run: Path) -> None:
    app = application(noise_run, allowed_hosts=["Faces.example", "*.lab.example"])
    for host, status in {
        "faces.example": 200, "faces.example:443": 200, "a.lab.example": 200, "lab.example": 400,
        "evil.example": 400, "x.faces.example": 400, "evillab.example": 400, "localhost": 200,
    }.items():  # fmt: skip
        assert request(app, "/v1/models", headers={"host": host}).status == status, host
    anybody = application(noise_run, allowed_hosts=["*"])
    assert request(anybody, "/v1/models", headers={"host": "whatever.example"}).status == 200


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:9000",
        "http://localhost.evil.example",
        "http://[",
        "x",
    ],
)
def test_pages_of_other_origins_are_refused(plain: FastAPI, root: str, origin: str) -> None:
    for method, path in [*ROUTES, ("OPTIONS", "/v1/translate")]:
        headers = {"host": "localhost:8000", "origin": origin, "access-control-request-method": "POST"}
        answer = request(plain, root + path, method, headers, root)
        assert (answer.status, answer.code) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "no-cors", 200),
        ("none", "navigate", 200),
    ],
)
def test_pages_of_other_origins_embed_nothing(plain: FastAPI, site: str, mode: str, status: int) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    for path in ("/v1/models", "/"):
        assert request(plain, path, headers=headers).status == status


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("faces.example", "https://faces.example"),
        ("faces.example:443", "https://faces.example"),
    ],
)
def test_the_page_itself_may_call(noise_run: Path, host: str, origin: str) -> None:
    app = application(noise_run, allowed_hosts=["faces.example"])
    assert request(app, "/v1/models", headers={"host": host, "origin": origin}).status == 200


def test_allowed_origins_get_their_preflight_answered(noise_run: Path) -> None:
    origin = "https://lab.example"
    app = application(noise_run, api_key=KEY, allowed_origins=[origin])
    preflight = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key",
    }
    answer = request(app, "/v1/translate", "OPTIONS", preflight)
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == origin
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-api-key" in answer.headers["access-control-allow-headers"].lower()
    for headers, status in (({}, 401), ({"X-API-Key": KEY}, 200)):
        answer = request(app, "/v1/models", headers={"origin": origin, **headers})
        assert answer.status == status and answer.headers["access-control-allow-origin"] == origin
    refused = request(app, "/v1/translate", "OPTIONS", {**preflight, "origin": "https://evil.example"})
    assert (refused.status, refused.code) == (403, "foreign_origin")
    assert request(app, "/v1/models", "OPTIONS", {"X-API-Key": KEY}).status == 405, "no preflight"


def test_every_origin_can_be_allowed(noise_run: Path) -> None:
    app = application(noise_run, allowed_origins=["*"])
    answer = request(app, "/v1/models", headers={"origin": "https://any.example"})
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allowed_hosts", "http://faces.example"), ("allowed_hosts", "faces.example:80"), ("allowed_hosts", "a*b"),
        ("allowed_origins", "lab.example"), ("allowed_origins", "https://lab.example/"),
        ("allowed_origins", "https://*.example"),
    ],
)  # fmt: skip
def test_malformed_hosts_and_origins_are_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match="is no (host name|origin): write"):
        settings_of({"runs": {"a": "x"}, key: [value]})


def test_hosts_are_allowed_on_the_command_line(noise_run: Path) -> None:
    line = ["serve", "--run", str(noise_run), "--dry-run", "--allowed-host", "a.example"]
    printed = CliRunner().invoke(command_line, [*line, "--allowed-host", "*.b.example"])
    assert printed.exit_code == 0, printed.output
    assert yaml.safe_load(printed.output)["allowed_hosts"] == ["a.example", "*.b.example"]


def test_the_host_that_is_listened_on_is_allowed(noise_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[ServeSettings] = []
    monkeypatch.setattr("rgcluster.serve.deploy.deployments.build_proxied", deployed.append)
    monkeypatch.setattr(launch, "_run", lambda application, route: None)
    launch.DeployedEndpoint("http://faces.example:8000", None, "Faces.example").deploy(
        settings_for(noise_run)
    )
    launch.DeployedEndpoint("http://[::1]:8000", None, "::1").deploy(settings_for(noise_run))
    assert [settings.allowed_hosts for settings in deployed] == [("faces.example",), ()]


class Waiting(InProcess):
    """A backend whose store answers once `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def stored_image(self, name: str, row_id: int) -> Any:
        await self.release.wait()
        raise UnknownId("no image")


def test_a_stored_image_takes_a_slot_before_it_is_fetched(noise_run: Path) -> None:
    settings = settings_for(noise_run, limits={"waiting": 1})

    async def statuses() -> list[int]:
        backend = Waiting()
        app = create_app(settings, [describe("noise", str(noise_run))], backend)
        first = asyncio.create_task(call(app, "/v1/neighbors", query=b"id=8"))
        await asyncio.sleep(0.1)
        second = await call(app, "/v1/neighbors", query=b"id=8")
        backend.release.set()
        return [(await first).status, second.status]

    assert asyncio.run(statuses()) == [404, 429]
