"""Networks in and out by the command: published weights continue into stages 2 and 3; exports compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import command
from test_published import discriminator_shapes, generator_shapes, random_weights
from tiny import random_images, tiny_config, tiny_translator
from typer.testing import CliRunner

from rgcluster.base.storage import Location
from rgcluster.cli import app
from rgcluster.config import load_config
from rgcluster.errors import ConfigError, ExportMismatch, RunConflict
from rgcluster.model.handover import load_guided, load_translator, save_networks
from rgcluster.model.interop.export import Portable, export_translator
from rgcluster.pipeline.exchange import export, import_published

# --- export ---

EXPORTED = ("guidance.variants=[rg-unit]", "model.skip=true", "model.own_style=true", "model.fill=true")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a translator of stage 1 and a guided one, untrained."""
    config = tiny_config(*EXPORTED)
    here = Location(tmp_path / "run")
    guided = tiny_translator(config, guided=True)
    with torch.no_grad():
        guided.fusion.outer.weight.normal_(std=0.05)  # type: ignore[union-attr]
    save_networks(here / "translation" / "model", {"translator": tiny_translator(config)}, {})
    save_networks(here / "guidance" / "model", {"rg-unit": guided}, {})
    (here / "config.yaml").write_text(config.to_yaml())
    return tmp_path / "run"


@pytest.mark.parametrize("model", ["gmm-unit", "rg-unit"])
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_export_computes_what_the_translator_does(
    run: Path, tmp_path: Path, model: str, kind: str
) -> None:
    target = tmp_path / ("out.onnx" if kind == "onnx" else "out.pt2")
    arguments = ["export", "--run", str(run), "--model", model, "--format", kind, "--out", str(target)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "differs from the original by" in result.stdout
    about = json.loads((tmp_path / f"{target.name}.json").read_text())
    assert about["opset"] == (20 if kind == "onnx" else None)
    assert about["inputs"]["image"] == ["B", 3, 32, 32] and about["guided"] is (model == "rg-unit")
    assert about["largest_difference"] <= 1e-4 and about["attributes"][0] == "Black_Hair"

    config = tiny_config(*EXPORTED)
    inputs = [random_images(5, seed=7), torch.eye(5), torch.randn(5, 40)]
    if model == "rg-unit":
        inputs.append(random_images(15, seed=8).unflatten(0, (5, 3)))
        translator = load_guided(Location(run) / "guidance" / "model", config, "rg-unit")
    else:
        translator = load_translator(Location(run) / "translation" / "model", config)
    with torch.no_grad():
        expected = Portable(translator, config)(*inputs)
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        names = [item.name for item in session.get_inputs()]
        assert names == list(about["inputs"])
        (found,) = session.run(None, dict(zip(names, [value.numpy() for value in inputs], strict=True)))
    else:
        found = torch.export.load(target).module()(*inputs).detach().numpy()
    assert np.abs(found - expected.numpy()).max() < 1e-4
    assert not list(tmp_path.glob("*.partial*"))


def test_an_export_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    monkeypatch.setattr(
        "rgcluster.model.interop.export._write_torch",
        lambda module, example, target, other: (target.write_bytes(b"x"), module(*other.values()) + 0.01)[1],
    )
    with pytest.raises(ExportMismatch, match="differs from the original by 0.01"):
        export_translator(tiny_translator(config), config, "torch", tmp_path / "out.pt2")
    assert not list(tmp_path.iterdir())


def test_an_unknown_model_is_refused(run: Path, tmp_path: Path) -> None:
    config = tiny_config(*EXPORTED)
    with pytest.raises(ConfigError, match="this run has gmm-unit, rg-unit"):
        export(Location(run), config, "rg-unit-random", "torch", tmp_path / "out.pt2")


# --- import ---


def published(folder: Path, width: int = 64) -> tuple[Path, Path]:
    """Files of random weights under the published names; the narrow ones for the tests' size."""
    scale = 64 // width

    def narrow(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        fixed = {3, 1, 4, 5, 7, 8, 40, 2}
        return {
            name: tuple(
                size if size in fixed or (place > 1) else size // scale for place, size in enumerate(shape)
            )
            for name, shape in shapes.items()
        }

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_weights(narrow(generator_shapes()), 0), folder / "generator.pt")
    torch.save(random_weights(narrow(discriminator_shapes()), 1), folder / "discriminator.pt")
    return folder / "generator.pt", folder / "discriminator.pt"


def test_imported_networks_are_a_finished_stage(tmp_path: Path) -> None:
    generator, discriminator = published(tmp_path)
    run = tmp_path / "run"
    result = command(
        "import", "published", "--generator", str(generator), "--discriminator", str(discriminator),
        "--no-attention", "--run", str(run),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "--preset released-2021 --set model.attention=false" in result.stdout
    config = load_config("released-2021", ["model.attention=false"])
    net = load_translator(Location(run) / "translation" / "model", config)
    state = torch.load(generator, weights_only=True)
    assert torch.equal(net.generator.heads.weight[3:], state["dec.attention.conv.weight"])
    record = json.loads((run / "translation" / "stage.json").read_text())
    assert record["finished"] and record["imported"]["generator"]["file"] == "generator.pt"
    with pytest.raises(RunConflict, match="holds a translation already"):
        import_published(generator, None, config, Location(run))


def test_files_in_the_wrong_place_are_the_users_mistake(tmp_path: Path) -> None:
    generator, discriminator = published(tmp_path)
    result = command(
        "import",
        "published",
        "--generator",
        str(discriminator),
        "--no-attention",
        "--run",
        str(tmp_path / "run"),
    )
    assert result.returncode == 2 and "lacks 'dec.attention.conv.bias'" in result.stderr
    assert not (tmp_path / "run").exists()


SMALL = [
    "data.image_size=64", "model.width=16", "model.style_mlp_width=64", "model.retrieval_hidden=64",
    "retrieval.steps=4", "retrieval.batch_size=8", "retrieval.report_every=2",
    "guidance.steps=4", "guidance.batch_size=8", "guidance.report_every=2", "guidance.variants=[rg-unit]",
    "model.attention=true",
]  # fmt: skip


@pytest.mark.long
def test_imported_networks_go_on_into_stages_2_and_3(smoke_run: Path, tmp_path: Path) -> None:
    generator, discriminator = published(tmp_path, width=16)
    state = torch.load(discriminator, weights_only=True)
    for scale, side in ((0, 2), (1, 1)):  # what is left of 64 px
        state[f"cnns_cls.{scale}.weight"] = state[f"cnns_cls.{scale}.weight"][:, :, :side, :side].clone()
    torch.save(state, discriminator)
    sets = [word for key in SMALL for word in ("--set", key)]
    run = tmp_path / "run"
    result = command(
        "import", "published", "--generator", str(generator), "--discriminator", str(discriminator),
        "--attention", "--run", str(run), *[word for key in SMALL[:4] for word in ("--set", key)],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    before = (run / "translation" / "model" / "tensors.safetensors").read_bytes()
    arguments = [
        "train",
        "all",
        "--preset",
        "released-2021",
        "--data",
        str(smoke_run / "shards"),
        "--run",
        str(run),
    ]
    result = command(*arguments, *sets)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (run / "guidance" / "model" / "manifest.json").exists()
    assert (run / "translation" / "model" / "tensors.safetensors").read_bytes() == before
    result = command(*arguments, *sets, "--set", "model.adain_scale=residual")
    assert result.returncode == 2 and "model.adain_scale = plain, now residual" in result.stderr
