"""The endpoint's answers, good and bad, over real connections; translated in this process."""

from __future__ import annotations

import base64
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from serving import encoded, endpoint, endpoint_of, engine_for, post, settings_for
from untrained import noise_images

import rgcluster
from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.cli import finished
from rgcluster.errors import (
    ConfigError,
    EndpointError,
    RequestRefused,
    SomeFailed,
    StoreUnavailable,
    UserError,
)
from rgcluster.serve.backend import InProcess
from rgcluster.store.local import LocalStore
from rgcluster.translate.familiar import Familiarity

ALL = "0,1,0,1,1"


@pytest.fixture(scope="module")
def address(noise_run: Path) -> Iterator[str]:
    with endpoint_of(noise_run) as found:
        yield found


PIXELS = noise_images(1, 48, seed=3)[0]
IMAGE = encoded(PIXELS)


def pictures(texts: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in texts]).astype(
        int
    )


def test_a_translation_as_json(address: str) -> None:
    answer = post(address, "translate", IMAGE, target="Blond_Hair,-Young", samples=3, seed=5).json()
    assert answer["model"] == "noise" and answer["variant"] == "rg-unit" and not answer["degraded"]
    assert pictures(answer["images"]).shape == (3, 32, 32, 3)
    assert pictures(answer["masks"]).shape == (3, 32, 32)
    assert pictures([answer["input"]]).shape == (1, 32, 32, 3)
    (target,) = answer["targets"]
    assert target["Blond_Hair"] == 1 and target["Young"] == 0 and target["Black_Hair"] == 0
    assert set(answer["source"]) == set(target)
    for row in answer["neighbours"]:
        assert len(row) == 3 and len({one["id"] for one in row}) == 3
        assert [one["distance"] for one in row] == sorted(one["distance"] for one in row)
        assert (int(row[0]["id"]) - 1) % 7 == 0
    assert answer["timings"]["batch_rows"] == 3


def test_a_translation_as_png_is_its_samples_side_by_side(address: str) -> None:
    whole = post(address, "translate", IMAGE, target=ALL, samples=2, seed=1, format="png")
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["x-rgcluster-variant"] == "rg-unit"
    sheet = np.asarray(Image.open(io.BytesIO(whole.content))).astype(int)
    made = pictures(post(address, "translate", IMAGE, target=ALL, samples=2, seed=1).json()["images"])
    assert np.array_equal(sheet[:, :32], made[0]) and np.array_equal(sheet[:, 34:], made[1])
    by_header = post(address, "translate", IMAGE, headers={"Accept": "image/png"}, target=ALL)
    assert by_header.headers["content-type"] == "image/png"


def test_the_seed_decides_and_the_number_of_samples_does_not(address: str) -> None:
    def made(**query: Any) -> np.ndarray:
        return pictures(post(address, "translate", IMAGE, target=ALL, **query).json()["images"])

    first = made(seed=7, samples=2)
    assert np.array_equal(first, made(seed=7, samples=2))
    assert np.abs(first - made(seed=7, samples=5)[:2]).max() <= 2
    assert np.abs(first - made(seed=8, samples=2)).max() > 2
    assert np.abs(first[0] - first[1]).max() > 2


@pytest.mark.parametrize("guidance", ["on", "off", "random"])
def test_alone_or_among_others_the_same_picture(address: str, guidance: str) -> None:
    query: dict[str, Any] = {"target": "Male", "seed": 11, "guidance": guidance, "samples": 2}
    alone = post(address, "translate", IMAGE, **query).json()
    others = [encoded(picture) for picture in noise_images(12, 40, seed=9)]
    stop = threading.Event()

    def crowd(content: bytes, number: int) -> None:
        while not stop.is_set():
            kind = ("on", "off", "random")[number % 3]
            post(address, "translate", content, target="Young", samples=1 + number % 4, guidance=kind)

    threads = [threading.Thread(target=crowd, args=pair) for pair in zip(others, range(12), strict=True)]
    for thread in threads:
        thread.start()
    try:
        answers = [post(address, "translate", IMAGE, **query).json() for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert max(answer["timings"]["batch_rows"] for answer in answers) > 2
    for answer in answers:
        assert np.abs(pictures(answer["images"]) - pictures(alone["images"])).max() <= 2
        assert [[n["id"] for n in row] for row in answer["neighbours"]] == [
            [n["id"] for n in row] for row in alone["neighbours"]
        ]


def test_guidance_chooses_the_network_and_the_neighbours(address: str) -> None:
    made = {
        kind: post(address, "translate", IMAGE, target=ALL, guidance=kind).json()
        for kind in ("on", "off", "random")
    }
    assert [made[kind]["variant"] for kind in made] == ["rg-unit", "gmm-unit-continued", "rg-unit-random"]
    assert made["off"]["neighbours"] == []
    assert made["random"]["neighbours"][0][0]["distance"] is None
    seen = [pictures(made[kind]["images"]) for kind in made]
    assert np.abs(seen[0] - seen[1]).max() > 2 and np.abs(seen[0] - seen[2]).max() > 2


def test_a_vector_needs_no_look_at_the_image(address: str) -> None:
    answer = post(address, "translate", IMAGE, target=ALL).json()
    assert answer["source"] is None
    assert list(answer["targets"][0].values()) == [0, 1, 0, 1, 1]


def test_interpolation_ends_where_translations_are(address: str) -> None:
    way = post(address, "interpolate", IMAGE, start="1,0,0,0,1", end=ALL, steps=3).json()
    assert way["positions"] == [0.0, 0.5, 1.0]
    ends = [
        pictures(post(address, "translate", IMAGE, target=target).json()["images"])[0]
        for target in ("1,0,0,0,1", ALL)
    ]
    made = pictures(way["images"])
    assert np.abs(made[0] - ends[0]).max() <= 2 and np.abs(made[2] - ends[1]).max() <= 2
    assert np.abs(made[1] - ends[0]).max() > 2


def test_reference_takes_the_style_of_the_second_image(address: str) -> None:
    def made(reference: bytes) -> np.ndarray:
        parts = {"image": ("a.png", IMAGE), "reference": ("b.png", reference)}
        answer = requests.post(f"{address}/v1/reference", files=parts, timeout=60).json()
        return pictures(answer["images"])

    one, other = (encoded(picture) for picture in noise_images(2, 40, seed=6))
    assert np.array_equal(made(one), made(one))
    assert np.abs(made(one) - made(other)).max() > 0


def test_forms_may_hold_the_parameters(address: str) -> None:
    form = requests.post(
        f"{address}/v1/translate",
        files={"image": ("a.png", IMAGE)},
        data={"target": ALL, "samples": "2"},
        timeout=60,
    ).json()
    raw = post(address, "translate", IMAGE, target=ALL, samples=2).json()
    assert form["images"] == raw["images"]


def test_neighbours_of_an_image_and_of_a_stored_one(address: str) -> None:
    found = post(address, "neighbors", IMAGE, target=ALL, count=4).json()["neighbours"]
    assert len(found) == 4 and found[0]["image"]
    stored = found[0]["id"]
    listed = requests.get(
        f"{address}/v1/neighbors", {"id": stored, "count": 5, "images": "no"}, timeout=60
    ).json()
    assert stored not in [one["id"] for one in listed["neighbours"]]
    assert len(listed["neighbours"]) == 5 and listed["neighbours"][0]["image"] is None


def test_served_models_are_described(address: str) -> None:
    domains = requests.get(f"{address}/v1/domains", timeout=60).json()
    assert domains["attributes"][1] == "Blond_Hair" and len(domains["exclusive"][0]) == 3
    (model,) = requests.get(f"{address}/v1/models", timeout=60).json()["models"]
    assert model["variants"] == {"on": "rg-unit", "off": "gmm-unit-continued", "random": "rg-unit-random"}
    examples = requests.get(f"{address}/v1/examples", timeout=60).json()["examples"]
    first = requests.get(address + examples[0]["url"], timeout=60)
    assert Image.open(io.BytesIO(first.content)).size == (32, 32)
    assert requests.get(f"{address}/v1/ready", timeout=60).json()["models"] == {"noise": True}
    assert requests.get(f"{address}/v1/health", timeout=60).status_code == 200


def test_an_unusual_image_gets_a_warning(address: str) -> None:
    like = encoded(noise_images(40, 32)[5])  # one of the store's own
    strange = encoded(np.tile(np.eye(32, dtype=np.uint8)[..., None] * 255, (1, 1, 3)))
    near, far = (post(address, "translate", image, target=ALL).json() for image in (like, strange))
    assert near["unlikeness"] < far["unlikeness"]
    for answer in (near, far):
        assert bool(answer["warnings"]) == (answer["unlikeness"] > 1)


def test_familiar_contents_are_near_and_strange_ones_far() -> None:
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(80, 4, 16, 16, generator=generator)
    familiarity = Familiarity(usual[:60], usual[60:])
    assert familiarity.distance(usual[:2]).max() < 1e-2
    assert familiarity.distance(usual[60:]).median() < 1
    assert familiarity.distance(usual[:3] * 0 + 3).min() > 1.5


def test_the_openapi_description_has_every_path_with_its_faults(address: str) -> None:
    described = requests.get(f"{address}/openapi.json", timeout=60).json()
    paths = described["paths"]
    assert {path.removeprefix("/v1/") for path in paths} == {
        "translate", "interpolate", "reference", "neighbors", "domains", "models", "examples",
        "examples/{number}", "health", "ready",
    }  # fmt: skip
    for operations in paths.values():
        for operation in operations.values():
            assert {"200", "422", "429", "503"} <= set(operation["responses"]) and operation["summary"]
    translate = paths["/v1/translate"]["post"]
    assert {"image/png", "multipart/form-data"} <= set(translate["requestBody"]["content"])
    assert "example" in next(one for one in translate["parameters"] if one["name"] == "target")


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few kB that unfolds to width x height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(((width + 7) // 8 + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def part(name: str, file: str = "", content: str = "hi") -> bytes:
    """A form with one part."""
    about = f'form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return f"--x\r\nContent-Disposition: {about}\r\n\r\n{content}\r\n--x--\r\n".encode()


ESCAPES = "multipart/form-data; boundary=x; charset=unicode_escape"
"""A charset by which a form can hold what UTF-8 cannot."""


def animation() -> bytes:
    frames = [Image.fromarray(picture) for picture in noise_images(3, 32)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "query", "status", "code", "field"),
    [
        (b"a letter to a friend", {}, 422, "not_an_image", "image"),
        (b"", {}, 422, "no_image", "image"),
        (IMAGE[:400], {}, 422, "unreadable_image", "image"),
        (encoded(PIXELS, "JPEG")[:500], {}, 422, "unreadable_image", "image"),
        (huge_png(10_000, 10_000), {}, 413, "too_many_pixels", "image"),
        (huge_png(60_000, 60_000), {}, 413, "too_many_pixels", "image"),
        (encoded(PIXELS[:4]), {}, 422, "too_small", "image"),
        (animation(), {}, 422, "animated", "image"),
        (encoded(PIXELS, "TIFF"), {}, 422, "not_an_image", "image"),
        (encoded(PIXELS, "AVIF"), {}, 422, "not_an_image", "image"),
        (IMAGE, {"target": "Blond_Hairs"}, 422, "unknown_attribute", "target"),
        (IMAGE, {"target": "Blond_Hair,Black_Hair"}, 422, "contradictory_target", "target"),
        (IMAGE, {"target": "Male,-Male"}, 422, "contradictory_target", "target"),
        (IMAGE, {"target": "1,1,0,0,0"}, 422, "contradictory_target", "target"),
        (IMAGE, {"target": "1,0,0"}, 422, "wrong_length", "target"),
        (IMAGE, {"target": None}, 422, "missing_parameter", "target"),
        (IMAGE, {"samples": 0}, 422, "invalid_parameter", "samples"),
        (IMAGE, {"samples": 17}, 422, "invalid_parameter", "samples"),
        (IMAGE, {"samples": 10**6}, 422, "invalid_parameter", "samples"),
        (IMAGE, {"samples": "many"}, 422, "invalid_parameter", "samples"),
        (IMAGE, {"seed": -1}, 422, "invalid_parameter", "seed"),
        (IMAGE, {"seed": 2**70}, 422, "invalid_parameter", "seed"),
        (IMAGE, {"guidance": "maybe"}, 422, "invalid_parameter", "guidance"),
        (IMAGE, {"sample": 2}, 422, "unknown_parameter", "sample"),
        (IMAGE, {"seed": [1, 2]}, 422, "given_twice", "seed"),
        (IMAGE, {"model": "nobody"}, 404, "unknown_model", "model"),
    ],
)
def test_errors_of_bad_requests_name_the_remedy(
    address: str, content: bytes, query: dict[str, Any], status: int, code: str, field: str
) -> None:
    answer = post(address, "translate", content, **{"target": ALL, **query})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)
    assert error["message"] and error["remedy"] and "Traceback" not in answer.text
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "v1/nothing", 404, "not_found"),
        ("GET", "v1/translate", 405, "method_not_allowed"),
        ("GET", "v1/neighbors?id=2", 404, "not_found"),
        ("GET", "v1/neighbors?id=8&count=60", 422, "invalid_parameter"),
        ("GET", "v1/neighbors?id=8&count=45", 422, "too_few_neighbours"),
        ("GET", "v1/neighbors?id=99999999999999999999", 422, "invalid_parameter"),
        ("GET", "v1/neighbors?id=9999999999999999999", 404, "not_found"),
        ("GET", "v1/examples/99", 404, "not_found"),
        ("GET", "v1/models?page=2", 422, "unknown_parameter"),
    ],
)
def test_other_faults_have_the_same_form(
    address: str, method: str, path: str, status: int, code: str
) -> None:
    answer = requests.request(method, f"{address}/{path}", timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (IMAGE, "text/plain", 415, "unsupported_media_type"),
        (IMAGE, "", 415, "unsupported_media_type"),
        (IMAGE, "multipart/form-data", 422, "malformed_form"),
        (IMAGE, "multipart/form-data; boundary=x", 422, None),
        (part("image"), "multipart/form-data; boundary=x", 422, "no_image"),
        (part("picture", "a.png"), "multipart/form-data; boundary=x", 422, "unknown_part"),
        (part("image", "a.png"), "multipart/form-data; boundary=x", 422, "not_an_image"),
        (part(r"\ud800"), ESCAPES, 422, "malformed_form"),
        (part(r"\ud800", "a.png"), ESCAPES, 422, "malformed_form"),
        (part("model", content=r"\ud800"), ESCAPES, 422, "malformed_form"),
    ],
)  # fmt: skip
def test_odd_bodies(address: str, content: bytes, kind: str, status: int, code: str | None) -> None:
    answer = post(address, "translate", content, kind, target=ALL)
    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code


def test_of_a_body_over_the_limit_the_rest_is_never_read(noise_run: Path) -> None:
    with endpoint_of(noise_run, limits={"body_mib": 0.1}) as address:
        host, port = address.removeprefix("http://").split(":")
        for head in (b"Content-Length: 10000000000", b"Transfer-Encoding: chunked"):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(
                    b"POST /v1/translate?target=Male HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                    + head
                    + b"\r\n\r\n"
                )
                if b"chunked" in head:
                    for _ in range(3):
                        connection.sendall(b"f000\r\n" + bytes(0xF000) + b"\r\n")
                answer = connection.recv(65536)
            assert b"413" in answer.split(b"\r\n")[0] and b"body_too_large" in answer


def test_a_slow_sender_is_let_go(noise_run: Path) -> None:
    with endpoint_of(noise_run, limits={"upload_seconds": 0.4}) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/translate?target=Male HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                b"Content-Length: 999\r\n\r\nab"
            )
            answer = connection.recv(65536)
        assert b" 408 " in answer.split(b"\r\n")[0] and b"too_slow" in answer


class Slow(InProcess):
    """A translator that takes its time."""

    async def translate(self, name: str, job: Any) -> Any:
        import asyncio

        await asyncio.sleep(0.5)
        return await super().translate(name, job)


def test_refused_requests_get_a_time_to_retry(noise_run: Path) -> None:
    settings = settings_for(noise_run, limits={"waiting": 2, "retry_after_s": 3})
    with endpoint(settings, Slow({"noise": engine_for(noise_run, settings)})) as address:
        answers: list[requests.Response] = []

        def ask() -> None:
            answers.append(post(address, "translate", IMAGE, target=ALL))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = sorted(answer.status_code for answer in answers)
        assert set(codes) == {200, 429} and codes.count(200) >= 2
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["retry-after"] == "3" and refused.json()["error"]["code"] == "busy"
        # A client with patience is served in the end.
        assert rgcluster.Client(address).translate(PIXELS, ALL).images.shape == (1, 32, 32, 3)


def test_an_answer_that_takes_too_long_is_given_up(noise_run: Path) -> None:
    settings = settings_for(noise_run, limits={"request_seconds": 0.1})
    with endpoint(settings, Slow({"noise": engine_for(noise_run, settings)})) as address:
        answer = post(address, "translate", IMAGE, target=ALL)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "too_late")


def test_a_key_is_required_if_there_is_one(noise_run: Path) -> None:
    with endpoint_of(noise_run, api_key="open sesame") as address:
        for headers in ({}, {"X-API-Key": "wrong key"}, {"Authorization": "Bearer wrong"}):
            answer = post(address, "translate", IMAGE, headers=headers, target=ALL)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "no_key")
        for headers in ({"X-API-Key": "open sesame"}, {"Authorization": "Bearer open sesame"}):
            assert post(address, "translate", IMAGE, headers=headers, target=ALL).status_code == 200
        assert requests.get(f"{address}/v1/health", timeout=60).status_code == 200
        with pytest.raises(RequestRefused, match="API key"):
            rgcluster.Client(address).models()
        assert rgcluster.Client(address, api_key="open sesame").models()[0]["name"] == "noise"


class Broken(LocalStore):
    """A store whose shards stopped answering."""

    down = False

    def _scatter(self, calls: Any, deadline: float) -> Any:
        if self.down:
            raise StoreUnavailable("shard 0 did not answer")
        return super()._scatter(calls, deadline)


@pytest.mark.parametrize("without_store", ["fail", "unguided"])
def test_without_its_store_it_fails_or_warns(noise_run: Path, without_store: str) -> None:
    settings = settings_for(noise_run, without_store=without_store)
    store = Broken(snapshot_of(Location(noise_run)))
    with endpoint(settings, InProcess({"noise": engine_for(noise_run, settings, store)})) as address:
        store.down = True
        answer = post(address, "translate", IMAGE, target=ALL)
        alone = post(address, "translate", IMAGE, target=ALL, guidance="off")
        assert alone.status_code == 200
        if without_store == "fail":
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"]
        else:
            told = answer.json()
            assert told["degraded"] and told["variant"] == "gmm-unit-continued" and told["guidance"] == "off"
            assert told["warnings"][0]["code"] == "unguided"
            assert told["images"] == alone.json()["images"]
        store.down = False
        assert not post(address, "translate", IMAGE, target=ALL).json()["degraded"]


def test_images_of_the_store_can_be_kept_back(noise_run: Path) -> None:
    with endpoint_of(noise_run, show_neighbours=False) as address:
        answer = post(address, "translate", IMAGE, target=ALL).json()
        assert answer["neighbours"][0][0]["image"] is None and answer["neighbours"][0][0]["id"]
        found = post(address, "neighbors", IMAGE, target=ALL).json()["neighbours"]
        assert found[0]["image"] is None


def test_the_client_in_a_few_lines(address: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(IMAGE)
    with rgcluster.Client(address) as client:
        assert client.ready()
        made = client.translate(file, "Blond_Hair,-Young", samples=2, seed=4)
        assert made.images.shape == (2, 32, 32, 3) and made.masks.shape == (2, 32, 32)
        assert len(made.neighbours[0]) == 3 and made.neighbours[0][0].image is not None
        assert np.array_equal(
            made.images, client.translate(PIXELS, "Blond_Hair,-Young", samples=2, seed=4).images
        )
        assert client.interpolate(file, ALL, start="Black_Hair", steps=3).images.shape[0] == 3
        assert client.reference(file, IMAGE).images.shape == (1, 32, 32, 3)
        assert len(client.neighbours(file, "Male", count=2)) == 2
        assert "Male" in client.domains()["attributes"]
        with pytest.raises(RequestRefused, match="did you mean 'Blond_Hair'"):
            client.translate(file, "Blond_Hairs")
    elsewhere = rgcluster.Client(f"{address}/v1")
    with pytest.raises(
        RequestRefused, match="/v1/v1/domains: not found; an endpoint's address is what `rgclus"
    ):
        elsewhere.domains()
    start = time.monotonic()
    with pytest.raises(EndpointError, match="is the endpoint running"):
        rgcluster.Client("http://127.0.0.1:9", patience=1).models()
    assert time.monotonic() - start < 30


def test_the_endpoint_and_the_run_itself_give_the_same_pictures(
    address: str, noise_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(IMAGE)
    for samples, seed in ((1, 0), (3, 9)):
        made = [
            list(
                finished.translate(
                    [file], run, url, "Male,-Young", tmp_path / f"{number}.png", samples, seed, None
                )
            )
            for number, (run, url) in enumerate(((noise_run, None), (None, address)))
        ]
        sheets = [np.asarray(Image.open(paths[0])).astype(int) for paths in made]
        assert np.abs(sheets[0] - sheets[1]).max() <= 2
    with pytest.raises(ConfigError, match="either --run"):
        list(finished.translate([file], None, None, "Male", tmp_path, 1, 0, None))


@pytest.mark.parametrize("kind", ["run", "url"])
def test_of_several_images_the_good_ones_are_done_and_the_bad_listed(
    kind: str, address: str, noise_run: Path, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name, content in (("a.png", IMAGE), ("b.png", IMAGE[:300]), ("c.jpg", b"words"), ("d.png", IMAGE)):
        (photos / name).write_bytes(content)
    files = [*sorted(photos.iterdir()), photos, photos / "e.png"]
    where = (str(noise_run), None) if kind == "run" else (None, address)
    written = []
    with pytest.raises(SomeFailed) as caught:
        for path in finished.translate(files, *where, "Male", out, 1, 0, None):
            written.append(path.name)
    message = str(caught.value)
    assert written == ["a.png", "d.png"] and sorted(path.name for path in out.iterdir()) == written
    assert message.startswith("4 of 6 images were not translated: ") and caught.value.exit_status == 1
    for words in ("b.png: ", "c.jpg: ", f"{photos}: a folder, not an image", "e.png: no such file"):
        assert words in message
    # What is wrong with the request is said once.
    with pytest.raises(
        UserError, match="no attribute 'Smiling'; the attributes are Black_Hair, .* Young"
    ) as told:
        list(finished.translate(files, *where, "Smiling", out, 1, 0, None))
    assert told.value.exit_status == 2


def test_several_images_need_a_folder_and_names_of_their_own(noise_run: Path, tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(IMAGE)
    same = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    with pytest.raises(ConfigError, match="2 of the images are called x; translate them one by one"):
        list(finished.translate(same, str(noise_run), None, "Male", tmp_path / "out", 1, 0, None))
    two = [tmp_path / "a" / "x.png", tmp_path / "b" / "y.png"]
    for out in (tmp_path / "out.png", tmp_path / "a" / "x.png"):
        with pytest.raises(ConfigError, match="several images need a folder, not one file"):
            list(finished.translate(two, str(noise_run), None, "Male", out, 1, 0, None))
    assert not (tmp_path / "out.png").exists()
