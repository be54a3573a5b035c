"""Picture sets of several classes: grey masks, palettes and colours, read and written in the same way."""

from pathlib import Path

import numpy as np
import pytest
from little_data import scale
from PIL import Image

from sct.data.formats.masks import CodedPictures, check_codes, palette_of
from sct.data.sets.pictures import PictureSet
from sct.errors import UserError

LABELS = np.array([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 0, 2]], dtype=np.uint8)
PALETTE = ("#000000", "#112233", "#ff8000", "#0000ff")
COLOURS = np.array([[0, 0, 0], [255, 128, 0], [0, 0, 255]], dtype=np.uint8)


def grey(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(np.array([0, 100, 200], dtype=np.uint8)[labels]).save(path)


def wide_grey(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(np.array([0, 300, 70], dtype=np.uint16)[labels]).save(path)


def palette(path: Path, labels: np.ndarray) -> None:
    image = Image.fromarray(np.array([0, 3, 2], dtype=np.uint8)[labels])
    image.putpalette([part for colour in PALETTE for part in bytes.fromhex(colour[1:])])
    image.save(path)


def colours(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(COLOURS[labels]).save(path)


KINDS = {
    "grey": (grey, {"road": 100, "house": 200}),
    "16 bit": (wide_grey, {"road": 300, "house": 70}),
    "palette": (palette, {"road": 3, "house": 2}),
    "colours": (colours, {"road": "#FF8000", "house": "#0000ff"}),
}


def make(root: Path, **settings: object) -> PictureSet:
    fixed = {"roi_size": [2, 2], "intensity": scale(), "cache_dir": str(root / "cache"), "val_share": 0.34}
    return PictureSet(**({"root": str(root), "test_share": 0.34, "mask_suffix": "_m"} | fixed | settings))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def root(tmp_path: Path, kind: str) -> Path:
    """Three pictures of different sizes, with masks of a kind."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number, name in enumerate(("a.jpg", "b.png", "c.tif")):
        labels = np.tile(LABELS, (1, number + 1))
        Image.new("RGB", labels.shape[::-1], (9, 9, 9 * number)).save(tmp_path / "images" / name)
        KINDS[kind][0](tmp_path / f"masks/{Path(name).stem}_m.png", labels)
    return tmp_path


def test_masks_of_every_kind_are_classes_and_are_written_alike(root, kind):
    data = make(root, values=KINDS[kind][1])
    assert data.label_map.names == ("background", "road", "house")
    data.prepare()
    cases = data.find_cases()
    assert [(case.id, case.image.name) for case in cases] == [("a", "a.jpg"), ("b", "b.png"), ("c", "c.tif")]
    found = make(root, values=KINDS[kind][1], **data.found())
    for number, case in enumerate(cases):
        labels, grid = data.format.read_label(case.label)
        np.testing.assert_array_equal(labels, np.tile(LABELS, (1, number + 1)))
        assert (grid.shape, grid.unit) == (labels.shape, "voxel")
        path = found.format.save_labels(root / "out" / case.id, labels.astype(np.uint8), like=case.image)
        assert path.name == f"{case.id}_m.png"
        written, truth = Image.open(path), Image.open(case.label)
        assert written.mode == truth.mode
        np.testing.assert_array_equal(np.asarray(written), np.asarray(truth))
        assert palette_of(path) == palette_of(case.label) == (list(PALETTE) if kind == "palette" else [])
        np.testing.assert_array_equal(found.format.read_written(path), labels)
    assert found.found() == data.found()
    assert not data.format.is_image(root / "out" / "a_m.png")


def test_other_values_are_refused_by_the_check(root, kind):
    values = dict(list(KINDS[kind][1].items())[:1])
    shown = {"grey": "200", "16 bit": "70", "palette": "2", "colours": "#0000ff"}[kind]
    with pytest.raises(UserError, match=rf"a_m\.png: has 1 value\(s\) that stand for no class \({shown}\)"):
        make(root, values=values).prepare()


def test_colours_are_not_taken_for_numbers(tmp_path):
    colours(tmp_path / "a.png", LABELS)
    with pytest.raises(UserError, match=r"mode RGB, not of grey values.*'#ff0000'"):
        CodedPictures(2, (0, 1)).read_label(tmp_path / "a.png")


def test_a_palette_may_be_read_by_its_colours(tmp_path):
    palette(tmp_path / "a.png", LABELS)
    labels, _ = CodedPictures(3, ("#000000", "#0000ff", "#ff8000")).read_label(tmp_path / "a.png")
    np.testing.assert_array_equal(labels, LABELS)


def test_black_and_white_of_one_bit(tmp_path):
    Image.fromarray(LABELS > 0).save(tmp_path / "a.png")
    labels, _ = CodedPictures(2, (0, 255)).read_label(tmp_path / "a.png")
    np.testing.assert_array_equal(labels, LABELS > 0)


@pytest.mark.parametrize(
    "codes", [[0, 0], [0, "#ff0000"], ["#000000", "red"], [0, -1], [0, 1.5], [0, 2**16], ["#00FF00", "#00ff00"]]
)
def test_values_must_differ_and_be_of_one_kind(codes):
    with pytest.raises(UserError, match="give each class another value"):
        check_codes(codes)


@pytest.mark.parametrize("kind", ["grey"], indirect=True)
def test_what_is_missing_is_named(root):
    values = {"background": 0, "road": 100, "house": 200}
    with pytest.raises(UserError, match=r"data\.masks=labels is no folder"):
        make(root, values=values, masks="labels").prepare()
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="holds no picture"):
        make(root, values=values, images="empty").prepare()
    (root / "masks/b_m.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: has no label; expected .*b_m\.png"):
        make(root, values=values).prepare()
    Image.new("RGB", (4, 3)).save(root / "images/a.png")
    with pytest.raises(UserError, match=r"holds both a\.jpg and a\.png"):
        make(root, values=values).prepare()
    with pytest.raises(UserError, match="series=1"):
        make(root, values=values, series="1")
