"""Safe decoding of untrusted images, and resizing to the shape of training images."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from rgcluster.config import DataConfig
from rgcluster.data.fit import fit_image
from rgcluster.data.fits import Fit
from rgcluster.data.images import UNREADABLE, UInt8Array, reason, upright_rgb
from rgcluster.data.kinds import image_kind
from rgcluster.serve.http.errors import invalid, too_large
from rgcluster.serve.settings import Limits

__all__ = ["as_base64", "as_png", "decode_image", "open_image", "read_picture"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SMALLEST_SIDE = 8
LARGE_SIDE = 2048
PNG_LEVEL = 1
"""Fastest zlib level: level 6 takes three times as long and saves a tenth of the size."""


def read_picture(
    content: bytes, data: DataConfig, fit: Fit, limits: Limits, field: str = "image"
) -> UInt8Array:
    """Return an uploaded image as a training image, uint8 [size, size, 3].

    ApiError 413 for too many pixels, checked in the header before decoding; 422 for content that is not an
    image, is truncated, or is animated.
    """
    return decode_image(open_image(content, limits, field), data, fit, limits, field)


def open_image(content: bytes, limits: Limits, field: str) -> Image.Image:
    """Return an uploaded image of which only the header was read; errors as `read_picture`."""
    if not content:
        raise invalid("no_image", "the image is empty", field, "send a JPEG, PNG or WebP image")
    with _faults(limits, field, content):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check(image, limits, field)
        return image


def decode_image(image: Image.Image, data: DataConfig, fit: Fit, limits: Limits, field: str) -> UInt8Array:
    """Return an opened image as a training image; errors as `read_picture`."""
    with _faults(limits, field), image:
        if image.format in ("JPEG", "MPO") and min(image.size) > LARGE_SIDE and fit != "crop":
            image.draft("RGB", (LARGE_SIDE // 2, LARGE_SIDE // 2))
        return fit_image(upright_rgb(image), data, fit)


@contextmanager
def _faults(limits: Limits, field: str, content: bytes = b"") -> Iterator[None]:
    """Convert the exceptions of the decoder to ApiError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise invalid(
            "not_an_image", _not_supported(content), field,
            f"send one of {', '.join(FORMATS)}",
        ) from None  # fmt: skip
    except Image.DecompressionBombError:  # Pillow's own limit, raised while it reads the header
        raise too_large(
            "too_many_pixels", f"the limit is {limits.megapixels:g} million pixels", field, "send it smaller"
        ) from None
    except UNREADABLE as error:
        raise invalid(
            "unreadable_image", f"the image cannot be decoded ({reason(error)})", field,
            "it is truncated or damaged: save it again as PNG or JPEG",
        ) from None  # fmt: skip


def _not_supported(content: bytes) -> str:
    kind = image_kind(content)
    return (
        f"the content is {kind}, which is not supported"
        if kind
        else "the content is not an image in a supported format"
    )


def _check(image: Image.Image, limits: Limits, field: str) -> None:
    pixels = image.width * image.height
    if pixels > limits.megapixels * 1e6:
        raise too_large(
            "too_many_pixels",
            f"the image has {image.width} x {image.height} pixels, the limit is {limits.megapixels:g} million",
            field,
            "send it smaller",
        )
    if min(image.size) < SMALLEST_SIDE:
        raise invalid(
            "too_small", f"the image has {image.width} x {image.height} pixels", field,
            f"send one of at least {SMALLEST_SIDE} x {SMALLEST_SIDE}",
        )  # fmt: skip
    # A camera's MPO holds pictures for two eyes, or a preview: the first counts, as on the command line.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise invalid("animated", "the image is an animation", field, "send a still image")


def as_png(image: UInt8Array) -> bytes:
    """Return an image [h, w, 3], or a mask [h, w], as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def as_base64(image: UInt8Array) -> str:
    """Return an image as PNG in base64, for JSON."""
    return base64.b64encode(as_png(image)).decode()
