"""The kinds `nifti` (a volume up to its written labels), `slices` (for a 2-D network) and `pair` (image and label)."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from fuzzing.kind import Change, Kind
from fuzzing.nifti_files import Reading, draw_changes, draw_file, file_bytes, is_honest, reading
from sct.data.cases import Case, LabelMap
from sct.data.check import check_cases
from sct.data.formats.base import Nifti
from sct.data.loading.transforms import Preprocess, TrainingCrops
from sct.data.outputs import Classes
from sct.errors import UserError
from sct.inference.base import Chunk
from sct.inference.regrid import SourceGrid

LABELS = LabelMap(("background", "a", "b"))


def prepared(case: Case, form: Nifti, *, dims: int, spacing: list[float] | None) -> tuple[Preprocess, object]:
    """The check, as every command begins, and preprocessing."""
    preprocess = Preprocess(
        roi_size=[8] * dims,
        spacing=spacing,
        intensity=lambda sample: sample,
        crop_above=None,
        file_format=form,
        axes="RAS" if dims == 3 else None,
    )
    check_cases([case], label_map=LABELS, num_channels=1, file_format=form, preprocess=preprocess, memory=None)
    return preprocess, preprocess(case)


def judge_volume(folder: Path, base: dict, changes: list[Change], *, dims: int = 3) -> list[str]:
    """A file through check, preprocessing, and writing as sct.predict does."""
    suffix = ".nii.gz" if base["gz"] else ".nii"
    data, path, form = file_bytes(base, changes), folder / f"x{suffix}", Nifti(dims)
    path.write_bytes(data)
    spacing = [1.5, 1.5, 2.0][-dims:] if base["seed"] % 4 == 3 else None
    try:
        _, ready = prepared(Case("x", path, None), form, dims=dims, spacing=spacing)
        voxels, grid = form.read_image(path)
    except UserError:
        if not changes and not is_honest(base, dims):
            return []  # of another kind, and rightly refused
        raise
    problems = compared(voxels, grid.affine, truth=reading(data, gz=base["gz"]), dims=dims)
    if problems:
        return problems
    header = form.read_grid(path)
    if header.shape != grid.shape or not np.array_equal(header.affine, grid.affine):
        problems.append("the header alone says another grid")
    image = torch.from_numpy(ready.image[0])
    source = SourceGrid(
        outputs=Classes(LABELS),
        shape=image.shape,
        affine=ready.affine,
        source_shape=grid.shape,
        source_affine=grid.affine,
    )
    source.add(Chunk(0, torch.stack([torch.full_like(image, 0.5), image, torch.full_like(image, -1e9)])))
    written, origin = nib.load(form.save_labels(folder / "out" / "x", source.labels, like=path)), nib.load(path)
    if spacing is None and not np.array_equal(source.labels, (voxels[0] > 0.5).astype(np.uint8)):
        problems.append("labels are not those of the image")
    same = np.array_equal(np.asarray(written.dataobj), source.labels)
    # a picture without a form has no third axis
    axes = slice(2 if dims == 2 and not (origin.header["sform_code"] or origin.header["qform_code"]) else 3)
    if not same or not np.allclose(written.affine[axes, axes], origin.affine[axes, axes]):
        problems.append("written labels or affine differ from what was given")
    if any(int(written.header[name]) != int(origin.header[name]) for name in ("sform_code", "qform_code")):
        problems.append("written form codes differ")
    return problems


def judge_slice(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    return judge_volume(folder, base, changes, dims=2)


def judge_pair(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """An image and its label, one of them changed, up to crops as training makes them."""
    suffix, form = ".nii.gz" if base["gz"] else ".nii", Nifti(3)
    data, path, other = file_bytes(base, changes), folder / f"x{suffix}", folder / f"honest{suffix}"
    path.write_bytes(data)
    other.write_bytes(file_bytes({**base, "seed": base["seed"] + 6}, []))
    label_is_changed = base["seed"] % 4 >= 2
    case = Case("x", other, path) if label_is_changed else Case("x", path, other)
    try:
        _, ready = prepared(case, form, dims=3, spacing=None)
    except UserError:
        if not changes and not is_honest(base, 3):
            return []
        raise
    voxels, grid = form.read_image(path)
    problems = compared(voxels, grid.affine, truth=reading(data, gz=base["gz"]), dims=3)
    if label_is_changed and not set(np.unique(voxels)) <= {0, 1, 2}:
        problems.append("a label of unknown values")
    crops = TrainingCrops(roi_size=[8] * 3, num_crops=2, positive_share=0.5, augment=[])(ready, entropy=(0, 1))
    if any(crop["label"].max() > 2 or not torch.isfinite(crop["image"]).all() for crop in crops):
        problems.append("a crop holds unknown labels or is not finite")
    return problems


def compared(voxels: np.ndarray, affine: np.ndarray, *, truth: Reading | str, dims: int) -> list[str]:
    """What sct read (C, *S) against what the standard says."""
    if isinstance(truth, str):
        return [f"accepted, but {truth}"]
    expected = truth.voxels
    while expected.ndim > dims and expected.shape[-1] == 1:
        expected = expected[..., 0]
    problems = []
    size = max(1e-6, np.abs(expected).max())
    if voxels[0].shape != expected.shape or not np.allclose(voxels[0], expected, rtol=1e-5, atol=1e-6 * size):
        problems.append("voxels differ from the standard's")
    if truth.affine is None:
        if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0)[: len(truth.spacing)], truth.spacing, rtol=1e-4):
            problems.append("spacing is not pixdim")
    elif not np.allclose(affine, truth.affine, rtol=1e-4, atol=1e-4 * truth.spacing.min()):
        problems.append("affine is not the form's")
    return problems


KINDS = {
    "nifti": Kind(lambda rng: (draw_file(rng, label=False, flat=False), draw_changes(rng)), judge_volume),
    "slices": Kind(lambda rng: (draw_file(rng, label=False, flat=True), draw_changes(rng)), judge_slice),
    "pair": Kind(lambda rng: (draw_file(rng, label=True, flat=False), draw_changes(rng)), judge_pair),
}
