"""Drawn faces: what they promise about attributes, seeds and files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rgcluster.config.celeba import CELEBA_ATTRIBUTES
from rgcluster.errors import DataError
from rgcluster.faces import (
    FaceSet,
    contact_sheet,
    counterfactual_sheet,
    draw_face,
    load_face_set,
    sample_attributes,
    with_changes,
    write_faces,
)

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
WOMAN = {"Young": 1, "No_Beard": 1, "Brown_Hair": 1}
MAN = {"Young": 1, "No_Beard": 1, "Black_Hair": 1, "Male": 1}
MENS = {
    "5_o_Clock_Shadow",
    "Bald",
    "Goatee",
    "Mustache",
    "No_Beard",
    "Receding_Hairline",
    "Sideburns",
    "Wearing_Necktie",
}


def seen_at_64(image: np.ndarray) -> np.ndarray:
    """The picture as a network sees it: centre crop, then 64 pixels."""
    return np.asarray(Image.fromarray(image[20:198]).resize((64, 64), Image.Resampling.BOX), float)


def digest(attributes: dict[str, int], seed: int) -> str:
    return hashlib.sha256(draw_face(attributes, seed).tobytes()).hexdigest()


# -- pictures ---------------------------------------------------------------


def test_picture_has_celebas_size():
    image = draw_face({}, 0)
    assert image.shape == (218, 178, 3)
    assert image.dtype == np.uint8


def test_equal_arguments_give_equal_pixels():
    assert digest(WOMAN, 5) == digest(dict(reversed(WOMAN.items())), 5)
    assert digest(WOMAN, 5) != digest(WOMAN, 6)


def test_another_process_draws_the_same_pixels():
    code = (
        "import hashlib; from rgcluster.faces import draw_face; "
        f"print(hashlib.sha256(draw_face({WOMAN!r}, 5).tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(WOMAN, 5)


def test_missing_attributes_count_as_absent():
    assert digest(WOMAN, 2) == digest({**dict.fromkeys(CELEBA_ATTRIBUTES, 0), **WOMAN}, 2)


def test_unknown_attribute_is_refused_with_the_nearest_name():
    with pytest.raises(DataError, match=r"'Blonde_Hair'.*'Blond_Hair'") as caught:
        draw_face({"Blonde_Hair": 1}, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CELEBA_ATTRIBUTES)
def test_every_attribute_shows(name: str):
    base = MAN if name in MENS else WOMAN
    on, off = with_changes(base, {name: 1}), with_changes(base, {name: 0})
    differences = [
        np.abs(seen_at_64(draw_face(on, seed)) - seen_at_64(draw_face(off, seed))) for seed in range(4)
    ]
    assert np.mean(differences) > 0.12
    assert np.mean([difference.max() for difference in differences]) > 12


@pytest.mark.parametrize("base", [WOMAN, MAN], ids=["woman", "man"])
@pytest.mark.parametrize("colour", HAIR_COLOURS)
def test_hair_colour_changes_neither_backdrop_nor_clothes_nor_cheeks(base, colour):
    for seed in range(4):
        before, after = draw_face(base, seed), draw_face(with_changes(base, {colour: 1}), seed)
        for region in (
            np.s_[:16, :16],
            np.s_[:16, -16:],
            np.s_[-10:, 70:108],
            np.s_[125:140, 72:106],
        ):
            assert np.array_equal(before[region], after[region])


@pytest.mark.parametrize("base", [WOMAN, MAN], ids=["woman", "man"])
def test_hair_colours_are_distinguishable_on_every_skin(base):
    """Mean colour of the hair on the skull; `None` is hair of some other colour."""
    for seed in range(6):
        means = {}
        for colour in (*HAIR_COLOURS, None):
            attributes = {k: v for k, v in base.items() if k not in HAIR_COLOURS}
            if colour:
                attributes[colour] = 1
            means[colour] = draw_face(attributes, seed)[42:58, 78:100].mean(axis=(0, 1))
        colours = list(means.values())
        nearest = min(np.abs(a - b).max() for i, a in enumerate(colours) for b in colours[:i])
        assert nearest > 20, (seed, means)


# -- attributes -------------------------------------------------------------


def test_samples_are_complete_and_exclusive():
    rng = np.random.default_rng(0)
    samples = [sample_attributes(rng) for _ in range(3000)]
    for attributes in samples:
        assert tuple(attributes) == CELEBA_ATTRIBUTES
        assert set(attributes.values()) <= {0, 1}
        assert sum(attributes[name] for name in (*HAIR_COLOURS, "Bald")) <= 1
    uncoloured = np.mean([not any(attributes[name] for name in HAIR_COLOURS) for attributes in samples])
    assert 0.2 < uncoloured < 0.33
    assert 0.37 < np.mean([attributes["Male"] for attributes in samples]) < 0.47


changes = st.dictionaries(st.sampled_from(CELEBA_ATTRIBUTES), st.integers(0, 1))


@given(seed=st.integers(0, 2**32), changed=changes)
@settings(max_examples=60, deadline=None)
def test_changes_never_leave_two_hair_colours(seed, changed):
    before = sample_attributes(np.random.default_rng(seed))
    after = with_changes(before, changed)
    assert set(after) == set(CELEBA_ATTRIBUTES)
    assert sum(after[name] for name in (*HAIR_COLOURS, "Bald")) <= 1
    for name, value in changed.items():
        assert value or not after[name]


@given(seed=st.integers(0, 2**32), turn=st.integers(0, 1), colour=st.sampled_from(HAIR_COLOURS))
@settings(max_examples=200, deadline=None)
def test_a_change_of_gender_gives_a_face_that_the_data_could_hold(seed, turn, colour):
    before = sample_attributes(np.random.default_rng(seed))
    after = with_changes(before, {"Male": turn, colour: 1})
    men = (
        "5_o_Clock_Shadow",
        "Bald",
        "Goatee",
        "Mustache",
        "Receding_Hairline",
        "Sideburns",
        "Wearing_Necktie",
    )
    women = ("Heavy_Makeup", "Rosy_Cheeks", "Wearing_Earrings", "Wearing_Lipstick", "Wearing_Necklace")
    assert not any(after[name] for name in (women if turn else men))
    assert turn or after["No_Beard"]
    changeable = {*men, *women, "No_Beard", "Male", *HAIR_COLOURS}
    assert all(after[name] == before[name] for name in before if name not in changeable)


def test_the_data_give_these_attributes_to_one_gender_alone():
    rng = np.random.default_rng(1)
    samples = [sample_attributes(rng) for _ in range(4000)]
    for name in CELEBA_ATTRIBUTES:
        genders = {attributes["Male"] for attributes in samples if attributes[name]}
        if len(genders) == 1 and name != "Male":
            (gender,) = genders
            assert not with_changes({"Male": gender, name: 1}, {"Male": 1 - gender})[name], name


def test_requested_attributes_override_the_gender():
    assert with_changes({"Male": 1, "Goatee": 0, "No_Beard": 1}, {"Male": 0, "Goatee": 1}) == {
        "Male": 0, "Goatee": 1, "No_Beard": 0, "5_o_Clock_Shadow": 0,
    }  # fmt: skip


def test_clearing_a_colour_clears_nothing_else():
    assert with_changes({"Black_Hair": 1, "Male": 1}, {"Black_Hair": 0}) == {"Black_Hair": 0, "Male": 1}


def test_setting_a_colour_clears_the_rival_ones():
    assert with_changes({"Gray_Hair": 1, "Bald": 1}, {"Blond_Hair": True}) == {
        **dict.fromkeys((*HAIR_COLOURS, "Bald"), 0),
        "Blond_Hair": 1,
    }


# -- sets -------------------------------------------------------------------


def test_a_face_does_not_depend_on_the_size_of_its_set():
    assert FaceSet(4, 10).face(7) == FaceSet(4, 1000).face(7)
    assert FaceSet(4, 10).face(7) != FaceSet(5, 10).face(7)


def test_a_face_outside_the_set_is_refused():
    with pytest.raises(DataError, match="use 0 to 9"):
        FaceSet(4, 10).face(10)


def test_dye_changes_the_hair_alone():
    """As any attribute of the hair does; a dye of the hair's own colour changes nothing."""
    faces = FaceSet(3, 20)
    index = next(number for number in range(20) if not faces.face(number)[0]["Bald"])
    plain = faces.counterfactual(index, {"Blond_Hair": 1}).astype(int)
    dyed, black = (faces.counterfactual(index, {"Blond_Hair": 1}, (r, 0, 0)).astype(int) for r in (250, 20))
    changed = np.abs(dyed - black).mean(axis=2) > 20
    assert 0.03 < changed.mean() < 0.6
    assert (dyed[changed][:, 0] - dyed[changed][:, 1]).mean() > 80
    assert np.abs(plain - dyed)[np.abs(dyed - black).max(axis=2) == 0].max() <= 3


def test_counterfactual_is_the_same_person_with_the_changes():
    face_set = FaceSet(4, 10)
    attributes, seed = face_set.face(3)
    expected = draw_face(with_changes(attributes, {"Blond_Hair": 1}), seed)
    assert np.array_equal(face_set.counterfactual(3, {"Blond_Hair": 1}), expected)
    assert np.array_equal(face_set.counterfactual(3, {}), face_set.image(3))


def test_sheets_have_one_cell_per_face():
    face_set = FaceSet(4, 10)
    assert contact_sheet(face_set, rows=2, columns=3).size == (3 * 178, 2 * 218)
    width, height = counterfactual_sheet(face_set, rows=1).size
    assert height == 218 and width % 178 == 0 and width >= 9 * 178


# -- files ------------------------------------------------------------------


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("faces")
    write_faces(directory, count=20, seed=9, workers=1)
    return directory


def test_files_have_celebas_layout(written: Path):
    names = [f"{i:06d}.jpg" for i in range(1, 21)]
    assert sorted(path.name for path in (written / "img_align_celeba").iterdir()) == names

    lines = (written / "list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == "20"
    assert tuple(lines[1].split()) == CELEBA_ATTRIBUTES
    assert [line.split()[0] for line in lines[2:]] == names
    assert {len(line) for line in lines[2:]} == {len("000001.jpg") + 40 * 3}

    partition = [line.split() for line in (written / "list_eval_partition.txt").read_text().splitlines()]
    assert [name for name, _ in partition] == names
    assert [sum(part == key for _, part in partition) for key in "012"] == [16, 2, 2]


def test_files_hold_the_faces_of_the_set(written: Path):
    face_set = load_face_set(written)
    assert face_set == FaceSet(seed=9, count=20)
    rows = (written / "list_attr_celeba.txt").read_text().splitlines()[2:]
    for index in (0, 13):
        attributes, _ = face_set.face(index)
        assert [int(sign) > 0 for sign in rows[index].split()[1:]] == [bool(v) for v in attributes.values()]
        with Image.open(written / "img_align_celeba" / f"{index + 1:06d}.jpg") as image:
            error = np.abs(np.asarray(image, float) - face_set.image(index)).mean()
        assert error < 3


def test_several_processes_write_the_same_files(written: Path, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    write_faces(tmp_path, 20, 9, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path) == contents(written)
    assert seen[-1] == (20, 20)


def test_no_set_is_loaded_where_none_was_finished(tmp_path: Path):
    assert load_face_set(tmp_path) is None


def test_an_interrupted_call_is_continued(written: Path, tmp_path: Path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_faces(tmp_path, 20, 9, workers=1, progress=interrupt)
    assert load_face_set(tmp_path) is None
    images = tmp_path / "img_align_celeba"
    for name in ("000003.jpg", "000020.jpg"):
        (images / name).unlink()
    (images / "000003.jpg.tmp").write_bytes(b"half a picture")
    (images / "000007.jpg.tmp").write_bytes(b"half a picture")
    kept = (images / "000001.jpg").stat().st_mtime_ns

    write_faces(tmp_path, 20, 9, workers=1)
    assert contents(tmp_path) == contents(written)
    assert (images / "000001.jpg").stat().st_mtime_ns == kept


def test_a_finished_set_is_left_alone(written: Path):
    before = contents(written)
    write_faces(written, 20, 9, workers=1, progress=lambda done, total: pytest.fail("drew again"))
    assert contents(written) == before


@pytest.mark.parametrize("count, seed", [(21, 9), (20, 10)])
def test_a_directory_of_another_set_is_refused(written: Path, count: int, seed: int):
    with pytest.raises(DataError, match="seed 9 and count 20.*another directory"):
        write_faces(written, count, seed, workers=1)


def test_an_interrupted_set_of_another_seed_is_refused(tmp_path: Path):
    recipe = {"generator": "drawn-faces", "version": 1, "seed": 1, "count": 4}
    (tmp_path / "faces.unfinished.json").write_text(json.dumps(recipe))
    with pytest.raises(DataError, match="another directory"):
        write_faces(tmp_path, 4, 2, workers=1)


def test_images_of_unknown_origin_are_not_touched(tmp_path: Path):
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "img_align_celeba" / "000001.jpg").write_bytes(b"a real photograph")
    with pytest.raises(DataError, match="unknown origin"):
        write_faces(tmp_path, 4, 2, workers=1)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"generator": "drawn-faces", "version": 99, "seed": 1, "count": 1}']
)
def test_an_unfitting_faces_json_is_refused(tmp_path: Path, text: str):
    (tmp_path / "faces.json").write_text(text)
    with pytest.raises(DataError, match="faces.json"):
        load_face_set(tmp_path)
