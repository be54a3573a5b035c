"""Post-processing by hand: components, connectivity, holes, and what a file may say."""

import numpy as np
import pytest

from sct.data.cases import LabelMap
from sct.data.outputs import Classes, Regions
from sct.errors import UserError
from sct.inference.postprocess import Postprocessing, Steps, from_settings

OUTPUTS = Classes(LabelMap(("background", "liver", "tumour")))
REGIONS = Regions.from_settings(OUTPUTS.label_map, {"all": [1, 2], "core": [2]})


def drawn(*rows: str) -> np.ndarray:
    return np.array([[int(letter) for letter in row.replace(".", "0")] for row in rows], dtype=np.uint8)


def done(labels: np.ndarray, *, affine: np.ndarray | None = None, value: int = 1, **steps: object) -> np.ndarray:
    before = labels.copy()
    found = Postprocessing({value: Steps(**steps)}).apply(labels, affine=np.eye(4) if affine is None else affine)
    np.testing.assert_array_equal(labels, before)
    assert found.dtype == labels.dtype
    return found


def test_the_largest_component_stays_and_a_corner_connects() -> None:
    labels = drawn(
        "11..1",
        "1....",
        ".1..2",
        "....2",
        "11111",
    )
    np.testing.assert_array_equal(done(labels, largest=True), drawn("0....", ".....", "....2", "....2", "11111"))
    # with the corner apart, the upper part has 3 voxels and the lower one 5
    assert (done(labels, smallest=4) == drawn("11...", "1....", ".1..2", "....2", "11111")).all()
    assert (done(labels, smallest=5) == drawn(".....", ".....", "....2", "....2", "11111")).all()
    assert (done(labels, smallest=6, value=1) == np.where(labels == 1, 0, labels)).all()


def test_of_equals_the_first_stays() -> None:
    assert (done(drawn("1.1", "...", "22."), largest=True) == drawn("1..", "...", "22.")).all()


def test_components_in_three_dimensions_meet_at_corners() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    labels[3, 3, 3] = 1
    found = done(labels, largest=True)
    assert found[0, 0, 0] == found[1, 1, 1] == 1
    assert found[3, 3, 3] == 0


def test_the_smallest_size_is_a_volume() -> None:
    labels = drawn("1.11", "....")
    affine = np.diag([2.0, 3.0, 1.0, 1.0])  # 6 mm^2 a voxel
    assert (done(labels, smallest=7, affine=affine) == drawn("..11", "....")).all()
    assert (done(labels, smallest=6, affine=affine) == labels).all()
    turned = np.array([[0, -3.0, 0, 5], [2, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert (done(labels, smallest=7, affine=turned) == drawn("..11", "....")).all()
    volume = np.zeros((3, 3, 3), np.uint8)
    volume[0, 0, 0], volume[2, 2, 1:] = 1, 1
    found = done(volume, smallest=31, affine=np.diag([2.0, 3.0, 5.0, 1.0]))
    assert (found[0, 0, 0], found[2, 2, 1]) == (0, 1)


def test_holes_are_filled_and_what_is_open_is_not() -> None:
    labels = drawn(
        "1111.1111",
        "1..1.1.2.",
        "1111.1111",
        "11.......",
        "1.1......",
        "111......",
    )
    want = labels.copy()
    want[1, 1:3] = 1
    want[4, 1] = 1
    # a hole at the border of the image is open, and one with another class in it is none
    found = done(labels, fill_holes=True)
    np.testing.assert_array_equal(found, want)
    # a gap at a corner alone is closed: the class is connected there
    corner = drawn(".11.", "1..1", ".11.")
    assert (done(corner, fill_holes=True) == drawn(".11.", "1111", ".11.")).all()


def test_a_hole_is_of_the_part_that_stays() -> None:
    labels = drawn(
        "111......",
        "1.1.11111",
        "111.1...1",
        "....1.1.1",
        "....1...1",
        "....11111",
    )
    found = done(labels, largest=True, fill_holes=True)
    want = np.zeros_like(labels)
    want[1:, 4:] = 1
    np.testing.assert_array_equal(found, want)


def test_a_cavity_of_a_volume_is_a_hole() -> None:
    labels = np.ones((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 0
    assert done(labels, fill_holes=True).all()
    labels[2, 2, 3:] = 0  # a tunnel to the border
    assert (done(labels, fill_holes=True) == labels).all()
    labels[2, 2, 2:] = [0, 2, 1]  # another class in the cavity
    assert (done(labels, fill_holes=True) == labels).all()


def test_classes_do_not_change_each_other() -> None:
    labels = drawn("111..2", "1.1...", "111.22", "....22")
    steps = {1: Steps(fill_holes=True), 2: Steps(largest=True)}
    want = drawn("111...", "111...", "111.22", "....22")
    for order in (steps, dict(reversed(steps.items()))):
        assert (Postprocessing(order).apply(labels, affine=np.eye(4)) == want).all()


def test_random_maps_agree_with_a_flood_by_hand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(rng.integers(2, 7, size=rng.integers(2, 4)))
        labels = rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15], size=shape).astype(np.uint8)
        parts = sorted(flooded(labels == 1), key=len)
        keep = {place for part in parts if len(part) >= 3 for place in part}
        want = np.array([value if value != 1 or place in keep else 0 for place, value in np.ndenumerate(labels)])
        np.testing.assert_array_equal(done(labels, smallest=3), want.reshape(shape))


def flooded(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """The components of a mask, from voxel to voxel."""
    left, parts = {place for place, value in np.ndenumerate(mask) if value}, []
    while left:
        front = [left.pop()]
        part = set(front)
        while front:
            place = front.pop()
            near = {other for other in left if max(abs(a - b) for a, b in zip(place, other, strict=True)) <= 1}
            left -= near
            part |= near
            front += near
        parts.append(part)
    return parts


def test_nothing_to_do_leaves_the_map_itself() -> None:
    labels = drawn("1.1")
    assert Postprocessing().apply(labels, affine=np.eye(4)) is labels
    assert Postprocessing({1: Steps()}).apply(labels, affine=np.eye(4)) is labels
    empty = np.zeros((2, 2), np.uint8)
    assert not done(empty, largest=True, fill_holes=True).any()


def test_steps_survive_a_file() -> None:
    steps = {"tumour": {"smallest": 30.0, "fill_holes": True}}
    found = from_settings(steps, outputs=OUTPUTS, source="file")
    assert found == Postprocessing({2: Steps(smallest=30.0, fill_holes=True)})
    assert found.settings(OUTPUTS) == steps
    assert Postprocessing().settings(REGIONS) == {}
    for nothing in (None, {}):
        assert not from_settings(nothing, outputs=REGIONS, source="file")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["liver"], "must be a mapping"),
        ({"kidney": {"largest": True}}, "names the class kidney, but predicted are liver, tumour"),
        ({"liver": {"larges": True}}, "largest, smallest, fill_holes"),
        ({"liver": True}, "largest, smallest, fill_holes"),
        ({"liver": {"largest": 1}}, "true or false"),
        ({"liver": {"smallest": True}}, "smallest a volume"),
        ({"liver": {"smallest": -1}}, "smallest=-1 must be a volume"),
        ({"liver": {"smallest": float("nan")}}, "must be a volume"),
    ],
)
def test_what_is_no_step_is_refused(steps: object, words: str) -> None:
    with pytest.raises(UserError) as error:
        from_settings(steps, outputs=OUTPUTS, source="file.json")
    assert str(error.value).startswith("file.json: ")
    assert words in str(error.value)


def test_regions_are_refused() -> None:
    with pytest.raises(UserError, match=r"regions that may overlap \(all, core\).*postprocess=none"):
        from_settings({"core": {"largest": True}}, outputs=REGIONS, source="file")
