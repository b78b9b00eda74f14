"""Labelled sheets of images, drawn with Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Tile", "draw_sheet"]

UInt8Array = npt.NDArray[np.uint8]

SMALLEST_TILE = 104
GAP = 6
GROUP_GAP = 18
MARGIN = 12
TEXT = 13
SMALL = 11
SIDE_WIDTH = 92
INK, PALE = (28, 30, 34), (104, 108, 116)


@dataclass(frozen=True)
class Tile:
    """An image uint8 [h, w, 3] or grey [h, w] in [0, 1], or None, with a line of text below it."""

    image: npt.NDArray[np.uint8] | npt.NDArray[np.float32] | None
    caption: str = ""


def draw_sheet(
    rows: Sequence[Sequence[Tile]],
    columns: Sequence[str],
    *,
    sides: Sequence[str] = (),
    groups: Sequence[tuple[str, int]] = (),
) -> bytes:
    """Return a PNG of rows of tiles, a label above each column and, with `sides`, left of each row.

    `groups` are headings with their numbers of columns; a wider gap separates groups. Labels are wrapped at
    spaces. Every tile has the size of the first, or `SMALLEST_TILE` where that is larger.
    """
    tile = _tile_side(rows)
    lefts, width = _columns(len(columns), tile, groups, bool(sides))
    captions = any(item.caption for row in rows for item in row)
    head = [_broken(text, tile, TEXT) for text in columns]
    lines = max(text.count("\n") + 1 for text in head)
    top = MARGIN + (24 if groups else 0) + lines * (TEXT + 4) + 6
    pitch = tile + GAP + (SMALL + 7 if captions else 0)
    sheet = Image.new("RGB", (width, top + len(rows) * pitch + MARGIN - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    _group_heads(draw, groups, lefts, tile)
    for left, text in zip(lefts, head, strict=True):
        _text(draw, (left + tile / 2, top - 6), text, TEXT, INK, "md")
    for number, row in enumerate(rows):
        y = top + number * pitch
        if sides:
            _text(draw, (MARGIN, y + tile / 2), _broken(sides[number], SIDE_WIDTH, SMALL), SMALL, PALE, "lm")
        for left, item in zip(lefts, row, strict=False):
            if item.image is not None:
                sheet.paste(_scaled(item.image, tile), (left, y))
            _text(draw, (left + tile / 2, y + tile + 3), _cut(item.caption, tile), SMALL, PALE, "ma")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tile_side(rows: Sequence[Sequence[Tile]]) -> int:
    sizes = [item.image.shape[0] for row in rows for item in row if item.image is not None]
    return max([SMALLEST_TILE, *sizes[:1]])


def _columns(
    count: int, tile: int, groups: Sequence[tuple[str, int]], has_sides: bool
) -> tuple[list[int], int]:
    """Return the left edge of each column, and the sheet's width."""
    starts, edge = set(), 0
    for _, size in groups:
        starts.add(edge)
        edge += size
    lefts, x = [], MARGIN + (SIDE_WIDTH + GAP if has_sides else 0)
    for column in range(count):
        if column and column in starts:
            x += GROUP_GAP - GAP
        lefts.append(x)
        x += tile + GAP
    return lefts, x - GAP + MARGIN


def _group_heads(
    draw: ImageDraw.ImageDraw, groups: Sequence[tuple[str, int]], lefts: Sequence[int], tile: int
) -> None:
    first = 0
    for text, size in groups:
        left, right = lefts[first], lefts[first + size - 1] + tile
        if text:
            _text(draw, ((left + right) / 2, MARGIN), text, TEXT + 1, INK, "ma")
            draw.line((left, MARGIN + 21, right, MARGIN + 21), fill=(200, 203, 208))
        first += size


def _scaled(image: npt.NDArray[np.uint8] | npt.NDArray[np.float32], tile: int) -> Image.Image:
    pixels = image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB").resize((tile, tile), Image.Resampling.BICUBIC)


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str,
) -> None:
    font, text = ImageFont.load_default(size=size), _spaced(text)
    if "\n" in text or anchor == "lm":  # Pillow anchors several lines at a, m or d
        align = "left" if anchor.startswith("l") else "center"
        draw.multiline_text(place, text, fill=colour, font=font, anchor=anchor, spacing=3, align=align)
    else:
        draw.text(place, text, fill=colour, font=font, anchor=anchor)


def _width(text: str, size: int) -> float:
    return ImageFont.load_default(size=size).getlength(_spaced(text))


def _spaced(text: str) -> str:
    """Double the spaces, which the font draws too narrow at these sizes."""
    return text.replace(" ", "  ")


def _broken(text: str, width: int, size: int) -> str:
    """Wrap at spaces to lines of `width` pixels where words allow it; keep given line breaks."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}".strip()
            if line and _width(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    while text and _width(text, SMALL) > width + GAP:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text
