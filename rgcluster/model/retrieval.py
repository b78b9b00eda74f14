"""R: embeds a content and a style, so that the store finds images that have both (Table 8)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.model.layers import ConvBlock, layer_norm

__all__ = ["JointEncoder", "RetrievalEncoder", "SplitEncoder", "retrieval_encoder"]


class JointEncoder(nn.Module):
    """The paper's R: content [B, C, h, w] and style [B, n * style_dim] -> embedding [B, retrieval_dim] (Table 8).

    At 32 px its convolutions leave 1 x 1 of the content's map.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, width = config.model, config.model.width

        def block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> ConvBlock:
            own = model.retrieval_norm == "layer"
            return ConvBlock(
                inputs, outputs, kernel, stride, norm=layer_norm(outputs, model.layer_norm) if own else True
            )

        self.layers = nn.Sequential(
            block(4 * width, 2 * width, 3),
            block(2 * width, 2 * width, 4, 2),
            block(2 * width, width, 3),
            block(width, width, 4, 2),
            block(width, width // 2, 3),
            block(width // 2, width // 2, 4, 2),
        )
        side = config.data.image_size // 32
        self.head = nn.Sequential(
            nn.Linear(width // 2 * side * side + config.style_size, model.retrieval_hidden),
            nn.ReLU(),
            nn.Linear(model.retrieval_hidden, model.retrieval_hidden),
            nn.ReLU(),
            nn.Dropout(model.retrieval_dropout),
            nn.Linear(model.retrieval_hidden, model.retrieval_dim),
        )

    def forward(self, content: Tensor, style: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embed; `kept` [B, retrieval_hidden] replaces dropout: 0 where a unit is dropped.

        The head always computes in fp32: rounded embeddings would tie or swap neighbours at similar distances.
        """
        x = torch.cat([self.layers(content).flatten(1).float(), style.float()], dim=1)
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            if kept is None:
                return self.head(x)
            *hidden, _, last = self.head
            for layer in hidden:
                x = layer(x)
            return last(x * kept)


class SplitEncoder(nn.Module):
    """R with fixed weights of unit-length content and unit-length style, side by side; not in the paper.

    The squared distance of two embeddings is (1 - w) times that of their contents plus w times that of their
    styles, w being `model.retrieval_style_weight`, so the store still searches by Euclidean distance. The content
    is normalised, convolved once with stride 2 and projected; both maps start orthogonal, which preserves
    distances.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, width = config.model, config.model.width
        side, size = config.data.image_size // 8, model.retrieval_dim - config.style_size
        self.shares = (1 - model.retrieval_style_weight) ** 0.5, model.retrieval_style_weight**0.5
        self.reduce = nn.Conv2d(4 * width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.project = nn.Linear(2 * width * side * side, size, bias=False)
        nn.init.orthogonal_(self.reduce.weight)
        nn.init.orthogonal_(self.project.weight)

    def forward(self, content: Tensor, style: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embed in fp32; there is no dropout, so `kept` is ignored."""
        with nullcontext() if content.is_meta else torch.autocast(content.device.type, enabled=False):
            unit = F.normalize(content.float().flatten(1), dim=1).view_as(content)
            parts = self.project(self.reduce(unit).flatten(1)), style.float()
            return torch.cat(
                [share * F.normalize(part, dim=1) for share, part in zip(self.shares, parts, strict=True)],
                dim=1,
            )


RetrievalEncoder = JointEncoder | SplitEncoder


def retrieval_encoder(config: Config) -> RetrievalEncoder:
    """Return the R of the type `model.retrieval`."""
    return SplitEncoder(config) if config.model.retrieval == "split" else JointEncoder(config)
