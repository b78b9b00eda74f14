"""Collective operations of workers: average gradients and losses, gather rows, broadcast a state."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rgcluster.base.checkpoint.tree import join_tree, take_snapshot
from rgcluster.train.stage import Worker
from rgcluster.translate.device import Device

__all__ = ["distribute", "from_first", "mean_over_workers", "rows_of_all", "synchronised"]

Tree = dict[str, Any]


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


def rows_of_all(values: Tensor, world: int) -> tuple[Tensor, int]:
    """Return the rows [B, ...] of all workers, and the place of this one's first; parts may differ in length."""
    if world == 1:
        return values, 0
    counts = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(world)]
    torch.distributed.all_gather(counts, torch.full_like(counts[0], len(values)))
    lengths = [int(count) for count in counts]
    padded = values.new_zeros(max(lengths), *values.shape[1:])
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(parts, padded)
    joined = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return joined, sum(lengths[: torch.distributed.get_rank()])


def from_first(found: tuple[int, Tree] | None, worker: Worker) -> tuple[int, Tree] | None:
    """Return what the first worker found to every worker: a step and its state of tensors and JSON values, or None."""
    if worker.world == 1:
        return found
    first, device = worker.rank == 0, worker.device.torch
    about: list[Any] = [None]
    content = torch.empty(0, dtype=torch.uint8)
    if first and found is not None:
        snapshot = take_snapshot(found[1])
        content = torch.frombuffer(bytearray(snapshot.content()), dtype=torch.uint8)
        about = [(found[0], len(content), snapshot.skeleton)]
    torch.distributed.broadcast_object_list(about, src=0, device=device)
    if about[0] is None:
        return None
    step, size, skeleton = about[0]
    shared = content.to(device) if first else torch.empty(size, dtype=torch.uint8, device=device)
    torch.distributed.broadcast(shared, src=0)
    return found if first else (step, join_tree(skeleton, shared.cpu().numpy().tobytes()))
