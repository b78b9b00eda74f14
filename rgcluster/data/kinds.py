"""Recognition of images by the first bytes of a file."""

from __future__ import annotations

import re

__all__ = ["HEAD_BYTES", "image_kind", "mistaken_for_image"]

HEAD_BYTES = 64
"""Number of bytes at the start of a file that determine its kind."""

_SIGNATURES: tuple[tuple[str, bytes], ...] = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("GIF", rb"GIF8[79]a"),
    ("WebP", rb"RIFF....WEBP"),
    ("BMP", rb"BM....\0\0\0\0"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("AVIF", rb"....ftyp(?:avi[fs]|(?:mif1|msf1).*avif)"),
    ("HEIC", rb"....ftyp(?:he[iv][cxms]|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("PNM", rb"P[1-6]\s"),
)
_MISTAKEN: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("an empty file; fetch it again", re.compile(rb"\Z")),
    ("a Git LFS pointer; fetch the image with `git lfs pull`", re.compile(rb"version https://git-lfs")),
    ("a web page; download the image itself", re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE)),
)
"""What lies in the place of an image that was not fetched, with the remedy."""
_PATTERNS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _SIGNATURES]


def image_kind(head: bytes | memoryview) -> str | None:
    """Return the kind of the image that starts with `head` (HEAD_BYTES); None for other files."""
    start = bytes(head[:HEAD_BYTES])
    return next((kind for kind, pattern in _PATTERNS if pattern.match(start)), None)


def mistaken_for_image(head: bytes | memoryview) -> str | None:
    """Return what a file that starts with `head` is in the place of an image, and the remedy; None if unknown."""
    start = bytes(head[:HEAD_BYTES])
    return next((what for what, pattern in _MISTAKEN if pattern.match(start)), None)
