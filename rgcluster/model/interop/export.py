"""Export of a trained translator to one file, ONNX or `torch.export`, checked against the original."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rgcluster.config import Config
from rgcluster.errors import ConfigError, ExportMismatch
from rgcluster.model.gmm import sample_style
from rgcluster.model.kernels.convolution import convolutions
from rgcluster.model.translator import Translator

__all__ = ["Exported", "Format", "Portable", "export_translator"]

Format = Literal["onnx", "torch"]
OPSET = 20
TOLERANCE = 1e-4
"""Largest difference in [-1, 1] between a pixel of the exported translator and of the original."""


@dataclass(frozen=True)
class Exported:
    """Description of an exported file: inputs with shapes (letters are free sizes), and its agreement."""

    format: Format
    opset: int | None
    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]
    largest_difference: float
    tested_batch: int


class Portable(nn.Module):
    """Images [B, 3, h, w] in [-1, 1], target domains [B, n] in {0, 1} and noise [B, n * style_dim] to translations.

    A guided translator also takes its neighbours, images [B, M, 3, h, w]: the store has to find them.
    """

    def __init__(self, translator: Translator, config: Config) -> None:
        super().__init__()
        self.translator, self.std = translator, config.model.prior_std

    def forward(
        self, image: Tensor, domain: Tensor, noise: Tensor, neighbours: Tensor | None = None
    ) -> Tensor:
        net, style = self.translator, sample_style(domain, noise, self.std)
        return net(image, style, None if neighbours is None else net.encode_references(neighbours)).image


def export_translator(translator: Translator, config: Config, kind: Format, target: Path) -> Exported:
    """Write the translator to `target` and test the file on a batch of another size.

    ConfigError where a package for ONNX is missing; ExportMismatch, without a file, where the pixels differ.
    """
    module = Portable(translator.eval().cpu(), config).eval()
    example, other = _inputs(config, translator, 2, 0), _inputs(config, translator, 3, 1)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.partial{target.suffix}")
    try:
        with convolutions("direct"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = module(*other.values())
            write = _write_onnx if kind == "onnx" else _write_torch
            found = write(module, example, partial, other)
        difference = float((found - expected).abs().max())
        if not difference <= TOLERANCE:
            raise ExportMismatch(
                f"{target}: the exported translator differs from the original by {difference:.2g} "
                f"(at most {TOLERANCE:g} is allowed); nothing was written"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    shapes = {name: ["B", *value.shape[1:]] for name, value in example.items()}
    opset = OPSET if kind == "onnx" else None
    return Exported(
        kind, opset, shapes, {"translation": ["B", *expected.shape[1:]]}, difference, len(expected)
    )


def _inputs(config: Config, translator: Translator, batch: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = config.data.image_size
    inputs = {
        "image": torch.rand(batch, 3, size, size, generator=generator) * 2 - 1,
        "domain": torch.randint(0, 2, (batch, config.num_attributes), generator=generator).float(),
        "noise": torch.randn(batch, config.style_size, generator=generator),
    }
    if translator.fusion is not None:
        count = config.guidance.retrieval_count
        inputs["neighbours"] = torch.rand(batch, count, 3, size, size, generator=generator) * 2 - 1
    return inputs


def _write_torch(
    module: nn.Module, example: dict[str, Tensor], target: Path, other: dict[str, Tensor]
) -> Tensor:
    program = torch.export.export(module, tuple(example.values()), dynamic_shapes=_any_batch(example))
    torch.export.save(program, target)
    return torch.export.load(target).module()(*other.values())


def _write_onnx(
    module: nn.Module, example: dict[str, Tensor], target: Path, other: dict[str, Tensor]
) -> Tensor:
    _require("onnx", "onnxscript", "onnxruntime")
    program: Any = torch.onnx.export(
        module,
        tuple(example.values()),
        input_names=list(example),
        output_names=["translation"],
        dynamic_shapes=_any_batch(example),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    program.save(str(target), external_data=False)
    session = import_module("onnxruntime").InferenceSession(str(target), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in other.items()})
    return torch.from_numpy(found)


def _any_batch(example: dict[str, Tensor]) -> tuple[dict[int, Any], ...]:
    batch = torch.export.Dim("B", min=1, max=1024)
    return tuple({0: batch} for _ in example)


def _require(*packages: str) -> None:
    for name in packages:
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise ConfigError(
                f"ONNX needs {name}: pip install 'rgcluster[onnx]', or use --format torch"
            ) from None
