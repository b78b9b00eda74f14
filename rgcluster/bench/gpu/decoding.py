"""JPEG files to images of 128 px: Pillow on the cores, torchvision on the GPU."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from rgcluster.bench.gpu.faces import drawn_faces
from rgcluster.bench.gpu.part import Place, Skip
from rgcluster.bench.result import Row
from rgcluster.data.images import decode_image

__all__ = ["decode_all", "pillow_decoding", "torchvision_decoding"]

TOGETHER = 256
"""Files that are decoded in one call on the GPU."""
FEW = 1000
"""Files that one thread decodes for comparison."""


def pillow_decoding(place: Place, left: float) -> list[Row]:
    """Measure decoding, cropping and resizing as shards do it, on one thread and on all cores."""
    files, threads = drawn_faces(place).files, len(os.sched_getaffinity(0))
    place.say(f"Pillow, {threads} threads")
    alone = _rate(place, files[:FEW], 1)
    return [
        Row(
            f"Pillow, {threads} threads", "decoding", _rate(place, files, threads), "images/s",
            "Pillow, 1 thread", alone,
        )
    ]  # fmt: skip


def torchvision_decoding(place: Place, left: float) -> list[Row]:
    """Measure torchvision's decoder, nvJPEG on a GPU; Skip where it is not there."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        raise Skip("torchvision is not installed") from None
    files = drawn_faces(place).files
    place.say("torchvision")
    data, device = place.config().data, torch.device(place.kind)
    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in files]

    def decode(pieces: list[torch.Tensor]) -> torch.Tensor:
        images = torch.stack(decode_jpeg(pieces, ImageReadMode.RGB, device=device))
        side = min(*images.shape[-2:], data.crop)
        top, start = ((length - side) // 2 for length in images.shape[-2:])
        square = images[..., top : top + side, start : start + side].float()
        return F.interpolate(square, [data.image_size] * 2, mode="bilinear", antialias=True)

    try:
        decode(encoded[:TOGETHER])
    except RuntimeError as error:
        raise Skip(f"torchvision cannot decode on this device: {str(error).splitlines()[0]}") from None
    start = time.perf_counter()
    for first in range(0, len(encoded), TOGETHER):
        made = decode(encoded[first : first + TOGETHER])
    made[-1].cpu()  # waits for the GPU
    seconds = time.perf_counter() - start
    where = "nvJPEG" if place.kind == "cuda" else "torchvision, 1 thread"
    return [Row(where, "decoding", len(files) / seconds, "images/s")]


def decode_all(place: Place, files: list[bytes], threads: int) -> npt.NDArray[np.uint8]:
    """Return the files as training images, uint8 [N, h, w, 3]."""
    data = place.config().data
    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(lambda content: decode_image(content, data.crop, data.image_size, "a face"), files)
        return np.stack(list(made))


def _rate(place: Place, files: list[bytes], threads: int) -> float:
    start = time.perf_counter()
    decode_all(place, files, threads)
    return len(files) / (time.perf_counter() - start)
