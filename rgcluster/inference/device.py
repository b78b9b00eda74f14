"""The device, precision and memory layout a worker trains with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

from rgcluster.config import ClusterConfig

__all__ = ["Device", "pick_device"]


@dataclass(frozen=True)
class Device:
    """A torch device and the precision of the convolutions on it."""

    torch: torch.device
    bf16: bool

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(self.torch.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    @property
    def layout(self) -> Any:
        """The memory format of images and weights, a `torch.memory_format`."""
        # On a CPU the norms are several times slower in channels-last than they save in the convolutions.
        return torch.channels_last if self.torch.type == "cuda" else torch.contiguous_format


def pick_device(config: ClusterConfig, *, gpu: bool) -> Device:
    """Return the worker's device; precision `auto` is bf16 where the hardware multiplies it faster than fp32."""
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    if config.precision != "auto":
        return Device(device, config.precision == "bf16")
    if gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        return Device(device, torch.cuda.is_bf16_supported())
    # Without AMX a CPU emulates bf16, ten times slower than fp32.
    return Device(device, bool(torch.cpu._is_amx_tile_supported()))
