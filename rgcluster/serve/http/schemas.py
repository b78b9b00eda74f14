"""Schemas of the API: parameters and responses, as OpenAPI describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rgcluster.data.fits import FITS, Fit
from rgcluster.serve.settings import MAX_SAMPLES
from rgcluster.translate.variants import Guidance

__all__ = [
    "Answer",
    "Domains",
    "Example",
    "Examples",
    "Health",
    "InterpolateParameters",
    "Model",
    "ModelParameter",
    "Models",
    "NeighbourImage",
    "NeighboursAnswer",
    "NeighboursParameters",
    "Parameters",
    "PictureParameters",
    "ReferenceParameters",
    "StoredNeighboursParameters",
    "Timings",
    "TranslateParameters",
    "AnswerWarning",
]

TARGET = (
    "`Blond_Hair,Male` sets attributes, `-Young` clears one, what is not named stays as it is in the image; "
    "or a full vector, `1,0,0,1,0`, in the order of /v1/domains, unless attributes are called so; "
    "empty: the image's own domain"
)
SEED_LIMIT = 2**63 - 1


class Parameters(BaseModel):
    """Base class that refuses unknown parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelParameter(Parameters):
    """Parameter of requests about one model."""

    model: str | None = Field(None, max_length=200, description="one of /v1/models; the first if not given")


class PictureParameters(ModelParameter):
    """Parameters of every request that translates an image."""

    fit: Fit = Field("auto", description="; ".join(f"`{name}`: {text}" for name, text in FITS.items()))
    guidance: Guidance = Field(
        "on", description="guide by the nearest real images, by none, or by random ones"
    )
    seed: int = Field(0, ge=0, le=SEED_LIMIT, description="the same seed gives the same pictures")
    format: Literal["json", "png"] | None = Field(
        None,
        description="`png`: only the pictures, side by side; by default as the Accept header specifies, or JSON",
    )


class TranslateParameters(PictureParameters):
    """`POST /v1/translate`."""

    target: str = Field(..., max_length=2000, description=TARGET, examples=["Blond_Hair,-Young"])
    samples: int = Field(
        1,
        ge=1,
        le=MAX_SAMPLES,
        description="number of pictures; a single one with seed 0 is the most typical",
    )


class InterpolateParameters(PictureParameters):
    """`POST /v1/interpolate`."""

    start: str = Field(
        "", max_length=2000, description=f"start of the interpolation: {TARGET}", examples=["Black_Hair"]
    )
    end: str = Field(
        ..., max_length=2000, description=f"end of the interpolation: {TARGET}", examples=["Blond_Hair"]
    )
    steps: int = Field(5, ge=2, le=MAX_SAMPLES, description="number of pictures, both ends included")


class ReferenceParameters(PictureParameters):
    """`POST /v1/reference`."""


class NeighboursParameters(ModelParameter):
    """`POST /v1/neighbors`."""

    target: str = Field("", max_length=2000, description=TARGET, examples=["Blond_Hair"])
    count: int = Field(5, ge=1, le=1000, description="number of images")
    fit: Fit = Field("auto", description="as for /v1/translate")
    images: bool = Field(True, description="include the images themselves")


class StoredNeighboursParameters(ModelParameter):
    """`GET /v1/neighbors`."""

    id: str = Field(..., pattern=r"^-?\d{1,19}$", description="id of a stored image, as answers name it")
    target: str = Field("", max_length=2000, description=TARGET, examples=["Blond_Hair"])
    count: int = Field(5, ge=1, le=1000, description="number of images")
    images: bool = Field(True, description="include the images themselves")


class NeighbourImage(BaseModel):
    """A stored image similar to the query."""

    id: str = Field(description="row id, as text because JavaScript numbers cannot hold 64-bit integers")
    distance: float | None = Field(description="in the retrieval space; null for a random image")
    image: str | None = Field(description="PNG in base64")


class AnswerWarning(BaseModel):
    """A warning about a response."""

    code: Literal["unlike_training", "unguided"]
    message: str


class Timings(BaseModel):
    """Milliseconds that each phase took."""

    read: float
    decode: float
    wait: float = Field(description="transfer to the translator, its queue, and back")
    model: float = Field(description="forward pass of the whole batch")
    encode: float
    batch_rows: int = Field(description="samples in the batch, of all requests")


class Answer(BaseModel):
    """Response of a translation."""

    model: str
    variant: str = Field(
        description="the network that was used, as the report names it", examples=["rg-unit"]
    )
    guidance: Guidance
    degraded: bool = Field(
        description="whether the store was unavailable and the pictures were translated without neighbours"
    )
    seed: int
    source: dict[str, float] | None = Field(
        description="probability of each attribute of the image by the discriminator; null where it was not needed"
    )
    targets: list[dict[str, int]] = Field(description="one domain, or the two ends of an interpolation")
    positions: list[float] | None = Field(description="of an interpolation: 0 is its start, 1 its end")
    input: str = Field(description="the image as the networks saw it: PNG in base64")
    images: list[str] = Field(description="PNG in base64")
    masks: list[str] = Field(
        description="white where the picture was changed, black where the input was kept: PNG in base64"
    )
    neighbours: list[list[NeighbourImage]] = Field(
        description="for each picture, nearest first; empty without guidance"
    )
    unlikeness: float = Field(
        description="distance of the image's content to the nearest training image's; up to 1 for 99 % of those"
    )
    warnings: list[AnswerWarning]
    timings: Timings


class NeighboursAnswer(BaseModel):
    """Stored images that are similar to an image and have the target's attributes."""

    model: str
    target: dict[str, int] | None
    neighbours: list[NeighbourImage]


class Domains(BaseModel):
    """The attributes that span a model's domains."""

    model: str
    attributes: list[str]
    exclusive: list[list[str]] = Field(description="groups of which an image has at most one")
    exactly_one: bool = Field(description="whether every image has exactly one of all attributes")


class Model(BaseModel):
    """A run that is served."""

    name: str
    image_size: int
    attributes: list[str]
    variants: dict[Guidance, str] = Field(description="the network that answers, by guidance")
    neighbours: int = Field(description="number of neighbours that guide a picture")
    stored_images: int
    trained: str = Field(description="digest of the guided networks")


class Models(BaseModel):
    """The served models; the first is the default."""

    models: list[Model]


class Example(BaseModel):
    """An image to try the model on."""

    number: int
    url: str


class Examples(BaseModel):
    """Images of the test split where the run's data is available, else of its store."""

    model: str
    examples: list[Example]


class Health(BaseModel):
    """Whether the endpoint is alive, and which models are ready."""

    status: Literal["ok", "not ready"]
    models: dict[str, bool]
