"""The colours with which G fills what it uncovers, such as the background behind hair that goes; not in the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.model.layers import initialise, start_near_zero

__all__ = ["Fill"]

SEEN = 16
"""Side of the image as the network of colours sees it; its field of colours has half of it."""


class Fill(nn.Module):
    """Lays a smooth field of colours over G's picture where a gate opens.

    E_c removes colours, and `model.skip` shows G no more than the few pixels around a place, so G cannot know the
    background beside wide hair. A small network sees the whole image, 16 x 16, and changes its 8 x 8 mean colours into
    those that G may fill with.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        last = nn.Conv2d(wide, 3, 3, padding=1)
        self.colours = nn.Sequential(
            nn.Conv2d(3, wide, 3, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(),
            last,
        )
        self.gate = nn.Conv2d(width, 1, 7, padding=3)
        initialise(self)
        # At the start the colours are the image's own, and an eighth of them is seen.
        start_near_zero(last, self.gate)
        nn.init.constant_(self.gate.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, picture: Tensor, features: Tensor, image: Tensor) -> Tensor:
        """Return G's picture [B, 3, H, W] with its fill; the gate sees its last features [B, width, H, W]."""
        seen = F.avg_pool2d(image, image.shape[-1] // SEEN).to(features.dtype)
        field = (F.avg_pool2d(seen, 2) + self.colours(seen)).float()
        field = F.interpolate(field, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return torch.lerp(picture, field, torch.sigmoid(self.gate(features).float()))
