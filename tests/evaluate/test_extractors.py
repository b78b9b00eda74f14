"""Pretrained networks: found without a network connection, and doing what their papers say."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rgcluster.base import weights
from rgcluster.errors import CheckpointError, ConfigError, DataError
from rgcluster.evaluate.metrics import features
from rgcluster.evaluate.metrics.scores import (
    frechet_distance,
    inception_score,
    kernel_distance,
    pairwise_diversity,
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache, no chosen paths, and an error for whoever opens a connection."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something tried to download")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    for known in weights.KNOWN:
        monkeypatch.delenv(weights.environment_variable(known.name), raising=False)


@pytest.fixture(scope="module")
def net() -> features.EfficientNetLite0:
    return features.EfficientNetLite0(96)


def _images(count: int, side: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_weights_are_found_by_variable_and_in_the_hub_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert weights.find("resnet50") is None
    cached = tmp_path / "hub" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cached")
    found = weights.find("resnet50")
    assert found is not None and found.path == cached and not found.as_published
    chosen = tmp_path / "chosen.pth"
    chosen.write_bytes(b"chosen")
    monkeypatch.setenv("RGCLUSTER_WEIGHTS_RESNET50", str(chosen))
    other = weights.find("resnet50")
    assert other is not None and other.path == chosen and other.digest != found.digest


def test_a_variable_that_names_no_file_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RGCLUSTER_WEIGHTS_VGG16", str(tmp_path / "missing.pth"))
    with pytest.raises(ConfigError, match="RGCLUSTER_WEIGHTS_VGG16"):
        weights.find("vgg16")
    row = next(row for row in weights.survey() if row.name == "vgg16")
    assert row.weights is None and "missing.pth" in str(row.problem)


def test_the_survey_has_a_row_for_all_and_the_package_is_as_published() -> None:
    rows = {row.name: row for row in weights.survey()}
    assert list(rows) == [known.name for known in weights.KNOWN]
    packaged = rows["efficientnet-lite0"].weights
    assert packaged is not None and packaged.as_published
    assert rows["fid-inception"].weights is None
    with pytest.raises(ConfigError, match="known: fid-inception"):
        weights.find("fid-inseption")


def test_without_weights_everything_falls_back_to_efficientnet(net: features.EfficientNetLite0) -> None:
    assert features.best_extractor(image_size=32).protocol == net.protocol
    assert features.best_perceptual(image_size=32).protocol == net.protocol
    for missing in ("inception-v3-compat",):
        with pytest.raises(ConfigError, match="RGCLUSTER_WEIGHTS_FID_INCEPTION"):
            features.best_extractor(missing)
    with pytest.raises(ConfigError, match="RGCLUSTER_WEIGHTS_LPIPS_ALEX"):
        features.best_perceptual("lpips-alex")
    with pytest.raises(ConfigError, match="choose"):
        features.best_extractor("inception")


def test_names_include_the_extractor() -> None:
    assert features.metric_name("FID", "inception-v3-compat") == "FID"
    assert features.metric_name("FID", "efficientnet-lite0") == "FID (efficientnet-lite0)"
    assert features.metric_name("diversity", "lpips-alex") == "LPIPS"
    assert features.metric_name("diversity", "efficientnet-lite0") == "diversity (efficientnet-lite0)"


def test_efficientnet_is_the_package_with_its_norms_folded(net: features.EfficientNetLite0) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    found = weights.find("efficientnet-lite0")
    assert found is not None
    plain = EfficientNet.from_name("efficientnet-lite0", image_size=96).eval()
    plain.load_state_dict(weights.load_state(found))
    images = _images(3, side=96)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        expected = plain((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    pooled, logits = net.features_and_logits(images)
    assert pooled.shape == (3, 1280) and pooled.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=2e-3)


def test_rows_do_not_depend_on_their_company(net: features.EfficientNetLite0) -> None:
    images = _images(40)
    np.testing.assert_allclose(
        net.features_and_logits(images)[0][33:], net.features_and_logits(images[33:])[0], atol=1e-4
    )


def test_perceptual_distance_grows_with_the_change(net: features.EfficientNetLite0) -> None:
    image = np.repeat(np.repeat(_images(1, side=8), 4, 1), 4, 2)
    noise = np.random.default_rng(1).normal(size=image.shape)
    changed = [(image + scale * noise).clip(0, 255).astype(np.uint8) for scale in (0, 8, 60)]
    rows = net.perceptual(np.concatenate(changed))
    near, far = (float(((rows[i] - rows[0]) ** 2).sum()) for i in (1, 2))
    assert 0 < near < far < 4
    np.testing.assert_allclose((rows**2).sum(1), 1, rtol=1e-3)
    assert pairwise_diversity([rows[:2]]) == pytest.approx(near, rel=1e-4)


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), _images(0)]
)
def test_anything_but_uint8_images_is_refused(net: features.EfficientNetLite0, bad: np.ndarray) -> None:
    with pytest.raises(DataError):
        net.features_and_logits(bad)


def test_lpips_rows_give_the_packages_distance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import lpips
    from torchvision.models import alexnet

    torch.manual_seed(0)
    trunk = alexnet(weights=None).features
    file = tmp_path / "alexnet.pth"
    torch.save({f"features.{key}": value for key, value in trunk.state_dict().items()}, file)
    monkeypatch.setenv("RGCLUSTER_WEIGHTS_LPIPS_ALEX", str(file))
    ours = features.best_perceptual(image_size=64)
    assert ours.name == "lpips-alex"
    images = _images(2, side=64)
    rows = ours.perceptual(images)
    for scale in (images / 127.5 - 1, images / 255):  # the ranges that LPIPS is often given
        with pytest.raises(DataError, match="convert them to uint8, 0 to 255"):
            ours.perceptual(scale.astype(np.float32))

    theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(
        {key: trunk.state_dict()[key.partition(".")[2]] for key in theirs.net.state_dict()}
    )
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = float(theirs(x[:1], x[1:]))
    assert float(((rows[0] - rows[1]) ** 2).sum()) == pytest.approx(expected, rel=1e-4)


def random_inception(monkeypatch: pytest.MonkeyPatch, file: Path) -> Any:
    """torch-fidelity's Inception with random weights, which are in the file and chosen by the environment."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    torch.manual_seed(0)
    # Its constructor always loads: an empty state stands for "keep the random start".
    with monkeypatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        theirs = fidelity.FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], verbose=False)
    torch.save(theirs.state_dict(), file)
    monkeypatch.setenv("RGCLUSTER_WEIGHTS_FID_INCEPTION", str(file))
    return theirs


@pytest.mark.long
def test_fid_kid_and_is_equal_torch_fidelity_on_the_same_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch_fidelity
    from PIL import Image

    random_inception(monkeypatch, tmp_path / "inception.pth")
    made, real = _images(14, side=32), _images(16, side=32)[::-1] // 2
    for name, images in (("made", made), ("real", real)):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{number:03d}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "made"), input2=str(tmp_path / "real"), fid=True, kid=True, isc=True,
        feature_extractor_weights_path=str(tmp_path / "inception.pth"), cuda=False, cache=False, verbose=False,
        kid_subsets=5, kid_subset_size=8, isc_splits=2, batch_size=8, save_cpu_ram=True,
    )  # fmt: skip
    net = features.best_extractor()
    ours, ours_logits = net.features_and_logits(made)
    reals, _ = net.features_and_logits(real)
    assert frechet_distance(ours, reals) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-2, abs=1e-3
    )
    kid = kernel_distance(ours, reals, subsets=5, subset_size=8, seed=2020)
    assert kid[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-2, abs=1e-5)
    score = inception_score(ours_logits, splits=2)
    assert score[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)


def test_inception_is_torch_fidelitys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    theirs = random_inception(monkeypatch, tmp_path / "inception.pth")
    ours = features.best_extractor()
    assert ours.name == "inception-v3-compat"
    images = _images(2)
    with torch.inference_mode():
        pooled, logits = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    for found, expected in zip(ours.features_and_logits(images), (pooled, logits), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("exploded"), ""))


def test_files_that_hold_more_than_tensors_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("bomb.pth", "text.pth"):
        monkeypatch.setenv("RGCLUSTER_WEIGHTS_FID_INCEPTION", str(tmp_path / name))
        with pytest.raises(CheckpointError, match=name):
            features.InceptionV3()
    assert not (tmp_path / "exploded").exists()
