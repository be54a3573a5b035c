"""Phantom CT in the layout of Synapse as TransUNet prepares it, for demos, tests and development.

The abdomens of `sct.data.phantoms.phantom`, through the code that prepares real scans. Pancreas and stomach are absent.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sct.data.cases import Case
from sct.data.phantoms import phantom
from sct.data.phantoms.written import check_may_draw, taken_from, write_once
from sct.data.sets.synapse import Synapse
from sct.data.sets.synapse_conversion import Scan, convert, write_set

NAMES = ("background", *(organ.name for organ in phantom.ORGANS))


@dataclass(frozen=True)
class AbdomenSpec:
    """All that decides the content of a phantom set; the same spec gives the same files.

    shape: voxels (x, y, z), z of them slices · voxel_size: mm
    """

    num_train: int
    num_test: int
    shape: list[int]
    voxel_size: list[float]
    seed: int


def patient_id(number: int) -> str:
    return f"{number:04d}"


def draw_scan(spec: AbdomenSpec, *, number: int) -> Scan:
    """The scan of patient `number`, from 1 on."""
    rng = np.random.default_rng([spec.seed, number])
    image, label = phantom.draw_abdomen(shape=spec.shape, voxel_size=spec.voxel_size, rng=rng)
    affine = np.diag([*spec.voxel_size, 1.0])
    return convert(image, label, affine=affine, names=NAMES, patient=patient_id(number))


def record(spec: AbdomenSpec) -> dict[str, Any]:
    """What phantom.json says: the spec, and of every label of the first scan its voxels and mean intensity.

    A set that an older generator drew from the same spec differs in these.
    """
    scan = draw_scan(spec, number=1)
    values = np.unique(scan.label)
    parts = [scan.image[scan.label == value] for value in values]
    first_case = [[int(v), part.size, round(float(part.mean()), 3)] for v, part in zip(values, parts, strict=True)]
    return {**asdict(spec), "first_case": first_case}


def write_abdomens(folder: Path, *, spec: AbdomenSpec) -> None:
    """Write the set, or reuse an equal one; see `write_once`."""

    def write(built: Path) -> None:
        numbers = range(1, spec.num_train + spec.num_test + 1)
        scans = (draw_scan(spec, number=number) for number in numbers)
        patients = [patient_id(number) for number in numbers]
        write_set(built, scans, train=patients[: spec.num_train], test=patients[spec.num_train :])

    write_once(folder, record=record(spec), write=write)


@dataclass(kw_only=True)
class PhantomSynapse(Synapse):
    """A phantom set in `root`, written when it is missing: patients 0001 to `num_train` train, the next test.

    num_train: cases to train on
    num_test: cases to test on
    seed: seed of the drawing: the same seed draws the same cases
    shape: voxels of a case along each axis
    voxel_size: size of a voxel along each axis, mm
    """

    num_train: int = 14
    num_test: int = 4
    shape: list[int] = field(default_factory=lambda: [64, 64, 24])
    voxel_size: list[float] = field(default_factory=lambda: [2.0, 2.0, 6.0])
    seed: int = 0

    @property
    def spec(self) -> AbdomenSpec:
        """What phantom.json records."""
        return taken_from(self, kind=AbdomenSpec)

    def find_cases(self) -> list[Case]:
        check_may_draw(Path(self.root), may_write=self.may_write)
        write_abdomens(Path(self.root), spec=self.spec)
        return super().find_cases()
