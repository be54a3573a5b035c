"""Phantom CT: made-up abdomens in BTCV's raw layout, for demos, tests and development.

Arrays are (X, Y, Z) in RAS order while drawn; positions and sizes are in mm from the volume's centre.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import scipy

from sct.data.cases import Case, LabelMap
from sct.data.module import SegmentationData
from sct.data.phantoms import lookalike
from sct.data.phantoms.written import check_may_draw, check_root, taken_from, write_once
from sct.data.sets.btcv import raw_cases
from sct.data.splits import split_in_order
from sct.errors import UserError

# below data.root, one for each kind
FOLDERS = ("organs", "lookalikes")
AIR_HU, FAT_HU, BONE_HU, NOISE_HU = -1000.0, -90.0, 600.0, 15.0


@dataclass(frozen=True)
class Organ:
    """An ellipsoid: centre and semi-axes in mm (R, A, S), intensity in HU; an infinite axis makes a tube."""

    name: str
    centre: tuple[float, float, float]
    axes: tuple[float, float, float]
    hu: float


# From large (about 5,000 voxels of 2 x 2 x 3 mm) to small (about 130); later ones lie over earlier ones.
ORGANS = (
    Organ("liver", (25.0, 8.0, 22.0), (21.0, 20.0, 30.0), 130.0),
    Organ("spleen", (-32.0, -8.0, 28.0), (10.0, 13.0, 18.0), 200.0),
    Organ("right_kidney", (24.0, -20.0, -30.0), (9.0, 9.0, 18.0), 270.0),
    Organ("left_kidney", (-24.0, -20.0, -26.0), (9.0, 9.0, 18.0), 340.0),
    Organ("gallbladder", (14.0, 22.0, -22.0), (7.0, 7.0, 8.0), -50.0),
    Organ("aorta", (-4.0, -10.0, 0.0), (4.0, 4.0, np.inf), 420.0),
)


@dataclass(frozen=True)
class PhantomSpec:
    """All that decides the content of a phantom set; the same spec gives the same voxels.

    shape: voxels (x, y, z) · voxel_size: mm · lookalikes: the harder kind of `sct.data.phantoms.lookalike` ·
    scale: times the sizes in mm of what is drawn
    """

    num_train: int
    num_val: int
    num_test: int
    shape: Sequence[int]
    voxel_size: Sequence[float]
    seed: int
    lookalikes: bool
    scale: float = 1.0

    @property
    def num_cases(self) -> int:
        return self.num_train + self.num_val + self.num_test


def draw_abdomen(
    *, shape: Sequence[int], voxel_size: Sequence[float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image (X, Y, Z) float32 in HU and label uint8: a body in air, a spine without label, `ORGANS`."""
    place = [(np.arange(n) - (n - 1) / 2) * size for n, size in zip(shape, voxel_size, strict=True)]
    world = np.meshgrid(*place, indexing="ij", sparse=True)
    half = [n * size / 2 for n, size in zip(shape[:2], voxel_size[:2], strict=True)]
    body = (world[0] / (0.92 * half[0])) ** 2 + (world[1] / (0.72 * half[1])) ** 2 < 1
    image = np.broadcast_to(np.where(body, 40.0, AIR_HU), shape).copy()
    muscle = (world[0] / (0.84 * half[0])) ** 2 + (world[1] / (0.64 * half[1])) ** 2 < 1
    image[np.broadcast_to(body & ~muscle, shape)] = FAT_HU
    image[np.broadcast_to(world[0] ** 2 + (world[1] + 30.0) ** 2 < 7.0**2, shape)] = BONE_HU
    label = np.zeros(shape, dtype=np.uint8)
    for value, organ in enumerate(ORGANS, start=1):
        centre = np.array(organ.centre) + rng.uniform(-4.0, 4.0, 3)
        axes = np.array(organ.axes) * rng.uniform(0.88, 1.12, 3)
        inside = sum(((x - c) / a) ** 2 for x, c, a in zip(world, centre, axes, strict=True)) < 1
        inside = np.broadcast_to(inside, shape)
        image[inside] = organ.hu + rng.uniform(-10.0, 10.0)
        label[inside] = value
    # The scanner's blur, then its noise.
    image = scipy.ndimage.gaussian_filter(image, 0.5) + rng.normal(0.0, NOISE_HU, shape)
    return image.astype(np.float32), label


def write_phantoms(folder: Path, *, spec: PhantomSpec) -> None:
    """Write the set in BTCV's raw layout, or reuse an equal one; see `write_once`."""

    def write(built: Path) -> None:
        for index in range(spec.num_cases):
            _write_case(built, index=index, spec=spec)

    write_once(folder, record=record(spec), write=write)


def _write_case(root: Path, *, index: int, spec: PhantomSpec) -> None:
    rng = np.random.default_rng([spec.seed, index])
    image, label = _draw(spec, rng=rng)
    # Stored as scanners do, x to the left and y to the back, with an origin far from zero.
    affine = np.diag([-spec.voxel_size[0], -spec.voxel_size[1], spec.voxel_size[2], 1.0])
    affine[:3, 3] = rng.uniform(-200.0, 200.0, 3).round(2)
    training = root / "RawData" / "Training"
    for kind, voxels in (("img", np.rint(image).astype(np.int16)), ("label", label)):
        (training / kind).mkdir(parents=True, exist_ok=True)
        stored = nib.Nifti1Image(np.ascontiguousarray(voxels[::-1, ::-1]), affine)
        nib.save(stored, training / kind / f"{kind}{index + 1:04d}.nii.gz")


def _draw(spec: PhantomSpec, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    draw = lookalike.draw if spec.lookalikes else draw_abdomen
    return draw(shape=spec.shape, voxel_size=[size / spec.scale for size in spec.voxel_size], rng=rng)


def record(spec: PhantomSpec) -> dict[str, Any]:
    """What phantom.json says: the spec, and of every label in the first case its voxels and mean HU.

    A set that an older generator drew from the same spec differs in these.
    """
    image, label = _draw(spec, rng=np.random.default_rng([spec.seed, 0]))
    values = np.unique(label)
    first_case = [[int(v), int((label == v).sum()), round(float(image[label == v].mean()))] for v in values]
    content = {**asdict(spec), "first_case": first_case}
    if spec.scale == 1:
        del content["scale"]  # sets that were drawn before there was a scale stay usable
    return content


@dataclass(kw_only=True)
class Phantom(SegmentationData):
    """A phantom set below `root`, written when it is missing; cases are split in order of their number.

    The kind has a folder of its own: `organs`, or `lookalikes` where `lookalikes` is true.

    num_train: cases to train on
    num_val: cases to validate on
    num_test: cases to test on
    seed: seed of the drawing: the same seed draws the same cases
    shape: voxels of a case along each axis
    voxel_size: size of a voxel along each axis, mm
    lookalikes: organs that look the same and differ only in their side of a distant slab
    scale: times the size of the anatomy: 1 fits into 128 mm, 2.6 is an adult's, above 0
    """

    num_train: int = 24
    num_val: int = 4
    num_test: int = 6
    shape: list[int] = field(default_factory=lambda: [64, 64, 48])
    voxel_size: list[float] = field(default_factory=lambda: [2.0, 2.0, 3.0])
    seed: int = 0
    lookalikes: bool = False
    scale: float = 1.0

    @property
    def spec(self) -> PhantomSpec:
        """What phantom.json records."""
        return taken_from(self, kind=PhantomSpec)

    @property
    def label_map(self) -> LabelMap:
        names = lookalike.NAMES if self.lookalikes else tuple(organ.name for organ in ORGANS)
        return LabelMap(("background", *names))

    @property
    def num_channels(self) -> int:
        return 1

    def find_cases(self) -> list[Case]:
        if self.scale <= 0:
            raise UserError(f"data.scale={self.scale} must be above 0; 1 is the phantom as it is.")
        check_root(Path(self.root), folders=FOLDERS)
        folder = Path(self.root) / FOLDERS[self.lookalikes]
        check_may_draw(folder, may_write=self.may_write)
        write_phantoms(folder, spec=self.spec)
        return raw_cases(folder)

    def default_split(self, cases: list[Case]) -> dict[str, list[Case]]:
        return split_in_order(cases, num_train=self.num_train, num_val=self.num_val)
