"""A photo of any shape becomes an image of the shape of training images, on the command line as at the endpoint."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rgcluster.config import DataConfig
from rgcluster.data.fit import fit_image, image_sizes, read_fitted, require_fitting_crop
from rgcluster.data.fits import FITS
from rgcluster.data.images import picture_format, prepare_image
from rgcluster.data.kinds import image_kind
from rgcluster.errors import ConfigError, DataError
from rgcluster.faces import draw_face
from rgcluster.serve.http.errors import ApiError
from rgcluster.serve.http.pictures import read_picture
from rgcluster.serve.settings import Limits

DATA = DataConfig(image_size=32)


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def test_a_large_photo_of_a_face_is_seen_as_the_face_not_as_a_patch_of_it() -> None:
    face = Image.fromarray(draw_face({"Male": 1}, 5))
    trained = prepare_image(face, DATA.crop, DATA.image_size).astype(int)
    photo = face.resize((face.width * 6, face.height * 6), Image.Resampling.BICUBIC)
    fitted = read_fitted(png(photo), DATA, "auto", "photo.png")
    assert np.abs(fitted - trained).mean() < 3
    assert np.abs(read_fitted(png(photo), DATA, "crop", "photo.png") - trained).mean() > 20
    assert np.array_equal(read_fitted(png(face), DATA, "auto", "face.png"), trained)


@given(st.sampled_from(sorted(FITS)), st.integers(8, 400), st.integers(8, 400))
def test_every_fit_gives_the_shape_of_training_images(fit: str, width: int, height: int) -> None:
    made = fit_image(Image.new("RGB", (width, height), (10, 200, 30)), DATA, fit)  # type: ignore[arg-type]
    assert made.shape == (32, 32, 3) and made.dtype == np.uint8
    assert (made == [10, 200, 30]).all()  # padding repeats the edges


@pytest.mark.parametrize("fit", FITS)
def test_the_endpoint_fits_alike(fit: str) -> None:
    content = png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 410, 3), np.uint8)))
    assert np.array_equal(
        read_fitted(content, DATA, fit, "a.png"),
        read_picture(content, DATA, fit, Limits()),  # type: ignore[arg-type]
    )


def test_of_a_cameras_two_pictures_the_first_counts_at_the_endpoint_too() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8).repeat(100, 0).repeat(100, 1)
    first, sink = Image.fromarray(pixels), io.BytesIO()
    first.save(sink, "MPO", save_all=True, append_images=[first.resize((89, 109))])
    for fit in ("cover", "crop"):
        fitted = read_fitted(sink.getvalue(), DATA, fit, "two.jpg").astype(int)  # type: ignore[arg-type]
        served = read_picture(sink.getvalue(), DATA, fit, Limits()).astype(int)  # type: ignore[arg-type]
        assert np.abs(fitted - served).mean() < 3  # the endpoint decodes a large JPEG at a smaller scale


TURNED_AND_ODD = bytes.fromhex(
    "457869660000 49492a0008000000 0200 120103000100000006000000 000102000100000061000000 00000000"
)
"""EXIF that says how the camera was held, and that the width is a text."""


def test_odd_exif_is_no_fault_at_the_endpoint_either() -> None:
    image, sink = (
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)),
        io.BytesIO(),
    )
    image.save(sink, "PNG", exif=TURNED_AND_ODD)
    upright = fit_image(image.transpose(Image.Transpose.ROTATE_270), DATA, "contain")
    assert np.array_equal(read_picture(sink.getvalue(), DATA, "contain", Limits()), upright)
    assert np.array_equal(read_fitted(sink.getvalue(), DATA, "contain", "odd.png"), upright)


@pytest.mark.parametrize(
    ("sizes", "crop", "fits"),
    [
        ([(1068, 1308)] * 3, 178, False), ([(1068, 1308)] * 3, 0, True), ([(178, 218)] * 3, 178, True),
        ([(1068, 1308), (178, 218)], 178, True), ([(3000, 200)] * 3, 178, True), ([], 178, True),
    ],
)  # fmt: skip
def test_a_crop_that_keeps_a_patch_of_most_images_is_refused(
    sizes: list[tuple[int, int]], crop: int, fits: bool
) -> None:
    if fits:
        require_fitting_crop(sizes, crop, "photos", "--crop 0")
    else:
        with pytest.raises(
            DataError, match="far larger than the crop .* such as 1068 x 1308.*; --crop 0 takes"
        ):
            require_fitting_crop(sizes, crop, "photos", "--crop 0")
    assert image_sizes([png(Image.new("RGB", (30, 40))), b"no image"]) == [(30, 40)]


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(200)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            HEIC,
            "x.heic: not a readable image .HEIC, which this Pillow cannot read; .*rgcluster.heic.*, or save it",
        ),
        (b"\xff\x0a" + bytes(60), "JPEG XL, which this Pillow cannot read; save it as JPEG or PNG"),
        (b"words", "cannot identify image file"),
        (b"", "an empty file; fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer; fetch .* `git lfs pull`"),
        (b"\n<!DOCTYPE HTML><title>404</title>", "a web page; download the image itself"),
    ],
)
def test_kinds_that_pillow_cannot_read_are_named(
    content: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("HEIF", "JXL"):  # with the extra installed they would be read
        monkeypatch.delitem(Image.OPEN, kind, raising=False)
    with pytest.raises(DataError, match=words):
        read_fitted(content, DATA, "auto", "x.heic")
    with pytest.raises(ApiError, match="is not supported|not an image in a supported format|is empty"):
        read_picture(content, DATA, "auto", Limits())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("JPEG", "JPEG"), ("PNG", "PNG"), ("GIF", "GIF"), ("WEBP", "WebP"), ("BMP", "BMP"), ("TIFF", "TIFF"),
        ("PPM", "PNM"), ("JPEG2000", "JPEG 2000"), ("AVIF", "AVIF"),
    ],
)  # fmt: skip
def test_first_bytes_tell_the_kind(kind: str, name: str) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, kind)
    assert image_kind(sink.getvalue()) == name
    assert image_kind(HEIC) == "HEIC" and image_kind(b"BM is no picture") is None and image_kind(b"") is None


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("b.JPG", "JPEG"), ("a.b/c.jpeg", "JPEG")])
def test_a_picture_has_the_format_of_its_name(name: str, kind: str) -> None:
    content = picture_format(name)(np.zeros((8, 9, 3), np.uint8))
    assert Image.open(io.BytesIO(content)).format == kind


@pytest.mark.parametrize("name", ["a.gif", "folder", "a.png.txt"])
def test_a_format_that_is_not_written_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: pictures are written as .png, .jpg, .jpeg"):
        picture_format(name)


def test_files_that_are_no_images_are_named() -> None:
    with pytest.raises(DataError, match=r"notes.txt: not a readable image"):
        read_fitted(b"hello", DATA, "auto", "notes.txt")
