"""Weights and forms of the losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rgcluster.config.section import Section

__all__ = ["LossConfig"]


class LossConfig(Section):
    """Weights of eq. 2-7 and the readings of the paper that can be chosen."""

    content: float = Field(1.0, ge=0)
    style: float = Field(10.0, ge=0)
    image: float = Field(1.0, ge=0)
    cycle: float = Field(10.0, ge=0)
    kl: float = Field(0.1, ge=0)
    domain: float = Field(1.0, ge=0)
    domain_of: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Multiples of `domain` in G's class loss for attributes by name, 1 where not named; one-hot domains ignore them.

    An attribute that shows in few pixels, such as age, tempts G to change more than it has to. Not in the paper."""
    adversarial: float = Field(1.0, ge=0)
    mask: float = Field(0.0, ge=0, description="mean of M in the translation; not in the paper")
    identity: float = Field(
        0.0, ge=0, description="L1(x_hat, x) where the target is the image's own domain; not in the paper"
    )
    own_targets: float = Field(
        0.0, ge=0, lt=1, description="share of the targets that are the image's own domain on purpose"
    )
    appearance: float = Field(
        0.0,
        ge=0,
        description="colours of x_hat against those that fusion `attention` finds; not in the paper",
    )
    pasted: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of back-translations that begin at x with another image pasted in; not in the paper",
    )
    """It is the nearest reference or, without references, the image of the batch whose domain is closest to the target.

    Where the mask repaints, such an image shows real hair of the target domain, and x shows what lies behind it.
    The hair that G paints is half transparent: a G that has learnt to remove only that leaves a haze of real hair."""
    gradient_penalty: float = Field(0.0, ge=0, description="R1: squared gradient of D at real images, halved")
    gradient_penalty_every: int = Field(
        8, ge=1, description="steps between two penalties, each so much larger"
    )
    cutout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="side of a square that is cut out of every image that D sees, as a share of the image's",
    )
    """D cannot name a domain by one part of the face alone, so G has to change all that tells the domain."""
    conditional: float = Field(
        0.0, ge=0, description="weight of the domain logits in D's score: D judges an image with its domain"
    )
    mismatched: float = Field(
        0.0,
        ge=0,
        description="weight of D's loss on real images with the target's domain, as if they were fakes",
    )
    fake_domain: float = Field(
        0.0,
        ge=0,
        description="weight of D's class loss on translations, whose class is their input's; in multiples of `domain`",
    )
    adversarial_form: Literal["least-squares", "hinge", "non-saturating"] = "least-squares"
    """`least-squares` is the paper's."""
    perceptual: float = Field(0.0, ge=0, description="needs VGG16 weights; the paper's 0.1")
    style_target: Literal["sampled", "encoded"] = "sampled"
    """What E_s(x_hat) is compared with: the style given to G, or E_s(x) as eq. 3 prints."""
    real_label: Literal[0, 1] = 1
    """D's target for real images; the paper's is 0."""
    posterior: Literal["mean", "sample"] = "mean"
    """The style that reconstruction and cycle get from E_s(x)."""
    mask_in: Literal["all", "translation"] = "all"
    """The passes that blend with their input: all, as in the paper, or the translation alone.

    Reconstruction and cycle reward M = 0, the input unchanged, on which a short training can settle.
    """
    cycle_form: Literal["cycle", "back-translation"] = "cycle"
    """`back-translation`: x_hat is a given image that G has to turn back into x, without a gradient through it and
    with the mask in force, as if it were a photograph of the target domain and x the truth."""
    cycle_style: Literal["own", "mean"] = "own"
    """The style with which x_hat is turned back: E_s(x), as in the paper, or the mean of x's domain."""
    cycle_blend: Literal["translated", "original"] = "translated"
    """The image that the cycle's mask lets through; `original` leaks the answer."""
