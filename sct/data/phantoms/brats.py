"""Phantom brain tumours: made-up MRI of four sequences in the Decathlon's layout, with BraTS's nested regions.

Arrays are (X, Y, Z) in RAS order while drawn. Lengths are in units of half the smallest side of the volume.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from sct.data.cases import Case
from sct.data.phantoms.written import check_may_draw, taken_from, write_once
from sct.data.sets.msd import MSD
from sct.data.splits import split_in_order

LABELS = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
SEQUENCES = ("FLAIR", "T1w", "t1gd", "T2w")
# Intensity of brain, edema, core and enhancing tumour: only t1gd tells the enhancing part from the rest of the core.
INTENSITIES = np.array(
    [[100, 190, 165, 165], [120, 95, 80, 80], [120, 100, 80, 220], [100, 170, 190, 190]], dtype=float
)
NOISE = 8.0


@dataclass(frozen=True)
class TumourSpec:
    """All that decides the content of a phantom set; the same spec gives the same voxels.

    shape: voxels (x, y, z) · voxel_size: mm
    """

    num_train: int
    num_val: int
    num_test: int
    shape: list[int]
    voxel_size: list[float]
    seed: int

    @property
    def num_cases(self) -> int:
        return self.num_train + self.num_val + self.num_test


def draw_brain(*, shape: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image (X, Y, Z, 4) int16 and label (X, Y, Z) uint8: a brain in zeros, with a tumour on one side.

    The core lies within the edema, and the enhancing part is a shell of the core: the rest of it is inside.
    """
    place = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")) / (min(shape) / 2)
    half = np.array(shape).reshape(3, 1, 1, 1) / min(shape)
    brain = ((place / half / 0.9) ** 2).sum(axis=0) < 1
    side = rng.choice([-1.0, 1.0])
    centre = np.array([side * rng.uniform(0.2, 0.35), *rng.uniform(-0.25, 0.25, 2)]).reshape(3, 1, 1, 1)
    radius, axes = rng.uniform(0.35, 0.5), rng.uniform(0.8, 1.2, 3).reshape(3, 1, 1, 1)
    waves = ndimage.gaussian_filter(rng.normal(size=shape), 0.12 * min(shape))
    distance = np.sqrt((((place - centre) / axes) ** 2).sum(axis=0)) / radius + 0.15 * waves / waves.std()
    core = rng.uniform(0.6, 0.8)
    label = np.zeros(shape, dtype=np.uint8)
    for value, border in ((1, 1.0), (3, core), (2, 0.6 * core)):
        label[brain & (distance < border)] = value
    gain = rng.uniform(0.7, 1.5, len(SEQUENCES))  # scanners know no units
    image = np.stack([mean[label] * g for mean, g in zip(INTENSITIES, gain, strict=True)], axis=-1)
    image = ndimage.gaussian_filter(image, (0.5, 0.5, 0.5, 0)) + rng.normal(0, NOISE, image.shape)
    return np.where(brain[..., None], np.maximum(np.rint(image), 1), 0).astype(np.int16), label


def record(spec: TumourSpec) -> dict[str, Any]:
    """What phantom.json says: the spec, and of every label in the first case its voxels and mean intensities.

    A set that an older generator drew from the same spec differs in these.
    """
    image, label = draw_brain(shape=spec.shape, rng=np.random.default_rng([spec.seed, 0]))
    means = [[int((label == v).sum()), *image[label == v].mean(axis=0).round().tolist()] for v in np.unique(label)]
    return {**asdict(spec), "first_case": means}


def write_tumours(folder: Path, *, spec: TumourSpec) -> None:
    """Write the set in the Decathlon's layout, or reuse an equal one; see `write_once`."""

    def write(built: Path) -> None:
        names = [f"BRATS_{number:03d}.nii.gz" for number in range(1, spec.num_cases + 1)]
        for index, name in enumerate(names):
            _write_case(built, name=name, index=index, spec=spec)
        description = {
            "name": "phantom BRATS",
            "tensorImageSize": "4D",
            "modality": {str(channel): name for channel, name in enumerate(SEQUENCES)},
            "labels": {str(value): name for value, name in enumerate(LABELS)},
            "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
            "test": [],
        }
        (built / "dataset.json").write_text(json.dumps(description, indent=1))

    write_once(folder, record=record(spec), write=write)


def _write_case(root: Path, *, name: str, index: int, spec: TumourSpec) -> None:
    image, label = draw_brain(shape=spec.shape, rng=np.random.default_rng([spec.seed, index]))
    affine = np.diag([*spec.voxel_size, 1.0])
    for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
        (root / folder).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, affine), root / folder / name)


@dataclass(kw_only=True)
class PhantomBraTS(MSD):
    """A phantom set in `root`, written when it is missing; cases are split in order of their number.

    num_train: cases to train on
    num_val: cases to validate on
    num_test: cases to test on
    seed: seed of the drawing: the same seed draws the same cases
    shape: voxels of a case along each axis
    voxel_size: size of a voxel along each axis, mm
    """

    num_train: int = 12
    num_val: int = 2
    num_test: int = 4
    shape: list[int] = field(default_factory=lambda: [48, 56, 48])
    voxel_size: list[float] = field(default_factory=lambda: [3.0, 3.0, 3.0])
    seed: int = 0

    @property
    def spec(self) -> TumourSpec:
        """What phantom.json records."""
        return taken_from(self, kind=TumourSpec)

    def find_cases(self) -> list[Case]:
        check_may_draw(Path(self.root), may_write=self.may_write)
        write_tumours(Path(self.root), spec=self.spec)
        return super().find_cases()

    def default_split(self, cases: list[Case]) -> dict[str, list[Case]]:
        return split_in_order(cases, num_train=self.num_train, num_val=self.num_val)
