"""The drawn faces, the shards, and how an image becomes a training image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rgcluster.config.section import NotInDigest, Section

__all__ = ["DataConfig", "FacesConfig"]


class FacesConfig(Section):
    """The drawn faces that stand in for photographs where no data is given."""

    count: int = Field(4000, ge=8, description="faces to draw")
    seed: int = 0


class DataConfig(Section):
    """What is read from the shards, and how an image becomes a training image."""

    attributes: tuple[str, ...] = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    """The attributes that span the domains, in this order."""
    exclusive: tuple[tuple[str, ...], ...] = (("Black_Hair", "Blond_Hair", "Brown_Hair"),)
    """Groups of which an image has at most one."""
    domains: Literal["independent", "one-hot"] = "independent"
    crop: int = Field(178, ge=0, description="side of the centre crop in source pixels, 0: none")
    image_size: int = Field(128, ge=32, description="side of a training image; a multiple of 32")
    mirror: bool = True
    fraction: float = Field(1.0, gt=0, le=1, description="share of the training rows, by hashed row id")
    balance: bool = Field(
        False, description="train on, and translate to, every domain that occurs equally often"
    )
    rows_per_shard: int = Field(2048, ge=1)
    cache_mib: Annotated[int, NotInDigest] = Field(
        1024, ge=0, description="decoded images are kept in Ray's object store up to this size"
    )

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.image_size % 32:
            raise ValueError(f"image_size {self.image_size} is no multiple of 32")
        if not self.attributes or len(set(self.attributes)) != len(self.attributes):
            raise ValueError("attributes must name at least one attribute, each once")
        for group in self.exclusive:
            for name in group:
                if name not in self.attributes:
                    raise ValueError(f"exclusive names {name!r}, which is not among attributes")
        if self.domains == "one-hot" and len(self.attributes) < 2:
            raise ValueError("one-hot domains need two attributes or more")
        return self
