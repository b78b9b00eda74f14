"""What the command line does with a finished run in its own process, as functions.

This module imports neither Ray's libraries nor, for an endpoint, torch: a translation from the shell is over before
they would be loaded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rgcluster.base.cluster.address import require_endpoint
from rgcluster.base.rundir import snapshot_of
from rgcluster.base.storage import Location
from rgcluster.config import StoreConfig
from rgcluster.data.fits import Fit
from rgcluster.data.images import UInt8Array, encode_png, grid, is_picture_name, picture_format
from rgcluster.errors import ConfigError, DataError, RequestRefused, SomeFailed

__all__ = ["query", "run_store", "translate"]


def translate(
    images: Sequence[Path],
    run: str | None,
    url: str | None,
    to: str,
    target: Path,
    samples: int,
    seed: int,
    model: str | None,
    fit: Fit = "auto",
) -> Iterator[Path]:
    """Translate image files; yield each picture written: one an image, its samples side by side.

    Of several images those at fault are passed over; SomeFailed lists them at the end.
    """
    if (run is None) == (url is None):
        raise ConfigError("give either --run, a finished run, or --url, an endpoint")
    several = len(images) > 1
    named = Counter(path.stem for path in images).most_common(1)
    if named and named[0][1] > 1:
        raise ConfigError(f"{named[0][1]} of the images are called {named[0][0]}; translate them one by one")
    folder = several or target.is_dir() or not target.suffix
    if several and (target.is_file() or is_picture_name(target.name)) and not target.is_dir():
        raise ConfigError(f"--out {target}: several images need a folder, not one file")
    encode = encode_png if folder else picture_format(str(target))
    make = _translations(run, url, to, samples, seed, model, fit)
    faults = []
    for path in images:
        try:
            pictures = make(path)
        except (DataError, RequestRefused) as error:
            whole = isinstance(error, RequestRefused) and error.field not in (None, "image")
            if not several or whole:  # what is wrong with the request is wrong with every image
                raise
            faults.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        file = target / f"{path.stem}.png" if folder else target
        Location(file).write_bytes(encode(grid(pictures[None])))
        yield file
    if faults:
        raise SomeFailed(f"{len(faults)} of {len(images)} images were not translated: {'; '.join(faults)}")


def _translations(
    run: str | None, url: str | None, to: str, samples: int, seed: int, model: str | None, fit: Fit
) -> Callable[[Path], UInt8Array]:
    """Return what translates one image file, by an endpoint or with a run."""
    if url:
        from rgcluster.client import Client

        require_endpoint(url)
        client = Client(url, api_key=os.environ.get("RGCLUSTER_API_KEY"))
        return lambda path: (
            client.translate(path, to, samples=samples, seed=seed, model=model, fit=fit).images
        )
    from rgcluster.translate.opened import RunTranslator

    translator = RunTranslator(run or "", model or "rg-unit")
    return lambda path: translator.translate(path, to, samples=samples, seed=seed, fit=fit)


def query(
    image: Path, run: str, to: str, count: int, target: Path | None, fit: Fit = "auto"
) -> list[tuple[int, float]]:
    """Return the row ids and distances of the nearest stored images; draw them to `target` if given."""
    from rgcluster.translate.opened import RunTranslator

    encode = picture_format(str(target)) if target else encode_png
    translator = RunTranslator(run, gpu=False)
    found = translator.neighbours(image, to, count, fit)
    if target:
        Location(target).write_bytes(
            encode(grid(np.concatenate([translator.read(image, fit)[None, None], found.images], axis=1)))
        )
    return list(zip(found.ids[0].tolist(), found.distances[0].tolist(), strict=True))


def run_store(run: str) -> tuple[Location, str, StoreConfig]:
    """Return where a run's store lies, the name under which it is served, and its configuration."""
    from rgcluster.base.rundir import open_run, store_name

    config, location = open_run(run)
    return snapshot_of(location), store_name(location), config.store
