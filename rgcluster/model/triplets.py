"""Anchor, positive and negatives of stage 2, from images and the frozen networks (eq. 8, Figure 2).

A triplet is sent as pictures and the anchor's style. The trainer encodes the pictures again, because a content map
is ten times as large as its picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rgcluster.model.fusion import Fused
from rgcluster.model.translator import Translator

__all__ = ["CATEGORIES", "Encoded", "choose_categories", "encode_triplets", "generate_negatives"]

CATEGORIES = ("easy", "medium", "hard", "own")
"""Kinds of negative; a strategy of Table 1 is a prefix: easy 1, medium 2, hard 3, all 4 kinds."""

NUM_KINDS = {"easy": 1, "medium": 2, "hard": 3, "all": 4}

Encoded = tuple[Tensor, Tensor]
"""A content [B, C, h/4, w/4] and a style [B, n * style_dim]."""


def choose_categories(uniform: npt.NDArray[np.float64], strategies: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return for each strategy one negative category, [B, len(strategies)], from uniforms [B, 4].

    Each column is uniform over its strategy's kinds. The draws are nested: a strategy uses the draw of the
    next larger one where it can, so that networks trained side by side share pictures.
    """
    chosen = np.zeros((len(uniform), 5), np.int64)
    chosen[:, 4] = (uniform[:, 3] * 4).astype(np.int64)
    for kinds in (3, 2, 1):
        inherited = chosen[:, kinds + 1]
        redrawn = (uniform[:, kinds - 1] * kinds).astype(np.int64)
        chosen[:, kinds] = np.where(inherited < kinds, inherited, redrawn)
    return chosen[:, [NUM_KINDS[name] for name in strategies]]


@torch.inference_mode()
def generate_negatives(
    translator: Translator,
    image: Tensor,
    reference: Tensor,
    styles: dict[str, Tensor],
    categories: npt.NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    """Return the positives [B, 3, h, w] and the negatives [B, K, 3, h, w] for the `categories` [B, K].

    `image` is x and `reference` x_r; `styles` holds "target" s_t, "hard" s_r and "own" s_i, each
    [B, n * style_dim]. Only the pictures of drawn categories are generated.
    """
    content, own = translator.content_encoder(image), translator.own_style(image)
    positive = translator.generate(Fused(content), styles["target"], image, own=own).image
    negatives = reference.unsqueeze(1).repeat(1, categories.shape[1], 1, 1, 1)
    for kind, name in enumerate(CATEGORIES[1:], start=1):
        wanted = torch.from_numpy((categories == kind).any(axis=1)).to(image.device)
        if not wanted.any():
            continue
        if name == "medium":  # same style, other content
            made = translator(reference[wanted], styles["target"][wanted]).image
        else:  # same content, other style
            made = translator.generate(
                Fused(content[wanted]), styles[name][wanted], image[wanted],
                own=None if own is None else own[wanted],
            ).image  # fmt: skip
        full = torch.zeros_like(image)
        full[wanted] = made
        places = torch.from_numpy(categories == kind).to(image.device)
        negatives = torch.where(places[..., None, None, None], full.unsqueeze(1), negatives)
    return positive, negatives


@torch.no_grad()  # not inference_mode: R saves these tensors for its backward
def encode_triplets(
    translator: Translator,
    image: Tensor,
    positive: Tensor,
    negatives: Tensor,
    target_style: Tensor,
    categories: Tensor,
    shares_style: Tensor,
) -> tuple[Encoded, Encoded, list[Encoded]]:
    """Return anchor (c, s_t), positive (E_c(x_hat), E_s(x_hat)) and the K negatives, encoded.

    A medium negative takes its style from the positive: (E_c(x_hat_r), E_s(x_hat)). An easy one takes the anchor's,
    (E_c(x_r), s_t), in the rows `shares_style` [B].
    """
    encode = translator.content_encoder
    anchor = (encode(image), target_style)
    positive_style = translator.style_encoder(positive).mean
    encoded_positive = (encode(positive), positive_style)
    batch, count = categories.shape
    # Strategies that drew the same category share the picture: encode it once.
    first = torch.stack(
        [(categories == categories[:, k : k + 1]).int().argmax(dim=1) for k in range(count)], dim=1
    )
    unique = first == torch.arange(count, device=first.device)
    pictures = negatives[unique]
    contents, styles = encode(pictures), translator.style_encoder(pictures).mean
    place = torch.zeros(batch, count, dtype=torch.long, device=first.device)
    place[unique] = torch.arange(len(pictures), device=first.device)
    place = place.gather(1, first)
    result = []
    for k in range(count):
        style = styles[place[:, k]]
        medium, easy = (categories[:, k] == CATEGORIES.index(name) for name in ("medium", "easy"))
        style = torch.where(medium[:, None], positive_style, style)
        style = torch.where((easy & shares_style)[:, None], target_style.to(style.dtype), style)
        result.append((contents[place[:, k]], style))
    return anchor, encoded_positive, result
