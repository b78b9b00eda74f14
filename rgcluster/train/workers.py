"""Collective operations of workers: average gradients and losses, broadcast a number."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rgcluster.train.stage import Worker
from rgcluster.translate.device import Device

__all__ = ["agree", "distribute", "mean_over_workers", "synchronised"]


def distribute(module: nn.Module, world: int, device: Device) -> nn.Module:
    """Wrap `module` so that its gradients are averaged over the workers."""
    if world == 1:
        return module
    ids = [device.torch.index] if device.torch.type == "cuda" else None
    return DistributedDataParallel(
        module, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False
    )


def synchronised(module: nn.Module, wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Average the gradients of a forward within the body only where `wanted`: for the last piece of a batch."""
    if wanted or not isinstance(module, DistributedDataParallel):
        return contextlib.nullcontext()
    return module.no_sync()


def mean_over_workers(values: Tensor, worker: Worker) -> Tensor:
    """Return the mean of `values` over all workers."""
    if worker.world > 1:
        torch.distributed.all_reduce(values)
        values = values / worker.world
    return values


def agree(number: int, worker: Worker) -> int:
    """Return the first worker's `number` on every worker."""
    if worker.world == 1:
        return number
    shared = torch.tensor([number], dtype=torch.int64, device=worker.device.torch)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())
