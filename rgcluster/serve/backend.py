"""Interface between the HTTP layer and the translators: Serve replicas, or engines in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from rgcluster.base.checkpoint.manifest import read_checkpoint_manifest
from rgcluster.base.rundir import networks_of, open_run, snapshot_of
from rgcluster.config import Config
from rgcluster.errors import DataError
from rgcluster.store.disk.snapshot import read_manifest
from rgcluster.translate.variants import Guidance, variants_of

if TYPE_CHECKING:  # they import torch, which what starts an endpoint can do without
    from rgcluster.store.results import Neighbours
    from rgcluster.translate.jobs import Job, Outcome

__all__ = ["Backend", "InProcess", "ServedModel", "ModelEngine", "describe"]


@dataclass(frozen=True)
class ServedModel:
    """Metadata of a served run."""

    name: str
    run: str
    config: Config
    stored_images: int
    digest: str

    @property
    def variants(self) -> dict[Guidance, str]:
        return variants_of(self.config.guidance.variants)


def describe(name: str, run: str) -> ServedModel:
    """Read the metadata of a run; DataError or CheckpointError where it is not finished."""
    config, location = open_run(run)
    digest = str(read_checkpoint_manifest(networks_of(location, "guidance"))["sha256"])
    manifest = read_manifest(snapshot_of(location))
    if config.guidance.retrieval_count > manifest.count:
        raise DataError(f"{location}: the store holds fewer images than guide a picture; train the run again")
    return ServedModel(name, str(location), config, manifest.count, digest)


class Backend(Protocol):
    """Translates for the HTTP layer. Calls raise RGClusterError or ApiError."""

    async def translate(self, name: str, job: Job) -> Outcome: ...

    async def neighbours(self, name: str, job: Job, count: int) -> Neighbours: ...

    async def stored_image(self, name: str, row_id: int) -> npt.NDArray[np.uint8]: ...

    async def examples(self, name: str) -> list[bytes]: ...

    async def ready(self, name: str) -> bool: ...


class ModelEngine(Protocol):
    """Interface of the engine of one run."""

    async def translate(self, job: Job) -> Outcome: ...

    async def neighbours(self, job: Job, count: int) -> Neighbours: ...

    async def stored_image(self, row_id: int) -> npt.NDArray[np.uint8]: ...

    async def examples(self) -> list[bytes]: ...


class InProcess:
    """A backend whose engines run in threads of this process."""

    def __init__(self, engines: Mapping[str, ModelEngine]) -> None:
        self._engines = engines

    async def translate(self, name: str, job: Job) -> Outcome:
        return await self._engines[name].translate(job)

    async def neighbours(self, name: str, job: Job, count: int) -> Neighbours:
        return await self._engines[name].neighbours(job, count)

    async def stored_image(self, name: str, row_id: int) -> npt.NDArray[np.uint8]:
        return await self._engines[name].stored_image(row_id)

    async def examples(self, name: str) -> list[bytes]:
        return await self._engines[name].examples()

    async def ready(self, name: str) -> bool:
        return True
