"""Request bodies, with limits on size and time enforced during reading. Nothing is written to disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from rgcluster.serve.http.errors import ApiError, invalid, too_large
from rgcluster.serve.settings import Limits

__all__ = ["IMAGE_TYPES", "Upload", "read_upload"]

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp")
RAW_TYPES = (*IMAGE_TYPES, "application/octet-stream")
MULTIPART = "multipart/form-data"
FILES = ("image", "reference")
MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096


@dataclass
class Upload:
    """The images of a request by part name, and the form's other fields."""

    images: dict[str, bytes]
    fields: dict[str, str] = field(default_factory=dict)


class _InMemory(MultiPartParser):
    """Keeps parts in memory, where the whole body already is; never spools them to disk."""

    spool_max_size = 1 << 40


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Read and parse the request body; ApiError 408, 413, 415 or 422 where it is slow, large or malformed."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != MULTIPART and kind not in RAW_TYPES:
        what = f"content type {kind!r}" if kind else "no content type"
        raise ApiError(
            415, "unsupported_media_type", f"{what} cannot be read", field="Content-Type",
            remedy=f"send the image itself as one of {', '.join(RAW_TYPES)}, or as part 'image' of {MULTIPART}",
        )  # fmt: skip
    body = await _read_body(request, limits)
    if kind != MULTIPART:
        if not body:
            raise invalid("no_image", "the body is empty", "image", "send an image as the body")
        return Upload({"image": body})
    return await _parse_form(request, body)


async def _read_body(request: Request, limits: Limits) -> bytes:
    limit = int(limits.body_mib * 2**20)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _body_too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _body_too_large(limits)
    except TimeoutError:
        raise ApiError(
            408, "too_slow", f"the body did not arrive within {limits.upload_seconds:g} s",
            remedy="send it again, faster or smaller", headers={"Connection": "close"},
        ) from None  # fmt: skip
    except ClientDisconnect:
        raise invalid(
            "incomplete", "the connection ended before the body did", None, "send it again"
        ) from None
    return bytes(body)


def _body_too_large(limits: Limits) -> ApiError:
    return too_large(
        "body_too_large", f"the body is larger than {limits.body_mib:g} MiB", None, "send a smaller image"
    )


async def _parse_form(request: Request, body: bytes) -> Upload:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    parser = _InMemory(
        request.headers, stream(), max_files=len(FILES), max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
        for name, value in form.multi_items():
            # By its charset a form can hold what UTF-8, and so an answer, cannot.
            (name if isinstance(value, UploadFile) else name + value).encode()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        message = getattr(error, "message", None) or "a part is malformed"
        raise invalid(
            "malformed_form", f"the form cannot be read: {message.rstrip('.')}", None,
            f"send {MULTIPART} with a file 'image'",
        ) from None  # fmt: skip
    upload = Upload({})
    for name, value in form.multi_items():
        if name in upload.images or name in upload.fields:
            raise invalid("given_twice", f"{name!r} is given twice", name, "give it once")
        if isinstance(value, UploadFile):
            if name not in FILES:
                raise invalid(
                    "unknown_part", f"no file {name!r} is expected", name, f"name it {' or '.join(FILES)}"
                )
            upload.images[name] = await value.read()
        elif name in FILES:
            raise invalid("no_image", f"{name!r} is text, not a file", name, "send it as a file")
        else:
            upload.fields[name] = value
    await form.close()
    return upload
