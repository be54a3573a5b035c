"""A data set verified and described: a Decathlon folder made by hand, its figures, and a user's mistakes in it."""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from commands import run_command
from little_data import save

from sct.data import __main__ as inspect
from sct.plots import style

SHAPE, SPACING = (8, 8, 4), (1.0, 2.0, 5.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six MRIs of two channels; liver is a 4 x 4 x 2 box everywhere, spleen one voxel in even cases."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "Task99"
    entries = []
    for case in range(6):
        image = rng.normal(100 * (case + 1), 1, (*SHAPE, 2)).astype(np.float32)
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[:4, :4, :2] = 1
        if case % 2 == 0:
            label[7, 7, 3] = 2
        write(folder, case, image, label)
        entries.append({"image": f"imagesTr/c{case}.nii.gz", "label": f"labelsTr/c{case}.nii.gz"})
    description = {"labels": {"0": "background", "1": "liver", "2": "spleen"}, "modality": {"0": "T1", "1": "T2"}}
    (folder / "dataset.json").write_text(json.dumps({**description, "training": entries}))
    return folder


def write(folder: Path, case: int, image: np.ndarray, label: np.ndarray, *, spacing=SPACING) -> None:
    affine = np.diag([*spacing, 1.0])
    save(folder / f"imagesTr/c{case}.nii.gz", image, affine=affine)
    save(folder / f"labelsTr/c{case}.nii.gz", label, affine=affine)


def read(folder: Path, case: int) -> tuple[np.ndarray, np.ndarray]:
    paths = (folder / f"imagesTr/c{case}.nii.gz", folder / f"labelsTr/c{case}.nii.gz")
    image, label = (np.asarray(nibabel.load(path).dataobj) for path in paths)
    return image.astype(np.float32), label.astype(np.uint8)


def command(action: str, root: Path, *settings: str):
    given = ("data=msd", f"data.root={root}", "data.roi_size=[8,8,4]", "encoder.patch_size=4")
    return run_command(with_action(action), *given, f"paths.outputs={root.parent}/out", *settings)


def with_action(action: str):
    def main() -> None:
        sys.argv.insert(1, action)
        inspect.main()

    return main


def test_description_by_hand(root):
    outcome = command("describe", root)
    assert outcome.status == 0, outcome.err
    facts = json.loads((root.parent / "out/data/Task99/cases.json").read_text())
    by_id = {case["id"]: case for case in facts}
    assert sorted(by_id) == [f"c{case}" for case in range(6)]
    even = by_id["c2"]
    # a voxel has 10 cubic mm
    assert even["volumes"] == {"liver": pytest.approx(32 * 0.01), "spleen": pytest.approx(0.01)}
    assert by_id["c1"]["volumes"]["spleen"] == 0
    # patches of 4: the grid is 2 x 2 x 1; liver fills one, the spleen's voxel lies in the opposite one
    assert (even["patches"], by_id["c1"]["patches"]) == (0.5, 0.25)
    assert even["spacing"] == list(SPACING)
    assert even["intensities"][1][1] == pytest.approx(300, abs=1)
    folder = root.parent / "out/data/Task99"
    assert {path.name for path in folder.iterdir()} == {"describe.md", "cases.json", "describe.png", "describe.pdf"}
    text = (folder / "describe.md").read_text()
    assert "| all | 6 | 8x8x4, 8x8x4, 8x8x4 | 1.00x2.00x5.00, 1.00x2.00x5.00, 1.00x2.00x5.00 | 37.5% |" in text
    assert "| spleen | 3 | 0.01, 0.01, 0.01 | 1.5% |" in text


def test_patches_may_have_another_size_along_each_axis(root):
    outcome = command("describe", root, "encoder.patch_size=[4,4,2]")
    assert outcome.status == 0, outcome.err
    folder = root.parent / "out/data/Task99"
    facts = {case["id"]: case for case in json.loads((folder / "cases.json").read_text())}
    assert "patches of 4 x 4 x 2 with foreground" in (folder / "describe.md").read_text()
    # the grid is 2 x 2 x 2; liver fills one patch, the spleen's voxel lies in the opposite one
    assert (facts["c2"]["patches"], facts["c1"]["patches"]) == (0.25, 0.125)


def test_patches_lie_along_the_axes_of_the_network_in_any_file(root):
    """The same case in a file whose first axis is the network's last."""
    folder, affine = root, np.diag([*SPACING, 1.0])[:, [2, 0, 1, 3]]
    image, label = (np.moveaxis(part, 2, 0) for part in read(folder, 0))
    save(folder / "imagesTr/c0.nii.gz", image, affine=affine)
    save(folder / "labelsTr/c0.nii.gz", label, affine=affine)
    assert command("describe", root, "encoder.patch_size=[4,4,1]").status == 0
    facts = {case["id"]: case for case in json.loads((root.parent / "out/data/Task99/cases.json").read_text())}
    assert facts["c0"]["shape"] == [4, 8, 8]
    # liver fills 2 of 16 patches, the spleen's voxel lies in a third
    assert facts["c0"]["patches"] == facts["c2"]["patches"] == 3 / 16


def test_without_matplotlib_the_tables_are_written_and_a_note_says_what_is_missing(root, monkeypatch):
    monkeypatch.setattr(style, "is_installed", lambda: False)
    outcome = command("describe", root)
    assert outcome.status == 0, outcome.err
    assert "[figures]" in outcome.out
    assert sorted(path.name for path in (root.parent / "out/data/Task99").iterdir()) == ["cases.json", "describe.md"]


def test_a_good_set_passes(root):
    outcome = command("check", root)
    assert outcome.status == 0, outcome.err
    assert "no fault found" in outcome.out


def two_spacings(root: Path) -> None:
    write(root, 3, *read(root, 3), spacing=(1.0, 2.0, 3.0))


def missing_channel(root: Path) -> None:
    image, label = read(root, 3)
    write(root, 3, image[..., 0], label)


def labels_0_255(root: Path) -> None:
    image, label = read(root, 3)
    write(root, 3, image, label * 255)


def same_patient_twice(root: Path) -> None:
    image, _ = read(root, 0)
    for case in range(1, 6):
        write(root, case, image, read(root, case)[1])


def no_spleen(root: Path) -> None:
    for case in range(6):
        image, label = read(root, case)
        write(root, case, image, np.where(label == 2, 0, label).astype(np.uint8))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (two_spacings, ["another spacing than the 5 of (1.0, 2.0, 5.0) mm", "c3 (1.0, 2.0, 3.0)", "data.spacing"]),
        (missing_channel, ["c3.nii.gz", "has 1 channel(s), expected 2"]),
        (labels_0_255, ["c3.nii.gz", "unknown label value(s) [255]"]),
        (same_patient_twice, ["c0 (", "and 1 more have the same image, over test and train and val", "too good"]),
        (no_spleen, ["No training case has spleen"]),
    ],
)
def test_mistakes_are_found_with_their_cases(spoil, words, root):
    spoil(root)
    outcome = command("check", root)
    assert outcome.status == 1
    for word in words:
        assert word in outcome.err, outcome.err


def test_spacings_may_differ_where_all_are_resampled(root):
    two_spacings(root)
    assert command("check", root, "data.spacing=[1,2,5]").status == 0


def test_an_unknown_action_is_told(root):
    assert "'chek' is none of them" in command("chek", root).err
