"""The networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rgcluster.config.section import Section

__all__ = ["ModelConfig"]


class ModelConfig(Section):
    """The networks of Tables 5 and 8; `width` is the first layer's 64."""

    width: int = Field(64, ge=4, multiple_of=2)
    num_residual_blocks: int = Field(4, ge=1)
    style_dim: int = Field(8, ge=1, description="style dimensions per attribute")
    style_mlp_width: int = Field(256, ge=8)
    attention: bool = True
    skip: bool = False
    """Show the image to G's last layers, too, which then need not paint again what stays; not in the paper."""
    fill: bool = False
    """Let G fill what it uncovers with 8 x 8 colours that a network of the whole image predicts; not in the paper."""
    own_style: bool = False
    """Tell G how far the wanted style is from the image's own, so it knows what changes; not in the paper."""
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    adain_scale: Literal["residual", "plain"] = "residual"
    """`residual`: 1 + the MLP's output; `plain`: the output itself."""
    retrieval: Literal["joint", "split"] = "joint"
    """R's form. `joint`: the paper's; `split`: unit-length content and style side by side, in `retrieval_dim`."""
    retrieval_style_weight: float = Field(
        0.5, gt=0, lt=1, description="share of the style in a distance of the split R"
    )
    retrieval_dim: int = Field(100, ge=2)
    retrieval_colours: int = Field(
        0,
        ge=0,
        le=16,
        description="parts along each side of an image whose mean colours R embeds; not in the paper",
    )
    retrieval_colour_weight: float = Field(
        1.0, gt=0, description="of the colours' mean squared difference beside R's squared distance"
    )
    retrieval_hidden: int = Field(512, ge=8)
    retrieval_dropout: float = Field(0.1, ge=0, lt=1)
    fusion: Literal["residual", "literal", "linear", "attention"] = "residual"
    """`literal`: eq. 9 as printed; `linear`: without its ReLUs; `residual`: c + outer(...), zero at the start.

    `attention`: every place attends to the references' pixels, where E_c finds the same content; not in the paper.
    """
    place_std: float = Field(
        1.5, ge=0, description="deviation of the code of a place at the start, of fusion `attention`"
    )
    layer_norm: Literal["group", "released"] = "group"
    """`released`: the 2021 code's, whose unbiased deviation gets the epsilon."""
    retrieval_norm: Literal["instance", "layer"] = "instance"
    discriminator_layers: int = Field(4, ge=1, le=5)
    discriminator_scales: int = Field(1, ge=1, le=3, description="D sees the image halved, too, where 2")
    discriminator_blur: bool = False
    """Whether D blurs before it halves the size, so that no gradient of a strided convolution prints a pattern."""
    discriminator_slope: float = Field(0.01, ge=0, lt=1, description="of D's leaky ReLU")
    discriminator_width: int = Field(0, ge=0, description="width of D's first layer, 0: that of the others")
    class_bias: bool = Field(True, description="whether D's class head has a bias")
    mask_bias: float = 0.0
    """Initial bias of the mask's head: below 0 the untrained mask lets more of the input through."""
    prior_std: float = Field(0.5, gt=0)
