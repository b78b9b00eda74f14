"""The device of a worker, with its precision, memory layout and kernels."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rgcluster.base.cluster.internals import has_fast_bf16
from rgcluster.config import ClusterConfig
from rgcluster.model.kernels.convolution import use_convolutions

__all__ = ["Device", "pick_device"]


@dataclass(frozen=True)
class Device:
    """A torch device, the precision of the convolutions on it, and how they are computed."""

    torch: torch.device
    bf16: bool
    channels_last: bool | None = None
    """None: channels-last where it is faster."""
    compiles: bool = False
    caches_casts: bool = True
    """Whether a weight is cast once for all its uses under an `autocast`."""

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, torch.bfloat16, cache_enabled=self.caches_casts)

    @property
    def layout(self) -> Any:
        """The memory format of images and weights, a `torch.memory_format`."""
        # On a CPU the norms lose several times more in channels-last than the convolutions gain, so
        # only networks without norms use it there; see `lay_out`.
        wanted = self.torch.type == "cuda" if self.channels_last is None else self.channels_last
        return torch.channels_last if wanted else torch.contiguous_format

    def lay_out(self, network: nn.Module, *without_norms: nn.Module) -> None:
        """Move the network, and networks without norms (parts of it or not), here, each in its faster format."""
        network.to(device=self.torch, memory_format=self.layout)  # type: ignore[call-overload]
        layout = torch.channels_last if self.channels_last is None else self.layout
        for module in without_norms:
            module.to(device=self.torch, memory_format=layout)  # type: ignore[call-overload]

    def compile(self, *modules: nn.Module) -> None:
        """Let torch compile each module at its first use, if this device compiles at all.

        Compiling modules rather than the step compiles equal blocks once, and later runs find them in the cache.
        """
        if self.compiles:
            for module in modules:
                module.compile(dynamic=False)


def pick_device(config: ClusterConfig, *, gpu: bool) -> Device:
    """Return the worker's device; precision `auto` is bf16 where the hardware multiplies it faster than fp32."""
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    if gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
        torch.backends.cudnn.benchmark = True
        fast = torch.cuda.is_bf16_supported()
    else:
        # A CPU without bf16 instructions emulates it, ten times slower than fp32.
        fast = has_fast_bf16()
    use_convolutions(config.convolutions)
    bf16 = fast if config.precision == "auto" else config.precision == "bf16"
    channels_last = None if config.layout == "auto" else config.layout == "channels-last"
    compiles = gpu if config.compile == "auto" else config.compile == "always"
    if compiles:  # compiled code outlives the run
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rgcluster" / "inductor"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    return Device(device, bf16, channels_last, compiles)
