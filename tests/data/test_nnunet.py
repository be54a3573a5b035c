"""nnU-Net's raw folder: cases, labels, regions, splits, statistics; every mistake in it as one message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from little_data import save, scale
from nnunet_layout import as_nnunet, write_msd

from sct.config.check import build, check_config
from sct.config.command import compose_config
from sct.data.sets.msd import MSD
from sct.data.sets.nnunet import NNUNet
from sct.errors import UserError
from sct.runs.card import files_digest

REGIONS = {"background": 0, "whole": [1, 2], "inner": [2]}
SPLITS = ("train", "val", "test")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six cases of two channels with a label 3 to ignore, as the Decathlon has them."""
    return write_msd(tmp_path / "msd", channels=("CT", "T1"), ignored=True)


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    return as_nnunet(source, tmp_path / "Dataset001_Mine")


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Callable[..., NNUNet]:
    def build_data(**fields: Any) -> NNUNet:
        settings = {"root": str(root), "cache_dir": str(tmp_path / "cache"), "roi_size": [8, 8, 8]}
        return NNUNet(**(settings | {"val_share": 0.2} | fields))

    return build_data


@pytest.fixture
def change(root: Path) -> Callable[..., None]:
    """Changes keys of dataset.json; None takes a key out."""

    def write(**keys: Any) -> None:
        path = root / "dataset.json"
        content = {**json.loads(path.read_text()), **keys}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return write


def ids(data: MSD | NNUNet) -> dict[str, list[str]]:
    return {part: [case.id for case in data.cases(part)] for part in SPLITS}


def test_cases_labels_and_channels(make: Callable, source: Path, tmp_path: Path) -> None:
    data = make()
    assert (data.label_map.names, data.label_map.ignored) == (("background", "outer", "inner"), 3)
    assert data.channel_names == ["CT", "T1"]
    twin = MSD(root=str(source), cache_dir=str(tmp_path), roi_size=[8, 8, 8], intensity=scale(), val_share=0.2)
    assert ids(data) == ids(twin), "the same cases are split as in the Decathlon's layout"
    same = make(intensity=scale())
    for case, other in zip(same.cases("test"), twin.cases("test"), strict=True):
        ours, theirs = same.load_case(case), twin.load_case(other)
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(ours.affine, theirs.affine)


def test_the_config_as_it_is(root: Path, tmp_path: Path) -> None:
    cfg = compose_config("train", overrides=["data=nnunet", f"data.root={root}", f"paths.cache={tmp_path}/cache"])
    check_config(cfg)
    data = build(cfg.data, key="data")
    data.prepare()
    assert data.load_case(data.cases("val")[0]).image.shape == (2, 96, 96, 96)


def test_mac_and_windows(make: Callable, root: Path) -> None:
    path = root / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for file in [*(root / "imagesTr").iterdir(), *(root / "labelsTr").iterdir()]:
        (file.parent / f"._{file.name}").write_bytes(b"mac")
    data = make()
    data.prepare()
    assert len(data.find_cases()) == 6


def test_ct_is_normalised_by_the_training_part(make: Callable, root: Path) -> None:
    data = make()
    train = data.cases("train")
    values = []
    for case in train:
        label = nib.load(case.label).get_fdata()
        values.append(nib.load(case.image).get_fdata()[(label > 0) & (label < 3)])
    pooled = np.concatenate(values)
    assert data.statistics is not None
    mean, std, low, high = data.statistics[0]
    expected = (pooled.mean(), pooled.std(), *np.percentile(pooled, (0.5, 99.5)))
    assert (mean, std, low, high) == pytest.approx(expected, rel=1e-5)
    assert data.statistics[1] is None
    case = data.cases("test")[0]
    found = data.load_case(case).image[0]
    raw = nib.as_closest_canonical(nib.load(case.image)).get_fdata()
    np.testing.assert_allclose(found, (np.clip(raw, low, high) - mean) / std, atol=1e-4)


def test_a_run_owns_what_it_needs(make: Callable, root: Path, change: Callable) -> None:
    change(labels={**REGIONS, "ignore": 3}, regions_class_order=[1, 2])
    data = make()
    data.prepare()
    found = data.found()
    assert json.loads(json.dumps(found)) == found
    case, outputs, image = data.cases("test")[0], data.outputs, data.load_case(data.cases("test")[0]).image
    moved = root.rename(root.with_name("moved"))
    new = make(**found)
    files = moved / "imagesTr" / case.image.name
    (again,) = (c for c in [type(case)(case.id, files, None)])
    assert (new.outputs, new.label_map.ignored, new.num_channels) == (outputs, 3, 2)
    np.testing.assert_array_equal(new.load_case(again).image, image)


def test_statistics_of_a_run_are_not_measured_again(make: Callable) -> None:
    data = make(statistics=[[1.0, 2.0, -3.0, 5.0], None])
    data.prepare()
    assert data.statistics == [[1.0, 2.0, -3.0, 5.0], None]
    assert make(intensity=scale()).found()["statistics"] is None


def test_regions(make: Callable, change: Callable) -> None:
    change(labels={"background": 0, "inner": 2, "whole": [1, 2], "ignore": 3}, regions_class_order=[2, 1])
    with pytest.raises(
        UserError, match=r"painted region by region, with the values \[2, 1\].*order regions_class_order"
    ):
        _ = make().outputs
    change(labels={**REGIONS, "ignore": 3}, regions_class_order=[1, 2])
    outputs = make().outputs
    assert (outputs.overlapping, outputs.scored) == (True, {"whole": (1, 2), "inner": (2,)})
    assert outputs.label_map.names == ("background", "label 1", "label 2")
    data = make()
    data.prepare()
    with pytest.raises(UserError, match=r"(?s)regions differ.*'whole': \[1\].*has.*'whole': \[1, 2\]"):
        make(**{**data.found(), "regions": {"whole": [1], "inner": [2]}}).prepare()


def test_a_run_meets_other_names(make: Callable, change: Callable) -> None:
    found = make().found()
    change(labels={"background": 0, "inner": 1, "outer": 2, "ignore": 3})
    with pytest.raises(UserError, match=r"(?s)labels differ.*outer, inner, ignore.*has.*inner, outer, ignore"):
        make(**found).prepare()
    change(labels={"background": 0, "outer": 1, "inner": 2, "ignore": 3}, channel_names={"0": "T1", "1": "CT"})
    with pytest.raises(UserError, match=r"(?s)channels differ.*CT, T1.*has.*T1, CT"):
        make(**found).prepare()


def test_folds_of_the_file(make: Callable, root: Path) -> None:
    names = [f"case_{n:03d}" for n in range(6)]
    folds = [{"train": names[2:], "val": names[:2]}, {"train": names[:4], "val": names[4:]}]
    (root / "splits_final.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(folds).encode())
    for number, fold in enumerate(folds):
        parts = ids(make(fold=number))
        assert parts["test"] == fold["val"]
        assert sorted(parts["train"] + parts["val"]) == fold["train"]
        assert len(parts["val"]) == 1
    assert ids(make(fold=0, split_seed=1))["val"] != ids(make(fold=0))["val"]
    assert len(ids(make())["train"]) == 4, "without a fold the random split"
    assert ids(make(folds=3, fold=0))["test"] != folds[0]["val"], "folds that are drawn"
    with pytest.raises(UserError, match=r"data\.fold=2 is not among the 2 folds"):
        make(fold=2).prepare()
    with pytest.raises(UserError, match=r"data\.split=same and data\.fold=0"):
        make(fold=0, split="same")
    for wrong, reason in (
        ([{"train": ["case_000", "x"], "val": ["case_001"]}], r"names x, which"),
        ([{"train": names[:3], "val": names[2:4]}], r"both trains and validates on case_002"),
        ([{"train": names}], r"fold 0 has no list val"),
        ({"train": names}, r"expected a list of folds"),
    ):
        (root / "splits_final.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=reason):
            make(fold=0).prepare()
    (root / "splits_final.json").unlink()
    with pytest.raises(UserError, match=r"has no splits_final\.json.*data\.folds=5"):
        make(fold=0).prepare()


@pytest.mark.parametrize("name", ["new_000", "case_000"])
def test_a_test_set_of_its_own(make: Callable, root: Path, name: str) -> None:
    for channel in range(2):
        (root / "imagesTs").mkdir(exist_ok=True)
        shutil.copy(root / f"imagesTr/case_000_{channel:04d}.nii.gz", root / f"imagesTs/{name}_{channel:04d}.nii.gz")
        shutil.copy(root / f"imagesTr/case_000_{channel:04d}.nii.gz", root / f"imagesTs/no_label_{channel:04d}.nii.gz")
    assert len(ids(make())["test"]) == 1, "images alone are no test set"
    (root / "labelsTs").mkdir()
    shutil.copy(root / "labelsTr/case_000.nii.gz", root / f"labelsTs/{name}.nii.gz")
    data = make()
    assert [case.image.parent.name for case in data.cases("test")] == ["imagesTs"]
    assert len(data.cases("train") + data.cases("val")) == 6
    names = [f"case_{n:03d}" for n in range(6)]
    (root / "splits_final.json").write_text(json.dumps([{"train": names[2:], "val": names[:2]}]))
    assert [case.image.name[:8] for case in make(fold=0).cases("test")] == names[:2]


def test_cases_of_a_list(make: Callable, root: Path, change: Callable) -> None:
    entries = {}
    for number in range(6):
        folder = root / "anywhere" / str(number)
        folder.mkdir(parents=True)
        for channel, name in enumerate(("ct", "t1")):
            (root / f"imagesTr/case_{number:03d}_{channel:04d}.nii.gz").rename(folder / f"{name}.nii.gz")
        (root / f"labelsTr/case_{number:03d}.nii.gz").rename(folder / "seg.nii.gz")
        files = [f"anywhere\\{number}\\{name}.nii.gz" for name in ("ct", "t1")]
        entries[f"p{number}"] = {"images": files, "label": f"./anywhere/{number}/seg.nii.gz"}
    change(dataset=entries)
    data = make()
    data.prepare()
    assert sorted(case.id for part in SPLITS for case in data.cases(part)) == sorted(entries)
    assert data.load_case(data.cases("val")[0]).image.shape[0] == 2
    (root / "anywhere" / "3" / "t1.nii.gz").unlink()
    with pytest.raises(UserError, match=r"3/t1\.nii\.gz: the file does not exist"):
        make().prepare()
    for wrong in ([], {"p0": {"images": [], "label": "x"}}, {"p0": {"label": "x"}}, {}):
        change(dataset=wrong)
        with pytest.raises(UserError, match="`dataset`"):
            make().prepare()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"labels": None}, "lacks labels; expected channel_names, labels, numTraining, file_ending"),
        ({"file_ending": None, "training": []}, r"lacks file_ending.*give data=msd"),
        ({"labels": {"background": 0, "outer": 1, "inner": 3}}, "no number left out"),
        ({"labels": {"air": 0, "outer": 1}}, "background 0"),
        ({"labels": {"background": 0, "outer": 1, "inner": 1}}, "two names have one number"),
        ({"labels": {"0": "background", "1": "outer"}}, "expected {"),
        ({"labels": {"background": 0, "ignore": 1, "outer": 2}}, "the label ignore is 1; expected 2, the highest"),
        ({"labels": REGIONS}, r"`regions_class_order` is None; expected 2 numbers.*whole, inner"),
        ({"labels": REGIONS, "regions_class_order": [1, 1]}, r"lack the value they are written with: inner \[2\]: 1"),
        ({"channel_names": {"0": "CT", "2": "T1"}}, "counted from 0"),
        ({"channel_names": ["CT", "T1"]}, "`channel_names` is"),
        ({"channel_names": {"0": "CT"}}, r"case_000_0000\.nii\.gz: has 2 channel\(s\), expected 1"),
        ({"numTraining": 7}, "numTraining is 7, but there are 6 training cases"),
        ({"numTraining": "6"}, "`numTraining` is '6'"),
        ({"file_ending": ".mha"}, r"imagesTr: has case_000_0000\.nii\.gz.*expected files that end in \.mha"),
        ({"file_ending": "nii.gz"}, "`file_ending` is 'nii.gz'"),
    ],
)
def test_mistakes_in_dataset_json(make: Callable, change: Callable, keys: dict, reason: str) -> None:
    change(**keys)
    with pytest.raises(UserError, match=reason):
        make().prepare()


def test_mistakes_in_the_folders(make: Callable, root: Path) -> None:
    (root / "labelsTr/case_001.nii.gz").unlink()
    (root / "imagesTr/case_002_0001.nii.gz").unlink()
    (root / "imagesTr/case_003_0000.nii.gz").unlink()
    save(root / "imagesTr/case_004_0001.nii.gz", np.full((20, 18, 16), np.nan, np.float32), affine=np.eye(4))
    with pytest.raises(UserError) as failed:
        make().prepare()
    for words in (
        r"labelsTr/case_001.nii.gz. Add it",
        r"expected " + str(root / "imagesTr/case_002_0001.nii.gz"),
        r"imagesTr/case_003_0000.nii.gz: the file does not exist",
        r"imagesTr/case_004_0001.nii.gz: lies",
    ):
        assert words in str(failed.value)
    (root / "imagesTr/case_000_0000.nii.gz").rename(root / "imagesTr/case_000.nii.gz")
    with pytest.raises(UserError, match=r"case_000\.nii\.gz lack\(s\) the number of the channel; expected CASE_0000"):
        make().prepare()
    shutil.rmtree(root / "imagesTr")
    with pytest.raises(UserError, match=r"imagesTr: does not exist; expected files that end in \.nii\.gz"):
        make().prepare()
    (root / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"(?s)has no dataset\.json.*imagesTr with\s+CASE_0000"):
        make().prepare()


def test_the_file_of_a_bad_channel_is_named(make: Callable, root: Path) -> None:
    path = root / "imagesTr/case_004_0001.nii.gz"
    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[0] = np.nan
    save(path, voxels, affine=image.affine)
    with pytest.raises(UserError, match=rf"{path}: has 288 intensities that are NaN"):
        make().prepare()


def test_another_ending_than_the_runs(make: Callable) -> None:
    with pytest.raises(
        UserError, match=r"end in \.nii\.gz \(file_ending\).*is \.nii\. Give data\.file_ending=\.nii\.gz"
    ):
        make(file_ending=".nii").prepare()


def test_the_decathlons_reader_says_which_layout_it_is(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nnU-Net's layout.*data=nnunet"):
        MSD(root=str(root), cache_dir=str(tmp_path), roi_size=[8, 8, 8], intensity=scale()).prepare()


def test_caches_and_cards_see_every_file(make: Callable, root: Path, tmp_path: Path) -> None:
    def volume() -> tuple[NNUNet, np.ndarray]:
        data = make(cache="disk", intensity=scale())
        return data, data.load_case(data.cases("test")[0]).image.numpy()

    data, before = volume()
    digest, path = files_digest(data), data.format.files(data.cases("test")[0].image)[1]
    image = nib.load(path)
    save(path, np.zeros(image.shape, np.float32), affine=image.affine)
    data, after = volume()
    assert before[1].any()
    assert not after[1].any()
    assert files_digest(data) != digest
