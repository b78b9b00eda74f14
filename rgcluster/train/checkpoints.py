"""Checkpoints of a stage: written by a thread, kept by age and by metric; a damaged one is skipped.

Ray Train's checkpoints are not used: copying them blocks every worker, and Ray Train cannot fall back from a
damaged checkpoint to the previous one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rgcluster.base.checkpoint.manifest import MANIFEST, read_checkpoint_manifest
from rgcluster.base.checkpoint.tree import Snapshot, load_tree, save_snapshot, take_snapshot
from rgcluster.base.logs.notices import add_notice
from rgcluster.base.rundir import CHECKPOINTS
from rgcluster.base.storage import Location
from rgcluster.config import StageConfig
from rgcluster.errors import CheckpointError, ConfigError

__all__ = ["CHECKPOINTS", "Checkpoints"]

Tree = dict[str, Any]


class Checkpoints:
    """The checkpoints below a stage's directory, one writer at a time.

    The newest `checkpoint_keep` of `settings` are kept, and the one with the best `checkpoint_best`.
    """

    def __init__(self, directory: Location, kind: str, settings: StageConfig) -> None:
        self._directory, self._kind, self._settings = directory, kind, settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def save(self, step: int, state: Tree, metrics: dict[str, Any]) -> None:
        """Copy `state` and return; a thread writes it. Raises the error of the previous write.

        ConfigError where `metrics`, unless there are none, lack the one that decides which checkpoint is best.
        """
        self.wait()  # at most one copy of the state waits in memory
        best = self._settings.checkpoint_best
        if best and metrics and best not in metrics:
            raise ConfigError(
                f"{self._kind}.checkpoint_best = {best} is no key of metrics.jsonl; choose of {', '.join(metrics)}"
            )
        score = metrics.get(best)
        self._pending = self._thread.submit(self._write, step, take_snapshot(state), score)

    def wait(self) -> None:
        """Wait for the last write; raise its error."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for the last write and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """Return the steps of all directories, complete or not, oldest first."""
        names = (self._directory / CHECKPOINTS).names()
        return [int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit()]

    def latest(self) -> tuple[int, Tree] | None:
        """Return step and state of the newest intact checkpoint; a notice names each damaged one that is skipped."""
        damaged = []
        for step in reversed(self.steps()):
            try:
                tree = self.load(step)
            except CheckpointError as error:
                damaged.append(str(error).split(";")[0])
                continue
            self._tell(damaged, f"went on from step {step}")
            return step, tree
        self._tell(damaged, "no other is left, so this stage began anew")
        return None

    def load(self, step: int) -> Tree:
        """Return the state after `step`; CheckpointError where it is damaged, incomplete or of another stage."""
        location = self._place(step)
        if not (location / MANIFEST).exists():
            raise CheckpointError(f"{location}: only part of it was written; remove it")
        tree, manifest = load_tree(location)
        if (manifest.get("kind"), manifest.get("step")) != (self._kind, step):
            raise CheckpointError(f"{location}: holds another stage or step; remove it")
        return tree

    def place(self, step: int) -> str:
        """Return the location of the checkpoint of `step`."""
        return str(self._place(step))

    def _place(self, step: int) -> Location:
        return self._directory / CHECKPOINTS / f"step-{step:08d}"

    def _write(self, step: int, snapshot: Snapshot, score: float | None) -> None:
        about = {"kind": self._kind, "step": step, "score": score}
        save_snapshot(self._place(step), snapshot, about)
        self._prune(step)

    def _prune(self, newest: int) -> None:
        """Remove checkpoints that are neither among the newest nor the best, and incomplete ones."""
        scores: dict[int, float | None] = {}
        for step in self.steps():
            if step > newest:  # left by a run that was reset to an earlier step
                continue
            try:
                scores[step] = read_checkpoint_manifest(self._place(step)).get("score")
            except CheckpointError:
                self._place(step).remove()
        kept = set(sorted(scores)[-self._settings.checkpoint_keep :])
        scored = {step: score for step, score in scores.items() if score is not None}
        if scored:
            best = max if self._settings.checkpoint_order == "max" else min
            kept.add(best(scored, key=lambda step: (scored[step], step)))
        for step in set(scores) - kept:
            (
                self._place(step) / MANIFEST
            ).remove()  # first, so that a partly removed directory is no checkpoint
            self._place(step).remove()

    def _tell(self, damaged: list[str], outcome: str) -> None:
        if damaged:
            add_notice(self._directory, f"damaged checkpoint passed over: {'; '.join(damaged)}; {outcome}")
