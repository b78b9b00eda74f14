"""Collective operations of workers: average gradients and losses, broadcast a number or a state."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rgcluster.base.checkpoint import join_tree, take_snapshot
from rgcluster.train.stage import Worker
from rgcluster.translate.device import Device

__all__ = ["agree", "distribute", "from_first", "mean_over_workers", "synchronised"]


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


def from_first(tree: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """Return the first worker's tree of tensors and JSON values on every worker, so that it alone has to read it."""
    if worker.world == 1:
        return tree
    first, device = worker.rank == 0, worker.device.torch
    snapshot = take_snapshot(tree)
    content = torch.frombuffer(bytearray(snapshot.content()), dtype=torch.uint8)
    about = [len(content), snapshot.skeleton]
    torch.distributed.broadcast_object_list(about, src=0, device=device)
    shared = content.to(device) if first else torch.empty(about[0], dtype=torch.uint8, device=device)
    torch.distributed.broadcast(shared, src=0)
    return tree if first else join_tree(about[1], shared.cpu().numpy().tobytes())
