"""The attribute classifier of ACC (section 4.1), called the judge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rgcluster.base.weights import find, load_state
from rgcluster.errors import CheckpointError, DataError, TrainingDiverged
from rgcluster.evaluate.metrics.images import Images, batches, check_images, normalised

__all__ = ["AttributeClassifier", "default_architecture", "train_classifier"]

_FORMAT = "rgcluster-attribute-classifier-1"
_SMALLEST_FOR_RESNET50 = 96
_LARGEST_FOR_SMALL = 128
LEARNING_RATE = 4e-3


class AttributeClassifier(nn.Module):
    """One logit per attribute, for images of one size: a small residual network or the paper's ResNet-50."""

    def __init__(
        self, attribute_names: Sequence[str], image_size: int, *, width: int = 32, architecture: str = "small"
    ) -> None:
        super().__init__()
        self.attribute_names = tuple(attribute_names)
        self.image_size, self.width, self.architecture = image_size, width, architecture
        if architecture == "small":
            self.net = _small(len(self.attribute_names), image_size, width)
        elif architecture == "resnet50":
            from torchvision.models import resnet50

            self.net = resnet50(weights=None, num_classes=len(self.attribute_names))
        else:
            raise DataError(f"no classifier is called {architecture!r}: choose small or resnet50")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, A] of images [B, 3, H, W] on the scale 0 to 255."""
        return self.net(normalised(images))

    def probabilities(self, images: Images, *, batch_size: int = 128) -> np.ndarray:
        """Return the probability of each attribute, float32 [N, A].

        Images are uint8 [N, H, W, 3] of the trained size, else DataError.
        """
        _check_size(images, self.image_size)
        device = next(self.parameters()).device
        self.eval()
        with torch.inference_mode():
            return np.concatenate(
                [self(part).sigmoid().cpu().numpy() for part in batches(images, batch_size, device)]
            )

    def predict(self, images: Images) -> np.ndarray:
        """Return the attributes seen, bool [N, A], in images uint8 [N, H, W, 3] of the trained size."""
        return self.probabilities(images) > 0.5

    def to_bytes(self) -> bytes:
        """Return the weights as safetensors, with what `from_bytes` needs as JSON in the header."""
        from safetensors.torch import save

        tensors = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        manifest = {
            "format": _FORMAT,
            "architecture": self.architecture,
            "image_size": self.image_size,
            "width": self.width,
            "attribute_names": list(self.attribute_names),
        }
        return save(tensors, metadata={"manifest": json.dumps(manifest, sort_keys=True)})

    @classmethod
    def from_bytes(cls, content: bytes) -> AttributeClassifier:
        """Return the classifier that `to_bytes` wrote, on the CPU; CheckpointError for other content."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(content)
            manifest = json.loads(_safetensors_metadata(content)["manifest"])
            if manifest["format"] != _FORMAT:
                raise CheckpointError(f"a classifier of format {manifest['format']}: train it again")
            classifier = cls(
                manifest["attribute_names"],
                manifest["image_size"],
                width=manifest["width"],
                architecture=manifest["architecture"],
            )
            classifier.load_state_dict(tensors)
        except (SafetensorError, KeyError, ValueError, RuntimeError):
            raise CheckpointError("this attribute classifier is damaged: remove it and train again") from None
        return classifier.eval()


def train_classifier(
    images: Images,
    labels: np.ndarray,
    attribute_names: Sequence[str],
    *,
    steps: int,
    batch_size: int = 64,
    width: int = 32,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> AttributeClassifier:
    """Train on images uint8 [N, H, W, 3], H = W, and labels 0 or 1 [N, A], with binary cross-entropy.

    AdamW, one cycle; images are mirrored, shifted and brightened at random.
    `progress(step, steps, loss)` is called after every step. DataError for data of
    other shapes, TrainingDiverged for a loss that is not finite.
    """
    check_images(images)
    _check_size(images, images.shape[1])
    _check_labels(labels, (len(images), len(attribute_names)))
    place = torch.device(device)
    rng = np.random.default_rng(seed)
    classifier = _initial(attribute_names, images.shape[1], width, seed)
    classifier.to(place).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < min(batch_size, len(images)):
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[:batch_size], order[batch_size:]
        batch = _jittered(torch.from_numpy(images[chosen]).to(place), rng)
        wanted = torch.from_numpy(labels[chosen].astype(np.float32)).to(place)
        loss = nn.functional.binary_cross_entropy_with_logits(classifier(batch), wanted)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the classifier's loss is {value} at step {step}: look at the images and labels"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * _one_cycle((step + 0.5) / steps)
        optimiser.step()
        if progress is not None:
            progress(step + 1, steps, value)
    return classifier.eval()


def default_architecture(image_size: int) -> str:
    """Return "resnet50" above 128 pixels a side, or from 96 where its weights were found; else "small"."""
    if image_size > _LARGEST_FOR_SMALL:
        return "resnet50"
    found = image_size >= _SMALLEST_FOR_RESNET50 and find("resnet50") is not None
    return "resnet50" if found else "small"


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def _small(num_attributes: int, image_size: int, width: int) -> nn.Sequential:
    """Return a residual network that halves the image until it is 4 to 7 pixels a side."""
    if image_size < 16 or image_size % 4:
        raise DataError(
            f"images of {image_size} pixels: the small classifier needs a multiple of 4, 16 or more"
        )
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    side, channels = image_size // 2, width
    while side >= 8 and side % 2 == 0:
        wider = min(channels * 2, width * 8)
        layers.append(_Residual(channels, wider, 2))
        side, channels = side // 2, wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_attributes))


def _initial(names: Sequence[str], image_size: int, width: int, seed: int) -> AttributeClassifier:
    chosen = default_architecture(image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = AttributeClassifier(names, image_size, width=width, architecture=chosen)
    weights = find("resnet50") if chosen == "resnet50" else None
    if weights is not None:
        state = load_state(weights)
        # The head is for ImageNet's classes; ours keeps its random start.
        kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
        head = {key: value for key, value in classifier.net.state_dict().items() if key.startswith("fc.")}
        try:
            classifier.net.load_state_dict(kept | head)
        except RuntimeError:
            raise CheckpointError(f"{weights.path} does not hold the weights of ResNet-50") from None
    return classifier


def _one_cycle(done: float) -> float:
    """Return the share of the peak learning rate once the share `done` of the steps is over (Smith 2018)."""
    rise = 0.25
    phase = done / rise - 1 if done < rise else (done - rise) / (1 - rise)
    return 0.5 + 0.5 * math.cos(math.pi * phase)


def _jittered(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return images uint8 [B, H, W, 3] as float32 [B, 3, H, W], mirrored, shifted, brightened at random."""
    count, side = images.shape[:2]
    reach = max(1, side // 16)
    shift = torch.from_numpy(rng.integers(-reach, reach + 1, (2, count, 1))).to(images.device)
    mirror = torch.from_numpy(rng.random((count, 1)) < 0.5).to(images.device)
    line = torch.arange(side, device=images.device)
    rows = (line + shift[0]).clamp(0, side - 1)
    columns = (torch.where(mirror, side - 1 - line, line) + shift[1]).clamp(0, side - 1)
    each = torch.arange(count, device=images.device)[:, None, None]
    moved = images[each, rows[:, :, None], columns[:, None, :]].float()
    factor = torch.from_numpy(rng.uniform(0.9, 1.1, (count, 1, 1, 1))).to(moved)
    return (moved * factor).clamp(0, 255).permute(0, 3, 1, 2)


def _check_size(images: Images, side: int) -> None:
    check_images(images)
    if images.shape[1:3] != (side, side):
        raise DataError(f"images are {images.shape[1]} x {images.shape[2]}: expected {side} x {side}")


def _check_labels(labels: np.ndarray, shape: tuple[int, int]) -> None:
    if labels.shape != shape:
        raise DataError(f"labels have shape {list(labels.shape)}, expected {list(shape)}")
    if not np.isin(labels, (0, 1)).all():
        raise DataError("labels must be 0 or 1; CelebA's -1 means 0")


def _safetensors_metadata(content: bytes) -> dict[str, Any]:
    # safetensors reads the metadata of files only, not of bytes; this is the documented layout.
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]
