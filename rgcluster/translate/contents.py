"""E_c's contents of stored images, encoded once."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rgcluster.config import Config
from rgcluster.model.translator import Translator
from rgcluster.translate.device import Device
from rgcluster.translate.tensors import to_images

__all__ = ["StoredContents"]

LIMIT = 256 * 2**20
"""Bytes of contents that a process keeps."""

CHUNK = 16
"""Images that are encoded at once. A content's rounding depends on it, not on what was encoded before."""

Pixels = npt.NDArray[np.uint8]


class StoredContents:
    """Returns the contents of a store's images from memory, where those of all its images fit.

    An image of a known id whose pixels have changed is encoded again. E_c must be frozen.
    """

    def __init__(self, translator: Translator, device: Device) -> None:
        self._translator, self._device = translator, device
        self._known: dict[int, tuple[Pixels, Tensor]] = {}
        self._lock = threading.Lock()

    @staticmethod
    def fit(config: Config, count: int) -> bool:
        """Return whether the contents of `count` images fit."""
        numbers = 4 * config.model.width * (config.data.image_size // 4) ** 2
        return count * numbers * 4 <= LIMIT

    @torch.no_grad()
    def __call__(self, ids: npt.NDArray[np.int64], images: Pixels) -> Tensor:
        """Return the contents [B, M, C, h, w] of images uint8 [B, M, H, W, 3] with ids [B, M]."""
        numbers, pictures = ids.reshape(-1).tolist(), images.reshape(-1, *images.shape[2:])
        with self._lock:  # trainers side by side ask for the same images
            missing = {
                number: picture
                for number, picture in zip(numbers, pictures, strict=True)
                if number not in self._known or not np.array_equal(self._known[number][0], picture)
            }
            self._encode(missing)
            found = torch.stack([self._known[number][1] for number in numbers])
        return found.unflatten(0, ids.shape)

    def _encode(self, missing: dict[int, Pixels]) -> None:
        numbers, pictures = list(missing), list(missing.values())
        for first in range(0, len(numbers), CHUNK):
            some = np.stack(pictures[first : first + CHUNK])
            whole = F.pad(to_images(some, self._device), (0, 0) * 3 + (0, CHUNK - len(some)))
            with self._device.autocast():
                contents = self._translator.content_encoder(whole)
            for number, picture, content in zip(numbers[first:], some, contents, strict=False):
                self._known[number] = picture, content.clone()
