"""A finished run in this process, without Ray: translates image files and finds their neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rgcluster.base.rundir import open_run, snapshot_of
from rgcluster.data.fit import read_fitted
from rgcluster.data.fits import Fit
from rgcluster.errors import ConfigError, DataError
from rgcluster.model.handover import is_guided
from rgcluster.store.client import Neighbours
from rgcluster.store.local import LocalStore
from rgcluster.translate.device import pick_device
from rgcluster.translate.finished import KEEP, Judge, style_noise, wanted_changes
from rgcluster.translate.guided import load_models, require_model
from rgcluster.translate.tensors import to_images

__all__ = ["RunTranslator"]

UInt8Array = npt.NDArray[np.uint8]


class RunTranslator:
    """One of a run's translators, with the run's store if it is guided.

    DataError where there is no run, ConfigError where the run has no such model.
    """

    def __init__(self, run: str | Path, model: str = "rg-unit", *, gpu: bool | None = None) -> None:
        self.config, location = open_run(str(run))
        require_model(self.config, model)
        if gpu is None:
            gpu = torch.cuda.is_available() and self.config.cluster.gpu != "never"
        device = pick_device(self.config.cluster, gpu=gpu)
        store = LocalStore(snapshot_of(location)) if is_guided(model) else None
        self._model = load_models(location, self.config, store, device, (model,))[model]
        self._judge = Judge(location, self.config, device)

    def translate(
        self, image: str | Path, to: str, *, samples: int = 1, seed: int = 0, fit: Fit = "auto"
    ) -> UInt8Array:
        """Return translations uint8 [samples, h, w, 3] of an image file with the changes of `to`.

        `to` is a list such as `Blond_Hair,-Young`; other attributes stay as D sees them in the image. One
        sample of seed 0 has the domain's mean style. UnknownAttribute, ContradictoryTarget or DataError name the
        fault.
        """
        pixels = self.read(image, fit)
        noise = style_noise(seed, samples, self.config.style_size)
        domain = np.repeat(self._target(pixels, to), samples, axis=0)
        return self._model.translate(np.repeat(pixels[None], samples, axis=0), domain, noise, key=seed).image

    def neighbours(self, image: str | Path, to: str, count: int = 3, fit: Fit = "auto") -> Neighbours:
        """Return the stored images, [1, count], that are nearest to an image file with the changes of `to`.

        ConfigError for a model that uses no neighbours.
        """
        if self._model.retriever is None:
            raise ConfigError(f"{self._model.name} uses no neighbours; open rg-unit")
        pixels = self.read(image, fit)
        return self._model.neighbours(pixels[None], self._target(pixels, to), count)

    def read(self, image: str | Path, fit: Fit = "auto") -> UInt8Array:
        """Return an image file as input of the networks, uint8 [h, w, 3]; `data.fit.FITS` describes `fit`."""
        path = Path(image)
        if path.is_dir():
            raise DataError(f"{path}: a folder, not an image; give the images in it")
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        return read_fitted(path.read_bytes(), self.config.data, fit, str(path))

    def _target(self, pixels: UInt8Array, to: str) -> npt.NDArray[np.int8]:
        """Return the target domain [1, n]."""
        wanted = wanted_changes(to, self.config.data)
        if not (wanted == KEEP).any():
            return wanted[None]
        image = to_images(pixels[None], self._model.device)
        own = self._judge.domains(self._judge.probabilities(image))
        return np.where(wanted == KEEP, own, wanted)
