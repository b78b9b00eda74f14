"""Settings of serving: runs, replicas, limits. The file of `serve deploy` holds the same keys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from rgcluster.base.rundir import safe_name
from rgcluster.config import Section, overridden
from rgcluster.errors import ConfigError

__all__ = [
    "API_KEY_VARIABLE",
    "HOST_PATTERN",
    "MAX_SAMPLES",
    "Limits",
    "ServeSettings",
    "named_runs",
    "settings_of",
    "split_run",
    "with_api_key",
]

API_KEY_VARIABLE = "RGCLUSTER_API_KEY"
"""Environment variable that holds the API key."""

HOST_PATTERN = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
ORIGIN_PATTERN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@\s*]+", re.IGNORECASE)
MAX_SAMPLES = 64
"""The API's own ceiling; `limits.samples` lowers it."""


class Limits(Section):
    """Limits of one request, and of concurrent requests."""

    body_mib: float = Field(16.0, gt=0, le=1024, description="size of a request's body")
    megapixels: float = Field(40.0, gt=0, le=64, description="size of an image, checked before it is decoded")
    samples: int = Field(16, ge=1, le=MAX_SAMPLES)
    neighbours: int = Field(50, ge=1, le=1000)
    upload_seconds: float = Field(15.0, gt=0, description="time-out of reading a body")
    request_seconds: float = Field(30.0, gt=0, description="time-out of computing a response")
    uploads: int = Field(64, ge=1, description="bodies read at once by each HTTP replica")
    waiting: int = Field(64, ge=1, description="requests translated or queued at once by each HTTP replica")
    retry_after_s: int = Field(1, ge=1, description="value of the Retry-After header")


class ServeSettings(Section):
    """Settings of the endpoint that are not part of a run."""

    runs: dict[str, str] = Field(..., min_length=1, description="run directories by the name of their model")
    stores: dict[str, str] = Field(
        {}, description="names of running stores by model; without one, a store is started from the snapshot"
    )
    api_key: SecretStr | None = Field(
        None, min_length=8, description="clients must send it; None: open to all"
    )
    api_key_file: str | None = Field(None, description="file that holds the API key")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names in the Host header that are answered, besides localhost and IP addresses; "
        "`*.example.org` allows its subdomains, `*` every name",
    )
    allowed_origins: tuple[str, ...] = Field(
        (), description="origins whose pages may call the API, e.g. https://example.org; `*` allows every one"
    )
    http: Literal["auto", "direct", "proxy"] = Field(
        "auto",
        description="direct: one replica speaks HTTP itself; proxy: Serve's proxy, HTTP replicas and translators; "
        "auto: direct on one machine where one replica is requested",
    )
    fronts: int = Field(1, ge=1, description="HTTP replicas")
    min_replicas: int = Field(1, ge=1, description="translators of each run")
    max_replicas: int = Field(1, ge=1)
    cpus: float = Field(0.5, ge=0, description="CPUs that a translator reserves")
    gpus: float | None = Field(
        None,
        ge=0,
        description="GPUs, or a part of one, that a translator reserves; None: one where there are enough",
    )
    threads: int = Field(0, ge=0, description="torch threads of a translator, 0: as many as it has cores")
    precision: Literal["run", "auto", "fp32", "bf16"] = "run"
    batch_rows: int = Field(16, ge=1, le=1024, description="samples translated in one pass")
    store_timeout_s: float = Field(10.0, gt=0)
    without_store: Literal["fail", "unguided"] = "fail"
    """Response while the store is unavailable: an error, or a translation without neighbours, marked degraded."""
    show_neighbours: bool = Field(True, description="answers may hold images of the store")
    limits: Limits = Limits()

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not HOST_PATTERN.fullmatch(host):
                raise ValueError(f"{host!r} is no host name: write it without scheme, port or path")
        return tuple(host.lower().rstrip(".") for host in hosts)

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not ORIGIN_PATTERN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: write scheme://host or scheme://host:port")
        return tuple(origin.lower() for origin in origins)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not (
            key.get_secret_value().isascii() and key.get_secret_value().isprintable()
        ):
            raise ValueError("use printable ASCII characters, which every client can send in a header")
        return key

    @model_validator(mode="after")
    def _consistent(self) -> ServeSettings:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}"
            )
        if self.http == "direct" and (self.fronts > 1 or self.max_replicas > 1):
            more = "fronts" if self.fronts > 1 else "max_replicas"
            raise ValueError(
                f"http=direct is one replica, {more} asks for {getattr(self, more)}; choose one of the two"
            )
        for name in self.runs:
            if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(
                    f"runs: {name!r} cannot name a model: use letters of the English alphabet, digits, '.', '_' and '-'"
                )
        return self


def settings_of(
    tree: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "serve"
) -> ServeSettings:
    """Return the settings that a tree of keys describes, `--set` overrides on top; ConfigError names the fault.

    An API key among the overrides is refused: other users of the machine can read command lines.
    """
    overrides, tree = list(overrides), dict(tree)
    if any(re.match(r"\s*api_key\s*[.=]", override) for override in overrides):
        raise ConfigError(
            f"--set api_key: command lines are visible to other users; set {API_KEY_VARIABLE} or api_key_file"
        )
    if isinstance(tree.get("api_key"), str):
        tree["api_key"] = SecretStr(tree["api_key"])  # error messages quote the values that they refuse
    elif not isinstance(tree.get("api_key"), SecretStr | None):
        raise ConfigError(f"{source}: api_key: not a text; write it in quotes")
    return overridden(ServeSettings, tree, overrides, source)


def with_api_key(settings: ServeSettings) -> ServeSettings:
    """Return the settings with the API key of the environment or of `api_key_file`, where either holds one.

    The environment takes precedence over the file, and the file over `api_key`.
    """
    source, key = API_KEY_VARIABLE, os.environ.get(API_KEY_VARIABLE, "")
    if not key and settings.api_key_file:
        source = settings.api_key_file
        try:
            key = Path(source).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"api_key_file: {source}: {getattr(error, 'strerror', None) or 'not a text file'}"
            ) from None
        if not key:
            raise ConfigError(f"api_key_file: {source}: the file is empty")
    if not key:
        return settings
    # `settings_of` checks the key.
    return settings_of({**settings.model_dump(), "api_key": key}, source=source)


def split_run(text: str) -> tuple[str, str]:
    """Return name and directory of `NAME=DIRECTORY`, or of a directory without a name, such as an existing `lr=0.1`."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and "/" not in name and not Path(text).exists() else ("", text)


def named_runs(texts: Iterable[str]) -> dict[str, str]:
    """Return run directories by name, from `NAME=DIRECTORY` or a directory, whose own name it gets in ASCII."""
    runs: dict[str, str] = {}
    for text in texts:
        name, path = split_run(text)
        if not name:
            place = path.partition("?")[0] if "://" in path else Path(path).resolve()
            name = safe_name(Path(place).name)
        if name in runs:
            raise ConfigError(f"--run {text}: two runs named {name!r}; write --run NAME=DIRECTORY")
        runs[name] = path if "://" in path else str(Path(path).resolve())
    return runs
