"""R: embeds a content and a style, so that the store finds images that have both (Table 8), and may compare colours."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.model.layers import ConvBlock, layer_norm

__all__ = ["JointEncoder", "RetrievalEncoder", "SplitEncoder", "retrieval_encoder"]


class RetrievalEncoder(nn.Module):
    """What the forms of R share: beside R(content, style), the store may compare colours (not in the paper).

    E_c removes colours, so R cannot tell light skin or a light background from a dark one. The mean colours of
    `model.retrieval_colours` squared parts of an image add their mean squared difference to R's squared distance,
    times `model.retrieval_colour_weight`. A stored image has its own colours. A query has those that its translation
    is expected to have: the image's, changed by a small network of these colours and the target style.
    """

    colour_scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._side = config.model.retrieval_colours
        self.change: nn.Sequential | None = None
        if self._side:
            numbers, hidden = 3 * self._side**2, config.model.retrieval_hidden
            self.change = nn.Sequential(
                nn.Linear(numbers + config.style_size, hidden), nn.ReLU(), nn.Linear(hidden, numbers)
            )
            # A buffer, so that R's digest tells stores of other weights apart.
            weight = config.model.retrieval_colour_weight
            self.register_buffer("colour_scale", torch.tensor((weight / numbers) ** 0.5))

    def embed(self, image: Tensor, content: Tensor, style: Tensor) -> Tensor:
        """Embed real images [B, 3, H, W], their contents [B, C, h, w] and styles [B, n * style_dim] in fp32.

        Returns [B, config.embedding_size].
        """
        return self._beside(self(content, style.float()), self._colours(image))

    def query(self, image: Tensor, content: Tensor, style: Tensor) -> Tensor:
        """As `embed`, for images that are to be translated to the style."""
        return self._beside(self(content, style.float()), self._expected(image, style))

    def colour_error(self, image: Tensor, style: Tensor, translation: Tensor) -> Tensor | None:
        """Return the mean squared error of the colours expected of images' translations [B, 3, H, W] to the style."""
        expected, colours = self._expected(image, style), self._colours(translation)
        return None if expected is None or colours is None else F.mse_loss(expected, colours)

    def _colours(self, image: Tensor) -> Tensor | None:
        return F.adaptive_avg_pool2d(image.float(), self._side).flatten(1) if self._side else None

    def _expected(self, image: Tensor, style: Tensor) -> Tensor | None:
        colours = self._colours(image)
        if colours is None or self.change is None:
            return None
        with torch.autocast(image.device.type, enabled=False):
            return colours + self.change(torch.cat([colours, style.float()], dim=1))

    def _beside(self, vector: Tensor, colours: Tensor | None) -> Tensor:
        if colours is None:
            return vector.float()
        return torch.cat([vector.float(), colours * self.colour_scale], dim=1)


class JointEncoder(RetrievalEncoder):
    """The paper's R: content [B, C, h, w] and style [B, n * style_dim] -> embedding [B, retrieval_dim] (Table 8).

    At 32 px its convolutions leave 1 x 1 of the content's map.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
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


class SplitEncoder(RetrievalEncoder):
    """R with fixed weights of unit-length content and unit-length style, side by side; not in the paper.

    Without colours, the squared distance of two embeddings is (1 - w) times that of their contents plus w times that
    of their styles, w being `model.retrieval_style_weight`, so the store still searches by Euclidean distance. The
    content is normalised, convolved once with stride 2 and projected; both maps start orthogonal, which preserves
    distances.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
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


def retrieval_encoder(config: Config) -> RetrievalEncoder:
    """Return the R of the type `model.retrieval`."""
    return SplitEncoder(config) if config.model.retrieval == "split" else JointEncoder(config)
