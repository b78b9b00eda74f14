"""The context of a run's stages: its data, locations, store and measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from rgcluster.base.placement import Placement
from rgcluster.base.progress import task, waiting
from rgcluster.base.rundir import STAGE, networks_of, snapshot_of, stage_directory, store_name
from rgcluster.base.session import placement
from rgcluster.base.storage import Location, digest_json
from rgcluster.config import Config
from rgcluster.data.shards import ShardSet
from rgcluster.data.sources import UNLABELLED
from rgcluster.data.stream import ImageSource, open_source
from rgcluster.errors import StoreUnavailable
from rgcluster.evaluate.measure.evaluation import Evaluation
from rgcluster.evaluate.measure.inputs import sample_of
from rgcluster.evaluate.measure.protocol import make_protocol
from rgcluster.model.handover import networks_digest
from rgcluster.store.disk.snapshot import Manifest, read_manifest
from rgcluster.store.shard.shard import IndexSettings
from rgcluster.store.store import RayStore, list_stores

__all__ = ["RunContext", "Shared", "SourceKey"]

SourceKey = tuple[str, float, int, int, tuple[str, ...]]
"""Split, fraction, crop and size, and the attributes by whose domains a balanced stream draws."""

_REPORTED_FROM = 20_000
"""Number of images from which opening them shows progress."""


@dataclass
class Shared:
    """Resources that several runs of the same shards share: a directory of stages, and opened images.

    A stage is stored at `<stages>/<digest of what it depends on>/<stage>`, unless `base`, an ordinary run, has it
    already. `trials` runs share the cluster.
    """

    stages: Location
    base: Location
    sources: dict[SourceKey, ImageSource] = field(default_factory=dict)
    trials: int = 1

    def place(self, stage: str, depends: Mapping[str, Any]) -> Location:
        """Return the location of the stage with these dependencies, existing or not."""
        own = self.base / stage / STAGE
        if own.exists():
            record = own.read_record("depends", "finished")
            if record["finished"] and record["depends"] == depends:
                return self.base / stage
        return self.stages / digest_json({"stage": stage, **depends}) / stage


class RunContext:
    """One run: its directory, configuration and shards, and the resources shared with other runs."""

    def __init__(self, run: Location, config: Config, shards: ShardSet, shared: Shared | None = None) -> None:
        self.run, self.config, self.shards, self.shared = run, config, shards, shared
        self._sources = shared.sources if shared else {}
        self._protocol: dict[str, Any] = {}
        self._kept: ExitStack | None = None
        self._store: RayStore | None = None

    def source(self, split: str) -> ImageSource:
        """Return the images of a split, opened once; training takes the configured fraction."""
        return self.open(split, self.config.data.fraction if split == "train" else 1.0)

    def open(self, split: str, fraction: float = 1.0) -> ImageSource:
        key = self._key(split, fraction)
        if key not in self._sources:
            reported = self.shards.splits.get(split, 0) * fraction >= _REPORTED_FROM
            with task(self.title(f"{split} images")) if reported else nullcontext() as update:
                self._sources[key] = open_source(self.shards, self.config.data, split, fraction, update)
        return self._sources[key]

    def _key(self, split: str, fraction: float) -> SourceKey:
        """Return what the images of a split depend on: runs that share a directory may differ in it."""
        data = self.config.data
        balanced = tuple(data.attributes) if data.balance else ()
        return split, fraction, data.crop, data.image_size, balanced

    def measured(self, split: str) -> ImageSource:
        """Return the images of a split that an evaluation looks at: all, or a sample of many."""
        return sample_of(self.open(split))

    def retrieval_set(self) -> dict[str, ImageSource]:
        """Return the images of the store by split: the training images, or all but the test and val sets."""
        if self.config.store.images == "train":
            return {"train": self.source("train")}
        # Images that only the store needs are read once, so they are not kept decoded.
        uncached = self.config.data.model_copy(update={"cache_mib": 0})
        opened = self._sources.get(self._key("train", 1.0))
        train = opened or (
            self.source("train")
            if self.config.data.fraction >= 1
            else open_source(self.shards, uncached, "train")
        )
        rest = [UNLABELLED] if self.shards.splits.get(UNLABELLED) else []
        return {"train": train} | {split: open_source(self.shards, uncached, split) for split in rest}

    def protocol(self) -> dict[str, Any]:
        """Return the protocol of this run's evaluation."""
        if not self._protocol:
            drawn = self.shards.faces is not None
            self._protocol = make_protocol(self.config, self.shards, drawn=drawn)
        return self._protocol

    def measuring(self) -> Evaluation:
        """Return the inputs of the evaluation; earlier stages must be finished."""
        placed = self.placement()
        kept = self.shared.base if self.shared else self.run
        return Evaluation(
            config=self.config, run=self.run, train=self.measured("train"), test=self.measured("test"),
            faces=self.shards.faces, protocol=self.protocol(),
            reference=stage_directory(self.run, "reference"), measured=kept / "measured",
            store_digest=self.manifest().digest, gpu=placed.gpu, workers=placed.measurers,
        )  # fmt: skip

    def measured_by(self) -> dict[str, Any]:
        """Return the dependencies of a measurement: the shards and the protocol."""
        return {"shards": self.shards.digest, "protocol": self.protocol()["digest"]}

    def model(self, stage: str) -> str:
        """Return the location of a stage's networks."""
        return str(networks_of(self.run, stage))

    def digest(self, stage: str) -> str:
        """Return the digest of a finished stage's output: of the store as built, else of the networks."""
        if stage == "store":
            return self.manifest().built_digest
        return networks_digest(networks_of(self.run, stage))

    def manifest(self) -> Manifest:
        """Return the manifest of the run's store."""
        return read_manifest(snapshot_of(self.run))

    @contextmanager
    def one_store(self) -> Iterator[None]:
        """Within the `with` block, the store that a stage starts stays for the stages after it."""
        try:
            with ExitStack() as self._kept:
                yield
        finally:
            self._kept = self._store = None

    def start_store(self, name: str) -> AbstractContextManager[RayStore]:
        """Connect to the store of that name, or start its actors; they stop with the `with` block, or `one_store`."""
        if self._store is not None:
            with suppress(StoreUnavailable):  # another process's store may have ended meanwhile
                self._store.ping()
                return nullcontext(self._store)
        settings = self.config.store
        with waiting(f"the shards of the store {name}"):
            store = RayStore.share(
                snapshot_of(self.run), name, replicas=settings.replicas, index=IndexSettings.of(settings),
                timeout=settings.timeout_s,
            )  # fmt: skip
        if self._kept is None:
            return store
        self._store = self._kept.enter_context(store)
        return nullcontext(store)

    def name_of_store(self, use: str) -> str:
        """Return the name of the run's store if it runs or is being served, else a name for this use alone."""
        if self._store is not None:
            return self._store.name
        served = store_name(self.run)
        return served if served in list_stores() else f"{served}-{use}"

    def title(self, stage: str) -> str:
        """Return the name of a stage in progress lines, with the run's name where several runs work."""
        return f"{self.run.name} {stage}" if self.shared else stage

    def placement(self) -> Placement:
        """Return the placement of the processes of each stage."""
        return placement(self.config, self.shared.trials if self.shared else 1)
