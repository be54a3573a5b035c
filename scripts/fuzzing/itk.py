"""The kinds `nrrd` and `mha`: volumes through the check, and as labels."""

from functools import partial
from pathlib import Path

import numpy as np

from fuzzing.itk_files import draw_changes, draw_file, reading, write_files
from fuzzing.kind import Change, Kind
from fuzzing.nifti import LABELS, compared
from sct.data.cases import Case
from sct.data.check import check_cases
from sct.data.formats.volumes import Volumes


def judge(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """A file through the check as an image, or as image and label, and its written labels."""
    path, form = write_files(folder, base, changes), Volumes(3)
    case = Case("x", path, path if base["seed"] % 2 else None)
    check_cases([case], label_map=LABELS, num_channels=1, file_format=form, memory=None)
    voxels, grid = form.read_image(path)
    problems = compared(voxels, grid.affine, truth=reading(path, form=base["form"]), dims=3)
    if problems:
        return problems
    header = form.read_grid(path)
    if header.shape != grid.shape or not np.array_equal(header.affine, grid.affine):
        problems.append("the header alone says another grid")
    labels = (voxels[0] > 0.5).astype(np.uint8)
    back, again = form.read_label(form.save_labels(folder / "out" / "x", labels, like=path))
    if not np.array_equal(back, labels) or not np.allclose(again.affine, grid.affine, rtol=1e-4, atol=1e-4):
        problems.append("written labels or affine differ from what was given")
    return problems


def draw(rng: np.random.Generator, *, form: str) -> tuple[dict, list[Change]]:
    return draw_file(rng, form=form), draw_changes(rng, form=form)


KINDS = {form: Kind(partial(draw, form=form), judge) for form in ("nrrd", "mha")}
