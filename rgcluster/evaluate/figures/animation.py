"""Animated interpolation: a WebP (a GIF has 256 colours) in which every face changes to another domain and back."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from rgcluster.data.images import grid
from rgcluster.evaluate.figures.scene import Scene

__all__ = ["moving_interpolation"]

FRAMES = 16
COLUMNS = 4
SMALLEST = 128
MILLISECONDS, REST = 90, 700
QUALITY = 90


def moving_interpolation(scene: Scene) -> bytes:
    """Return the animation, with the faces in rows of four and a pause at both ends."""
    shares = (1 - np.cos(np.linspace(0, np.pi, FRAMES))) / 2
    faces = [scene.interpolate(number, shares)[1] for number in range(len(scene.images))]
    count = len(faces) - len(faces) % min(COLUMNS, len(faces))
    shown = np.stack(faces[:count]).reshape(-1, min(COLUMNS, count), FRAMES, *faces[0].shape[1:])
    frames = [_frame(shown[:, :, place]) for place in range(FRAMES)]
    frames += frames[-2:0:-1]
    pauses = [REST if place in (0, FRAMES - 1) else MILLISECONDS for place in range(len(frames))]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "WEBP", save_all=True, append_images=frames[1:], duration=pauses, loop=0, quality=QUALITY
    )
    return buffer.getvalue()


def _frame(images: np.ndarray) -> Image.Image:
    factor = max(1, -(-SMALLEST // images.shape[2]))
    picture = Image.fromarray(grid(images))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
