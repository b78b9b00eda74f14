"""The import of the authors' 2021 weights, against a plain re-computation of that architecture from its names."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import random_images
from torch import Tensor

from rgcluster.config import Config, load_config
from rgcluster.errors import CheckpointError, DataError
from rgcluster.model.interop.published import (
    load_published_discriminator,
    load_published_generator,
    read_published,
)

Weights = dict[str, Tensor]


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Random tensors, scaled so that signals neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        fan = max(1, torch.Size(shape[1:]).numel())
        found[name] = torch.randn(shape, generator=generator) * (fan**-0.5 if len(shape) > 1 else 0.3)
    return found


def conv_shapes(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}


def generator_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for k, (inputs, outputs, kernel) in enumerate([(3, 64, 7), (64, 128, 4), (128, 256, 4)]):
        shapes |= conv_shapes(f"enc_content.model.{k}.conv", inputs, outputs, kernel)
    for k, (inputs, outputs, kernel) in enumerate(
        [(3, 64, 7), (64, 128, 4), (128, 256, 4), (256, 256, 4), (256, 256, 4)]
    ):
        shapes |= conv_shapes(f"enc_style.model.{k}.conv", inputs, outputs, kernel)
    for k in range(5):
        for head in ("fcs", "fcvars"):
            shapes |= {f"enc_style.{head}.{k}.weight": (8, 256), f"enc_style.{head}.{k}.bias": (8,)}
    for block in range(4):
        for place in range(2):
            shapes |= conv_shapes(f"enc_content.model.3.model.{block}.model.{place}.conv", 256, 256, 3)
            name = f"dec.model.0.model.{block}.model.{place}"
            shapes |= conv_shapes(f"{name}.conv", 256, 256, 3)
            shapes |= {f"{name}.norm.running_mean": (256,), f"{name}.norm.running_var": (256,)}
    for k, (inputs, outputs) in ((2, (256, 128)), (4, (128, 64))):
        shapes |= conv_shapes(f"dec.model.{k}.conv", inputs, outputs, 5)
        shapes |= {f"dec.model.{k}.norm.gamma": (outputs,), f"dec.model.{k}.norm.beta": (outputs,)}
    shapes |= conv_shapes("dec.content.conv", 64, 3, 7) | conv_shapes("dec.attention.conv", 64, 1, 7)
    for k, (inputs, outputs) in enumerate([(40, 256), (256, 256), (256, 2 * 8 * 256)]):
        shapes |= {f"mlp.model.{k}.fc.weight": (outputs, inputs), f"mlp.model.{k}.fc.bias": (outputs,)}
    return shapes


def discriminator_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    widths = [3, 64, 128, 256, 512, 512]
    for scale, side in ((0, 4), (1, 2)):
        for k in range(5):
            shapes |= conv_shapes(f"cnns_feat.{scale}.{k}.conv", widths[k], widths[k + 1], 4)
        shapes |= conv_shapes(f"cnns_src.{scale}", 512, 1, 1)
        shapes[f"cnns_cls.{scale}.weight"] = (5, 512, side, side)
    return shapes


# --- the re-computation, by the published names, in double precision ---


def conv(w: Weights, name: str, x: Tensor, stride: int, padding: int, mode: str) -> Tensor:
    x = F.pad(x, (padding,) * 4, mode="reflect" if mode == "reflect" else "constant")
    return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride)


def instance_norm(x: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = x.var(dim=(2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt()


def content(w: Weights, x: Tensor) -> Tensor:
    for k, (stride, padding) in enumerate([(1, 3), (2, 1), (2, 1)]):
        x = F.relu(instance_norm(conv(w, f"enc_content.model.{k}.conv", x, stride, padding, "reflect")))
    for block in range(4):
        name = f"enc_content.model.3.model.{block}.model"
        y = F.relu(instance_norm(conv(w, f"{name}.0.conv", x, 1, 1, "reflect")))
        x = x + instance_norm(conv(w, f"{name}.1.conv", y, 1, 1, "reflect"))
    return x


def style(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    for k, (stride, padding) in enumerate([(1, 3), (2, 1), (2, 1), (2, 1), (2, 1)]):
        x = F.relu(conv(w, f"enc_style.model.{k}.conv", x, stride, padding, "reflect"))
    x = x.mean(dim=(2, 3))
    heads = [
        torch.cat(
            [x @ w[f"enc_style.{head}.{k}.weight"].T + w[f"enc_style.{head}.{k}.bias"] for k in range(5)],
            dim=1,
        )
        for head in ("fcs", "fcvars")
    ]
    return heads[0], heads[1]


def adain(x: Tensor, parameters: Tensor, layer: int) -> Tensor:
    """For each layer in order its mean, then its deviation, 256 long each."""
    start = layer * 2 * 256
    mean, std = parameters[:, start : start + 256], parameters[:, start + 256 : start + 512]
    return instance_norm(x) * std[:, :, None, None] + mean[:, :, None, None]


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    flat = x.flatten(1)
    mean, std = flat.mean(dim=1)[:, None, None, None], flat.std(dim=1)[:, None, None, None]
    return (x - mean) / (std + 1e-5) * gamma[:, None, None] + beta[:, None, None]


def decode(w: Weights, c: Tensor, s: Tensor, image: Tensor, attention: bool) -> Tensor:
    hidden = s
    for k in range(3):
        hidden = hidden @ w[f"mlp.model.{k}.fc.weight"].T + w[f"mlp.model.{k}.fc.bias"]
        hidden = F.relu(hidden) if k < 2 else hidden
    x = c
    for block in range(4):
        name = f"dec.model.0.model.{block}.model"
        y = F.relu(adain(conv(w, f"{name}.0.conv", x, 1, 1, "zero"), hidden, 2 * block))
        x = x + adain(conv(w, f"{name}.1.conv", y, 1, 1, "zero"), hidden, 2 * block + 1)
    for k in (2, 4):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = conv(w, f"dec.model.{k}.conv", x, 1, 2, "zero")
        x = F.relu(layer_norm(x, w[f"dec.model.{k}.norm.gamma"], w[f"dec.model.{k}.norm.beta"]))
    raw = torch.tanh(conv(w, "dec.content.conv", x, 1, 3, "zero"))
    if not attention:
        return raw
    mask = torch.sigmoid(conv(w, "dec.attention.conv", x, 1, 3, "zero"))
    return raw * mask + image * (1 - mask)


def judge(w: Weights, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    maps, logits = [], []
    for scale in range(2):
        y = x
        for k in range(5):
            y = F.leaky_relu(conv(w, f"cnns_feat.{scale}.{k}.conv", y, 2, 1, "reflect"), 0.1)
        maps.append(conv(w, f"cnns_src.{scale}", y, 1, 0, "zero"))
        logits.append(conv(w, f"cnns_cls.{scale}", y, 1, 0, "zero").flatten(1))
        x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    return maps, logits


def released(*, attention: bool = False) -> Config:
    return load_config("released-2021", [f"model.attention={attention}"])


def double(weights: Weights) -> Weights:
    return {name: value.double() for name, value in weights.items()}


@torch.no_grad()
@pytest.mark.parametrize("attention", [False, True])
def test_an_imported_generator_computes_what_the_published_one_does(tmp_path: Path, attention: bool) -> None:
    weights = random_weights(generator_shapes(), seed=0)
    torch.save(weights, tmp_path / "generator.pt")
    state = read_published(tmp_path / "generator.pt")
    net = load_published_generator(state, released(attention=attention), "generator.pt").eval().double()
    x = random_images(2, 128).double()
    s = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)).double()
    w = double(weights)
    c = content(w, x)
    assert (net.content_encoder(x) - c).abs().max() < 1e-5
    for found, expected in zip(net.style_encoder(x), style(w, x), strict=True):
        assert (found - expected).abs().max() < 1e-5
    expected = decode(w, c, s, x, attention)
    assert expected.std() > 0.05
    assert (net.generator(c, s, x).raw.std() > 0.05) and (
        net.generator(c, s, x).image - expected
    ).abs().max() < 1e-5
    single = net.float().generator(c.float(), s.float(), x.float()).image
    assert (single - expected.float()).abs().max() < 1e-3


@torch.no_grad()
def test_an_imported_discriminator_computes_what_the_published_one_does(tmp_path: Path) -> None:
    weights = random_weights(discriminator_shapes(), seed=2)
    torch.save(weights, tmp_path / "discriminator.pt")
    state = read_published(tmp_path / "discriminator.pt")
    net = load_published_discriminator(state, released(), "discriminator.pt").double()
    x = random_images(2, 128).double()
    maps, logits = judge(double(weights), x)
    found_maps, found_logits = net(x)
    assert found_maps.shape == (2, 2, 4, 4)
    assert (found_maps[:, :1] - maps[0]).abs().max() < 1e-5
    doubled = maps[1].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert (found_maps[:, 1:] - doubled).abs().max() < 1e-5
    assert (found_logits - (logits[0] + logits[1]) / 2).abs().max() < 1e-5


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"enc_style.fcs.3.bias": None}, r"^g\.pt: lacks 'enc_style.fcs.3.bias'"),
        ({"enc_style.fcs.5.bias": (8,)}, r"^g\.pt: has an unknown 'enc_style.fcs.5.bias'"),
        ({"dec.content.conv.running_mean": (3,)}, "has an unknown 'dec.content.conv.running_mean'"),
        (
            {"mlp.model.1.fc.weight": (128, 256)},
            r"mlp.model.1.fc.weight is \[128, 256\], .* needs \[256, 256\]",
        ),
    ],
)
def test_other_keys_and_shapes_are_refused(change: dict[str, tuple[int, ...] | None], words: str) -> None:
    state = {name: torch.zeros(shape) for name, shape in generator_shapes().items()}
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=words):
        load_published_generator(state, released(), "g.pt")


def test_a_discriminator_is_no_generator() -> None:
    state = {name: torch.zeros(shape) for name, shape in discriminator_shapes().items()}
    with pytest.raises(CheckpointError, match="lacks 'dec.attention.conv.bias'"):
        load_published_generator(state, released(), "d.pt")


class Harmful:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, ("harm",)


def test_nothing_but_tensors_is_ever_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"weight": Harmful()}))
    torch.save({"weight": Harmful()}, tmp_path / "zip.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    (tmp_path / "noise.pt").write_bytes(b"\x80\x02 noise")
    for name in ("plain.pkl", "zip.pt", "list.pt", "noise.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: .*nothing was loaded"):
            read_published(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read_published(tmp_path / "missing.pt")
    assert not (tmp_path / "harm").exists()
