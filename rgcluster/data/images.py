"""Decoding of training images, and encoding of pictures."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from rgcluster.data.kinds import image_kind, mistaken_for_image
from rgcluster.errors import ConfigError, DataError

with suppress(ImportError):  # an extra: Pillow itself reads no HEIC
    from pillow_heif import register_heif_opener

    register_heif_opener()

__all__ = [
    "UNREADABLE",
    "UInt8Array",
    "check_image",
    "decode_image",
    "encode_jpeg",
    "encode_png",
    "is_picture_name",
    "picture_format",
    "grid",
    "load_image",
    "naming",
    "prepare_image",
    "reason",
    "upright_rgb",
]

UInt8Array = npt.NDArray[np.uint8]

UNREADABLE = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    AssertionError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What reading an unreadable image raises: on damaged files, Pillow's decoders raise many types of exceptions."""

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded, because a small file can declare any size."""

JPEG_QUALITY = 95

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What sets an image upright, by the orientation in EXIF."""

REMEDIES = {
    "HEIC": "install the extra that reads it, `pip install 'rgcluster[heic]'`, or save it as JPEG",
    "AVIF": "install a Pillow that reads it, 11.3 or newer, or save it as JPEG",
    "JPEG XL": "save it as JPEG or PNG",
}
"""Remedies for kinds of images that Pillow cannot read."""


def load_image(content: bytes | memoryview) -> Image.Image:
    """Decode an image of any kind to upright RGB; raises one of UNREADABLE with the reason.

    Grey, palette, CMYK and 16-bit images are converted, transparent images are put on white, and the orientation
    in EXIF is applied. Animations are represented by their first frame.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
        try:
            image = Image.open(io.BytesIO(content))
        except UnidentifiedImageError:
            kind = image_kind(content) or ""
            if kind in REMEDIES:
                raise OSError(f"{kind}, which this Pillow cannot read; {REMEDIES[kind]}") from None
            if what := mistaken_for_image(content):
                raise OSError(what) from None
            raise
    with image:
        _check_size(image)
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Load an opened image and return it as `load_image` does."""
    image.load()
    if image.mode == "RGB" and "exif" not in image.info and image.format == "JPEG":
        return image  # most images by far; nothing to convert
    return _to_rgb(_turned(image))


def check_image(content: bytes | memoryview) -> tuple[int, int]:
    """Decode an image and return its width and height; raises one of UNREADABLE."""
    return load_image(content).size


def prepare_image(image: Image.Image, crop: int, size: int) -> UInt8Array:
    """Crop the centre of an RGB image (`crop` pixels, 0 or too large: the largest square), resize.

    Returns uint8 [size, size, 3]: bilinear with antialiasing.
    """
    side = min(image.width, image.height, crop or max(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def decode_image(content: bytes | memoryview, crop: int, size: int, name: str) -> UInt8Array:
    """Decode and prepare an encoded image; DataError where it cannot be read."""
    with naming(name):
        return prepare_image(load_image(content), crop, size)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Convert exceptions of UNREADABLE to a DataError with the image's name."""
    try:
        yield
    except UNREADABLE as error:
        raise DataError(f"{name}: not a readable image ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """Return the first line of the error's message, without addresses of objects."""
    lines = str(getattr(error, "strerror", None) or error).splitlines() or [type(error).__name__]
    return re.sub(r"\s*<[^<>]* object at 0x[0-9a-f]+>", "", lines[0])


def encode_png(image: UInt8Array) -> bytes:
    """Return `image` [h, w, 3] as PNG bytes."""
    return _encode(image, "PNG")


def encode_jpeg(image: UInt8Array) -> bytes:
    """Return `image` [h, w, 3] as JPEG bytes, without chroma subsampling."""
    return _encode(image, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def is_picture_name(name: str) -> bool:
    """Return whether pictures can be written to a file of this name."""
    return PurePath(name).suffix.lower() in _ENCODERS


def picture_format(name: str) -> Callable[[UInt8Array], bytes]:
    """Return the encoder for a file of this name; ConfigError for an unsupported format."""
    suffix = PurePath(name).suffix.lower()
    if not is_picture_name(name):
        raise ConfigError(
            f"{name}: pictures are written as {', '.join(_ENCODERS)}; use one of these suffixes"
        )
    return _ENCODERS[suffix]


_ENCODERS: dict[str, Callable[[UInt8Array], bytes]] = {
    ".png": encode_png, ".jpg": encode_jpeg, ".jpeg": encode_jpeg,
}  # fmt: skip


def grid(images: npt.NDArray[np.uint8], gap: int = 2) -> npt.NDArray[np.uint8]:
    """Return images [rows, columns, h, w, 3] as one picture with white gaps."""
    rows, columns, height, width, _ = images.shape
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise OSError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS // 10**6} million")


def _turned(image: Image.Image) -> Image.Image:
    """Return a loaded image upright; as it lies where its EXIF cannot be read."""
    # Not Pillow's exif_transpose: it writes EXIF anew, which fails for much of what cameras note.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise OSError("floating-point pixels; save it with 8 bits a channel")
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        values = np.asarray(image)
        if values.dtype.kind == "i":  # mode I: 32 bits with a sign
            values = values.clip(0, 65535)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    # Pillow loads lazily: a truncated file is found here at the latest.
    return image.convert("RGB")


def _encode(image: UInt8Array, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()
