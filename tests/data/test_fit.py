"""A photo of any shape becomes an image of the shape of training images, on the command line as at the endpoint."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rgcluster.config import DataConfig
from rgcluster.data.fit import fit_image, read_fitted
from rgcluster.data.fits import FITS
from rgcluster.data.images import picture_format, prepare_image
from rgcluster.errors import ConfigError, DataError
from rgcluster.faces import draw_face
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
