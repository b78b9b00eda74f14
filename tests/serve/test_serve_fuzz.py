"""Whatever bytes come, the answer is a picture or a fault of the client's, never of the server's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import encoded, endpoint_of, post
from untrained import noise_images

from rgcluster.config import DataConfig
from rgcluster.data.fits import FITS
from rgcluster.serve.http.errors import ApiError
from rgcluster.serve.http.pictures import read_picture
from rgcluster.serve.settings import Limits

PICTURE = noise_images(1, 40)[0]
FILES = {kind: encoded(PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")}
DATA = DataConfig(image_size=32)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file with bytes changed, cut out, put in or cut off."""
    content = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 8))):
        # Headers decide most: half of the changes are made there.
        place = draw(st.integers(0, 64) | st.integers(0, len(content)))
        change = draw(st.sampled_from(("set", "cut", "insert", "truncate")))
        if change == "set" and place < len(content):
            content[place] = draw(st.integers(0, 255))
        elif change == "cut":
            del content[place : place + draw(st.integers(1, 64))]
        elif change == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif change == "truncate" and place > 8:
            del content[place:]
    return bytes(content)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(damaged() | st.binary(max_size=400), st.sampled_from(sorted(FITS)))
def test_bytes_become_a_picture_or_a_fault_of_the_client(content: bytes, fit: str) -> None:
    try:
        picture = read_picture(content, DATA, fit, Limits(megapixels=2))  # type: ignore[arg-type]
    except ApiError as error:
        assert error.status in (413, 422) and error.detail.remedy
    else:
        assert picture.shape == (32, 32, 3) and picture.dtype == "uint8"


@given(st.integers(8, 90), st.integers(8, 90), st.sampled_from(sorted(FITS)), st.sampled_from(sorted(FILES)))
@settings(max_examples=60)
def test_every_shape_fits(width: int, height: int, fit: str, kind: str) -> None:
    picture = noise_images(1, 96)[0][:height, :width]
    made = read_picture(encoded(picture, kind), DATA, fit, Limits())  # type: ignore[arg-type]
    assert made.shape == (32, 32, 3)


@pytest.fixture(scope="module")
def address(noise_run: Path) -> Iterator[str]:
    with endpoint_of(noise_run) as found:
        yield found


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    content=damaged() | st.binary(max_size=200),
    kind=st.sampled_from(
        ("image/png", "image/jpeg", "application/octet-stream", "multipart/form-data; boundary=x")
    )
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    target=st.text(max_size=30) | st.sampled_from(("Male", "-Young", "0,1,0,1,1", "")),
    path=st.sampled_from(("translate", "interpolate", "reference", "neighbors")),
)
def test_no_request_fails_the_server(address: str, content: bytes, kind: str, target: str, path: str) -> None:
    name = "end" if path == "interpolate" else "target"
    answer = post(address, path, content, kind, **{name: target})
    assert answer.status_code < 500
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["code"] and error["message"] and error["remedy"]


@pytest.mark.long
def test_the_description_and_the_endpoint_agree(address: str) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    ]  # fmt: skip
    for kind in ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"):
        file = FILES[kind.removeprefix("image/").upper()]
        schemathesis.openapi.media_type(kind, st.just(file) | damaged())
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    succeeded, tried = set(), set()

    def check(operation: object) -> None:
        @settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
        @given(case=operation.as_strategy())  # type: ignore[attr-defined]
        def conforms(case: object) -> None:
            answer = case.call()  # type: ignore[attr-defined]
            tried.add(operation.label)  # type: ignore[attr-defined]
            if answer.status_code == 200:
                succeeded.add(operation.label)  # type: ignore[attr-defined]
            case.validate_response(answer, checks=checks)  # type: ignore[attr-defined]

        conforms()

    for result in schema.get_all_operations():
        check(result.ok())
    assert len(tried) == 11
    assert len(succeeded) >= 6, succeeded
