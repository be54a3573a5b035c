"""The same volume as NIfTI, NRRD, MHA and DICOM series: one trained run gives the same labels at the same places."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import assert_one_message, run_command
from dicom_files import LPS, at_places, needs_dicom, oblique, places, write_series
from monai.transforms import ScaleIntensityRanged

import sct
from sct import predict
from sct.data.formats.volumes import Volumes, Written
from sct.data.phantoms.phantom import ORGANS
from sct.data.sets.msd import MSD
from sct.errors import UserError
from sct.runs.run import Run

needs_dicom()
import highdicom  # noqa: E402
import pydicom  # noqa: E402
import SimpleITK as sitk  # noqa: E402

NAMES = tuple(organ.name for organ in ORGANS)
SERIES = "1.2.826.0.1.3680043.10.5"


def write_kinds(folder: Path, voxels: np.ndarray, *, affine: np.ndarray) -> dict[str, Path]:
    """A volume in every kind of file, by kind."""
    folder.mkdir(parents=True)
    nib.save(nib.Nifti1Image(voxels, affine), folder / "scan.nii.gz")
    written = {"nifti": folder / "scan.nii.gz"}
    for kind in ("nrrd", "mha"):
        form = Volumes(3, written=Written(kind))
        written[kind] = form.save_labels(folder / "scan", voxels, like=written["nifti"])
    written["dicom"] = write_series(folder / "scan", voxels, affine=affine)
    written["zip"] = Path(shutil.make_archive(str(folder / "packed"), "zip", written["dicom"]))
    return written


@pytest.fixture(scope="module")
def volume(finished_run: Path, workplace: Path) -> np.ndarray:
    """The voxels of a phantom CT that the run has learnt on."""
    image = sorted((workplace / "data").rglob("img/*.nii.gz"))[-1]
    return np.ascontiguousarray(np.asarray(nib.load(image).dataobj)[:22, ::-1])


@pytest.fixture(scope="module")
def run(finished_run: Path) -> Run:
    return sct.load(finished_run, device="cpu")


@pytest.mark.parametrize("negated", [(0, 1), (2,)])
def test_labels_lie_at_the_same_places(run, volume, tmp_path, negated):
    affine = oblique((5.0, 4.0, 8.0), negated=negated)
    inputs = write_kinds(tmp_path / "in", volume, affine=affine)
    labels = {}
    for kind, path in inputs.items():
        output = tmp_path / "out" / kind
        run.predict_files(path, output=output)
        names = {path.name for path in output.iterdir()}
        stem = "packed" if kind == "zip" else "scan"
        ending = {"nrrd": ".nrrd", "mha": ".mha"}.get(kind, ".nii.gz")
        assert names == {f"{stem}{ending}"} | ({f"{stem}.dcm"} if kind in ("dicom", "zip") else set())
        labels[kind], grid = Volumes(3).read_label(output / f"{stem}{ending}")
        np.testing.assert_allclose(grid.affine, Volumes(3).read_grid(path).affine, atol=1e-4)
        # of the same place in the world
        where = places(affine, volume.shape)
        labels[kind] = at_places(labels[kind], affine=grid.affine, where=where)
    assert len(np.unique(labels["nifti"])) > 2
    for kind, found in labels.items():
        np.testing.assert_array_equal(found, labels["nifti"], err_msg=kind)

    # the DICOM SEG is the same mask, to highdicom by the places of the world, and to pydicom and SimpleITK by frames
    path = tmp_path / "out/dicom/scan.dcm"
    seg = highdicom.seg.segread(path)
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == list(NAMES)
    read = seg.get_volume(combine_segments=True)
    where = places(LPS @ read.affine, read.spatial_shape)
    np.testing.assert_array_equal(read.array, at_places(labels["nifti"], affine=affine, where=where))
    assert (read.array > 0).sum() == (labels["nifti"] > 0).sum()
    data = pydicom.dcmread(path)
    assert data.pixel_array.sum() == (labels["nifti"] > 0).sum()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0, data.pixel_array > 0)


def test_a_kind_of_label_map_and_a_series_are_chosen(finished_run, volume, tmp_path):
    affine = oblique((5.0, 4.0, 8.0))
    folder = write_series(tmp_path / "scan", volume, affine=affine)
    for path in write_series(tmp_path / "other", volume[..., :8], affine=affine, number=8).iterdir():
        path.rename(folder / f"B{path.name}")
    given = (f"ckpt={finished_run}", f"input={folder}")
    outcome = run_command(predict.main, *given, f"output={tmp_path}/out")
    assert_one_message(outcome, "holds 2 DICOM series", f"{SERIES}: CT abdomen 5, 16 slice(s)", "series=UID")
    assert not (tmp_path / "out").exists()
    outcome = run_command(predict.main, *given, f"series={SERIES}", "format=nrrd", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scan.nrrd"]
    assert Volumes(3).read_grid(tmp_path / "out/scan.nrrd").shape == volume.shape
    outcome = run_command(predict.main, *given, f"series={SERIES}", "format=gif", f"output={tmp_path}/out")
    assert_one_message(outcome, "format=gif", "nifti, nrrd, mha, dicom-seg")

    run = sct.load(finished_run, device="cpu", overrides=[f"data.series={SERIES}"])
    found = run.predict(folder)
    np.testing.assert_array_equal(found.labels, Volumes(3).read_label(tmp_path / "out/scan.nrrd")[0])
    for name, wanted in (("a", "a.nii.gz"), ("b.mha", "b.mha"), ("c.dcm", "c.dcm"), ("d.nii", "d.nii")):
        assert found.save(tmp_path / "saved" / name).name == wanted
    np.testing.assert_array_equal(Volumes(3).read_label(tmp_path / "saved/b.mha")[0], found.labels)
    assert highdicom.seg.segread(tmp_path / "saved/c.dcm").pixel_array.any()


def listed(root: Path, entries: list[dict[str, str]]) -> MSD:
    """A Decathlon folder of files beside it, which a link brings in."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "files").exists():
        (root / "files").symlink_to(root.parent)
    linked = [{key: f"files/{Path(path).relative_to(root.parent)}" for key, path in pair.items()} for pair in entries]
    description = {"labels": {"0": "background", "1": "organ"}, "modality": {"0": "CT"}, "training": linked}
    (root / "dataset.json").write_text(json.dumps(description))
    return MSD(
        root=str(root),
        roi_size=[8, 8, 8],
        intensity=ScaleIntensityRanged(keys=["image"], a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True),
        cache_dir=str(root / "cache"),
        cache="disk",
        spacing=[4.0, 4.0, 6.0],
        val_share=0.25,
        test_share=0.25,
    )


def test_training_data_of_every_kind_are_those_of_the_nifti(volume, tmp_path):
    """A Decathlon folder whose list names NRRD, MHA, a folder and a zip file of slices, and labels of each kind."""
    affine = oblique((5.0, 4.0, 8.0), negated=(2,))
    label = (volume > 100).astype(np.uint8)
    mixed, plain = [], []
    for number, kind in enumerate(("nrrd", "mha", "dicom", "zip")):
        images = write_kinds(tmp_path / f"mixed/case{number}", np.roll(volume, number, axis=0), affine=affine)
        labels = write_kinds(tmp_path / f"mixed/label{number}", label, affine=affine)
        # a label map of a series lies on the series' own grid
        form = Volumes(3)
        if kind in ("dicom", "zip"):
            grid = form.read_grid(images[kind])
            moved = at_places(label, affine=affine, where=places(grid.affine, grid.shape))
            labels[kind] = form.save_labels(tmp_path / f"mixed/moved{number}", moved, like=images["dicom"])
        mixed.append({"image": str(images[kind]), "label": str(labels[kind])})
        plain.append({"image": str(images["nifti"]), "label": str(labels["nifti"])})
    one, other = listed(tmp_path / "a", mixed), listed(tmp_path / "b", plain)
    one.prepare()
    other.prepare()
    for found, wanted in zip(one.find_cases(), other.find_cases(), strict=True):
        first, second = one.load_case(found), other.load_case(wanted)
        np.testing.assert_allclose(first.image, second.image, atol=1e-5)
        np.testing.assert_array_equal(first.label, second.label)
        assert first.label.any()
        np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)
    batch = next(one.train_loader(seed=0, start_step=0, num_steps=1))
    assert batch["image"].shape[1:] == (1, 8, 8, 8)


def test_a_series_with_another_slice_is_another_image(volume, tmp_path):
    folder = write_series(tmp_path / "scan", volume, affine=oblique((5.0, 4.0, 8.0)))
    nib.save(
        nib.Nifti1Image((volume > 100).astype(np.uint8), Volumes(3).read_grid(folder).affine), tmp_path / "l.nii.gz"
    )
    data = listed(tmp_path / "a", [{"image": str(folder), "label": str(tmp_path / "l.nii.gz")}])
    (case,) = data.find_cases()
    data.check_files([case])
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=path.name):
        data.check_files([case])
