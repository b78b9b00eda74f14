"""Errors that stop a failed training: their causes, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions
import torch
from torch import Tensor

from rgcluster.base.checkpoint.tree import save_tree
from rgcluster.config import StageConfig
from rgcluster.errors import CollectiveStalled, OutOfMemory, TrainingDiverged, causes
from rgcluster.train.stage import Stage

__all__ = ["DIVERGENCE", "check_losses", "explained", "is_out_of_memory", "memory_advice"]

DIVERGENCE = "divergence"
"""Directory, below a stage's own, with the batch and the networks of a divergence."""
IDS_SHOWN = 4


def check_losses(stage: Stage, first: int, names: list[str], losses: Tensor) -> None:
    """Raise TrainingDiverged where one of `losses` [steps, names], from step `first` on, is out of bounds.

    Not finite, or larger than the stage's `loss_limit`. The first worker leaves the networks, the losses and
    the ids of the step's images in `divergence/`.
    """
    bad = ~losses.isfinite() | (losses.abs() > stage.settings.loss_limit)
    if not bad.any():
        return
    index = int(bad.any(dim=1).int().argmax())
    name, value = next((name, float(losses[index, k])) for k, name in enumerate(names) if bool(bad[index, k]))
    step, kind = first + index, stage.run.stage
    rows = stage.rows_of(step)
    ids, files = (
        stage.run.source.index.row_ids[rows],
        [stage.run.source.index.file_names[row] for row in rows],
    )
    where = stage.run.directory / DIVERGENCE
    if stage.worker.rank == 0:
        curve = {n: [float(v) for v in losses[:, k]] for k, n in enumerate(names)}
        report = {
            "step": step + 1,
            "loss": name,
            "value": str(value),
            "batch": [{"row_id": int(i), "file_name": f} for i, f in zip(ids, files, strict=True)],
            "first_step": first + 1,
            "losses": {n: [str(v) for v in values] for n, values in curve.items()},
        }
        (where / "report.json").write_json(report)
        save_tree(where / "state", stage.state(), {"kind": kind, "step": first + len(losses)})
    shown = ", ".join(files[:IDS_SHOWN]) + (
        f" and {len(files) - IDS_SHOWN} more" if len(files) > IDS_SHOWN else ""
    )
    rate = getattr(stage.config, kind).optimizer.learning_rate
    limit = f" (loss_limit is {stage.settings.loss_limit:g})" if torch.isfinite(losses[index]).all() else ""
    raise TrainingDiverged(
        f"{kind}: loss {name} is {value:g} in step {step + 1}{limit}, on the images {shown}; all of them, the "
        f"losses and the networks are in {where}; look at the images, then remove the stage's directory and "
        f"train it with a lower {kind}.optimizer.learning_rate than {rate:g}"
    )


@contextmanager
def explained(kind: str, settings: StageConfig, timeout: float) -> Iterator[None]:
    """Convert torch's errors for a lack of memory and for stalled collectives to errors that name the remedy."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(memory_advice(kind, settings)) from error
    except RuntimeError as error:
        text = str(error)
        if "can't allocate memory" in text or "out of memory" in text.lower():
            raise OutOfMemory(memory_advice(kind, settings)) from error
        if "Timed out" in text or "timed out" in text:
            raise CollectiveStalled(
                f"{kind}: a worker waited {timeout:g} s for the others in a collective; see whether one of them "
                "hangs (`ray stack`), or raise cluster.collective_timeout_s where steps take that long"
            ) from error
        raise


def memory_advice(kind: str, settings: StageConfig) -> str:
    """Return advice on which settings to lower if `kind` does not fit in memory."""
    smaller = [
        f"add --set {kind}.accumulate={2 * settings.accumulate} (the same result in smaller pieces)",
        "use more workers",
        f"lower {kind}.batch_size",
    ]
    ways = smaller[settings.accumulate >= settings.batch_size :] if settings.batch_size > 1 else []
    ways += ["drop one of guidance.variants"] if kind == "guidance" else []
    return (
        f"{kind}: out of memory with batch_size {settings.batch_size} in {settings.accumulate} "
        f"piece{'s' if settings.accumulate > 1 else ''} a worker; {', '.join([*ways, 'or lower data.image_size'])}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Ray killed a worker because its machine ran out of memory."""
    return any(
        isinstance(inner, ray.exceptions.OutOfMemoryError) or "running low on memory" in str(inner)
        for inner in causes(error)
    )
