"""Checks of a run before it starts: settings, data, disk space and installed packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from rgcluster.base.attributes import domain_columns
from rgcluster.base.rundir import stage_directory, store_name
from rgcluster.base.storage import Location, readable_size
from rgcluster.base.weights import find
from rgcluster.config import Config
from rgcluster.data.fit import image_sizes, require_fitting_crop
from rgcluster.data.shards import Prepared, ShardSet, require_prepared
from rgcluster.data.sources import UNLABELLED
from rgcluster.errors import ConfigError, UserError
from rgcluster.faces import FaceSet
from rgcluster.model.fusion import fusion_network
from rgcluster.model.networks import Discriminator
from rgcluster.model.retrieval import retrieval_encoder
from rgcluster.model.translator import Translator
from rgcluster.store.actors.names import require_name
from rgcluster.store.disk.snapshot import shard_of
from rgcluster.store.index.plan import choose
from rgcluster.store.shard.shard import IndexSettings

__all__ = ["Check", "Images", "check_run", "faces_of", "images_of", "network_sizes", "require"]

WEIGHTS = {"inception-v3-compat": "fid-inception", "lpips-alex": "lpips-alex", "lpips-vgg": "lpips-vgg"}
"""The weights that each extractor needs, by their names in `rgcluster weights`."""
STATE_BYTES = 16
"""Bytes of a parameter in a checkpoint: the weight, its average and Adam's two moments."""


@dataclass(frozen=True)
class Check:
    """The result of a check: its subject, the finding, and whether the run may start."""

    name: str
    found: str
    passed: bool = True


@dataclass(frozen=True)
class Images:
    """The images of a run: their location, attributes, and number in each split.

    `trained` counts those that train, `data.fraction` applied; `stored` are those that the store holds, by shard.
    """

    where: str
    attributes: tuple[str, ...]
    one_hot: bool
    prepared: Prepared | None
    trained: int
    tested: int
    stored: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...] = ()
    """Widths and heights of some of the images."""


def images_of(shards: ShardSet, config: Config) -> Images:
    """Return the images of the shards for a run of this configuration."""
    train = shards.splits.get("train", 0)
    fraction = config.data.fraction
    trained = train if fraction >= 1 else len(shards.index("train", fraction))
    if config.store.index in ("ivf", "ivfpq"):  # the only kind that depends on the size of a shard
        stored = _by_shard(shards, config)
    else:
        only_train = config.store.images == "train"
        stored = _evenly(
            trained if only_train else train + shards.splits.get(UNLABELLED, 0), config.store.shards
        )
    return Images(
        shards.location, shards.attributes, shards.one_hot, shards.prepared, trained,
        shards.splits.get("test", 0), stored, _sizes(shards),
    )  # fmt: skip


def faces_of(faces: FaceSet, attributes: tuple[str, ...], config: Config) -> Images:
    """Return the drawn faces of a run of this configuration."""
    parts = np.bincount([faces.partition(index) for index in range(faces.count)], minlength=3)
    trained = round(int(parts[0]) * config.data.fraction)
    stored = trained if config.store.images == "train" else int(parts[0])
    return Images(
        "drawn faces", attributes, False, None, trained, int(parts[2]), _evenly(stored, config.store.shards)
    )


def check_run(config: Config, images: Images, run: Location) -> list[Check]:
    """Return all checks of a run in order, passed or not."""
    checks: dict[str, Callable[[], str]] = {
        "attributes": partial(_attributes, config, images),
        "image size": partial(_size, config, images),
        "training images": partial(_batches, config, images),
        "test images": partial(_tests, images),
        "neighbours": partial(_neighbours, config, images),
        "index": partial(_index, config, images),
        "store name": partial(_name, run),
        "weights": partial(_weights, config),
        "trackers": partial(_trackers, config),
        "disk": partial(_disk, config, images, run),
    }
    found = []
    for name, look in checks.items():
        try:
            found.append(Check(name, look()))
        except UserError as error:
            found.append(Check(name, str(error), passed=False))
    return found


def require(checks: list[Check]) -> None:
    """Raise ConfigError with the findings of all failed checks."""
    faults = [check.found for check in checks if not check.passed]
    if faults:
        raise ConfigError("; also: ".join(faults))


def network_sizes(config: Config) -> dict[str, int]:
    """Return the number of parameters of each network."""
    with torch.device("meta"):  # only shapes
        networks = {
            "E_c, E_s, G": Translator(config),
            "D": Discriminator(config),
            "R": retrieval_encoder(config),
            "f": fusion_network(config),
        }
    return {name: sum(value.numel() for value in net.parameters()) for name, net in networks.items()}


def _attributes(config: Config, images: Images) -> str:
    data = config.data
    if images.one_hot and data.domains != "one-hot":
        raise ConfigError(
            f"{images.where}: an image has exactly one of {', '.join(images.attributes)}; add "
            f"{_one_hot_settings(images.attributes)}"
        )
    domain_columns(images.attributes, data.attributes, images.where)
    return f"{', '.join(data.attributes)}, of {len(images.attributes)}"


def _one_hot_settings(names: tuple[str, ...]) -> str:
    """Return shell options that make these classes the domains."""
    plain = all(_is_plain(name) for name in names)
    listed = ",".join(names) if plain else ",".join(f'"{name}"' for name in names)
    value = f"data.attributes=[{listed}]"
    quote = "" if plain else "'"
    return f"--set data.domains=one-hot --set {quote}{value}{quote} --set data.exclusive=[]"


def _is_plain(name: str) -> bool:
    """Return whether YAML and a shell read an unquoted name as itself."""
    words = ("yes", "no", "true", "false", "on", "off", "null", "none", "y", "n")
    return name.isidentifier() and name.isascii() and name.lower() not in words


def _size(config: Config, images: Images) -> str:
    require_prepared(images.where, images.prepared, config.data)
    if images.prepared is not None:
        return f"{config.data.image_size}, as prepared"
    require_fitting_crop(images.sizes, config.data.crop, images.where, "--set data.crop=0")
    crop = f"crop {config.data.crop}" if config.data.crop else "largest square"
    return f"{config.data.image_size}, {crop}, prepared while training"


def _batches(config: Config, images: Images) -> str:
    if not images.trained:
        raise ConfigError(f"{images.where}: no image to train on; write shards of more images")
    for stage in ("translation", "retrieval", "guidance"):
        size = getattr(config, stage).batch_size
        if size > images.trained:
            raise ConfigError(
                f"{stage}.batch_size = {size} is larger than the {images.trained} training images; "
                "lower it or add images"
            )
        if size < config.cluster.workers:
            raise ConfigError(
                f"{stage}.batch_size = {size} is less than a row for each of {config.cluster.workers} workers; "
                "raise it, or lower cluster.workers"
            )
    return f"{images.trained}"


def _tests(images: Images) -> str:
    return f"{images.tested}" if images.tested else "none: the run cannot be evaluated"


def _neighbours(config: Config, images: Images) -> str:
    settings, stored = config.guidance, sum(images.stored)
    count = stored - int(settings.exclude_self)
    besides = " besides the query's own" if settings.exclude_self else ""
    if settings.retrieval_count > count:
        raise ConfigError(
            f"guidance.retrieval_count = {settings.retrieval_count}, but the store will hold only "
            f"{max(0, count)} images{besides}; lower it or add images"
        )
    return f"{settings.retrieval_count} of {count}{besides}"


def _index(config: Config, images: Images) -> str:
    settings = IndexSettings.of(config.store)
    plans = [
        choose(settings.kind, count, config.embedding_size, settings.memory, settings.recall)
        for count in (max(images.stored), min(images.stored))
    ]
    return f"{len(images.stored)} shards, each at most {plans[0].describe()}"


def _name(run: Location) -> str:
    name = store_name(run)
    require_name(name)
    return name


def _weights(config: Config) -> str:
    wanted = {key: getattr(config.evaluation, key) for key in ("extractor", "perceptual")}
    for key, name in wanted.items():
        if name in WEIGHTS and find(WEIGHTS[name]) is None:
            raise ConfigError(
                f"evaluation.{key} = {name}, but its weights were not found; `rgcluster weights` says where they "
                "may lie"
            )
    return ", ".join(f"{key} {name}" for key, name in wanted.items())


def _trackers(config: Config) -> str:
    for name in config.cluster.trackers:
        if find_spec(name) is None:
            raise ConfigError(
                f"cluster.trackers names {name}, which is not installed; pip install 'rgcluster[{name}]', or "
                "leave it out"
            )
    return ", ".join(config.cluster.trackers) or "none"


def _disk(config: Config, images: Images, run: Location) -> str:
    parts = dict(_writes(config, images))
    needed = sum(parts.values())
    free = run.free_bytes()
    if free is None:
        return f"about {readable_size(needed)} will be written"
    if free < needed:  # only then look at what is there already
        needed = max(0, needed - _held(run))
    if free < needed:
        listed = ", ".join(f"{name} {readable_size(size)}" for name, size in parts.items())
        what = f"the run will write about {readable_size(needed)} (in all {listed})"
        raise ConfigError(
            f"{run}: {readable_size(free)} are free, but {what}; free some space, or give another --run"
        )
    return f"about {readable_size(needed)} will be written, {readable_size(free)} are free"


def _writes(config: Config, images: Images) -> Iterator[tuple[str, int]]:
    """Yield what a run writes, in bytes: checkpoints of every stage, one more while it is replaced; store; images."""
    sizes = network_sizes(config)
    trained = {
        "translation": sizes["E_c, E_s, G"] + sizes["D"],
        "retrieval": len(config.retrieval.negatives) * sizes["R"],
        "guidance": len(config.guidance.variants) * (sizes["E_c, E_s, G"] + sizes["D"] + sizes["f"]),
    }
    kept = {stage: getattr(config, stage).checkpoint_keep + 1 for stage in trained}
    yield "checkpoints", sum(STATE_BYTES * size * kept[stage] for stage, size in trained.items())
    yield "networks", sum(4 * size for size in trained.values())
    picture = config.data.image_size**2 * 3
    yield "store", sum(images.stored) * (picture + 4 * config.embedding_size + 9)
    models = 1 + len(config.guidance.variants)
    yield "measured images", models * config.evaluation.images * picture


def _held(run: Location) -> int:
    """Return the bytes that the run has written already of what `_writes` counts, and will not write again."""
    places = [stage_directory(run, name) for name in ("translation", "retrieval", "guidance", "store")]
    total = 0
    for place in (*places, run / "measured"):
        for path in place.local().rglob("*"):
            with suppress(FileNotFoundError):  # a process at work there replaces files
                total += path.stat().st_size if path.is_file() else 0
    return total


def _evenly(count: int, shards: int) -> tuple[int, ...]:
    return tuple(count * (number + 1) // shards - count * number // shards for number in range(shards))


def _sizes(shards: ShardSet) -> tuple[tuple[int, int], ...]:
    """Return the sizes of the first images, if the shards store the original files."""
    if shards.prepared is not None or not shards.files:
        return ()
    return tuple(image_sizes(shards.read(0, ["image"], [0])["image"].to_pylist()))


def _by_shard(shards: ShardSet, config: Config) -> tuple[int, ...]:
    """Return the number of images in each shard of the store."""
    only_train = config.store.images == "train"
    ids = [shards.index("train", config.data.fraction if only_train else 1.0).row_ids]
    if not only_train and shards.splits.get(UNLABELLED):
        ids.append(shards.index(UNLABELLED).row_ids)
    owners = shard_of(np.concatenate(ids), config.store.shards)
    return tuple(np.bincount(owners, minlength=config.store.shards).tolist())
