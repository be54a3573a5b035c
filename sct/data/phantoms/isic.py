"""Phantom dermoscopy: made-up skin lesions in ISIC 2018's layout, for demos, tests and development.

Legend: H, W rows and columns. Lengths are in units of the shorter side of the picture, colours in 0..255.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from sct.data.cases import Case
from sct.data.formats.pictures import Pictures
from sct.data.phantoms.written import check_may_draw, taken_from, write_once
from sct.data.sets.isic import IMAGES, ISIC, MASKS
from sct.data.splits import split_in_order
from sct.errors import UserError

SKIN = np.array([[238.0, 196.0, 178.0], [196.0, 140.0, 112.0]])  # fair and dark: every picture is in between
PIGMENT = np.array([[122.0, 72.0, 52.0], [62.0, 42.0, 44.0], [150.0, 82.0, 78.0]])  # brown, black, reddish
NUM_WAVES = 7  # of the border, round the lesion


@dataclass(frozen=True)
class SkinSpec:
    """All that decides the content of a phantom set; the same spec gives the same pixels.

    longest: least and largest length of a picture's longer side, in pixels
    """

    num_train: int
    num_val: int
    num_test: int
    longest: list[int]
    seed: int

    @property
    def num_cases(self) -> int:
        return self.num_train + self.num_val + self.num_test


def draw_lesion(*, longest: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) uint8 and mask (H, W) bool, the longer side between the two numbers of `longest`."""
    width = int(rng.integers(longest[0], longest[1] + 1))
    height = round(width / rng.choice([4 / 3, 3 / 2, 1.0]))
    rows, columns = (
        ((np.arange(n) - (n - 1) / 2) / min(height, width)).reshape(shape)
        for n, shape in ((height, (-1, 1)), (width, (1, -1)))
    )
    mask = _blob(rows, columns, rng=rng)
    skin = SKIN[0] + rng.uniform(0, 1) * (SKIN[1] - SKIN[0])
    picture = skin * (1 + 0.05 * _cloud((height, width), scale=0.1, rng=rng))[..., None]
    pigment = rng.dirichlet(np.ones(len(PIGMENT))) @ PIGMENT
    strength = rng.uniform(0.3, 0.95) * (1 + 0.25 * _cloud((height, width), scale=0.04, rng=rng))
    soft = ndimage.gaussian_filter(mask.astype(float), rng.uniform(0.004, 0.02) * min(height, width))
    share = np.clip(soft * strength, 0, 1)[..., None]
    picture = picture * (1 - share) + pigment * share
    picture = _hair(picture, number=int(rng.choice([0, 0, 3, 8, 16])), rng=rng)
    distance = np.hypot(rows, columns)
    picture *= 1 - rng.uniform(0, 0.5) * np.clip(distance[..., None] / 0.7, 0, 1) ** 4
    if rng.random() < 0.25:  # the edge of the dermatoscope
        picture *= 1 / (1 + np.exp((distance[..., None] - rng.uniform(0.56, 0.66)) / 0.008))
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8), mask


def _blob(rows: np.ndarray, columns: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """An ellipse with a wavy border, somewhere near the middle: (H, W) bool."""
    radius = rng.uniform(0.1, 0.4)
    centre = rng.uniform(-0.1, 0.1, 2)
    turn, flatness = rng.uniform(0, np.pi), rng.uniform(0.65, 1.0)
    y, x = rows - centre[0], columns - centre[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), (y * np.cos(turn) - x * np.sin(turn)) / flatness
    angle = np.arctan2(across, along)
    waves = np.arange(2, 2 + NUM_WAVES)
    sizes, phases = rng.normal(0, 0.2, NUM_WAVES) / waves, rng.uniform(0, 2 * np.pi, NUM_WAVES)
    border = 1 + sum(size * np.cos(k * angle + phase) for k, size, phase in zip(waves, sizes, phases, strict=True))
    return np.hypot(along, across) < radius * border


def _cloud(shape: tuple[int, int], *, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (H, W) of mean 0 and deviation 1; scale: its size."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), scale * min(shape))
    return (noise - noise.mean()) / noise.std()


def _hair(picture: np.ndarray, *, number: int, rng: np.random.Generator) -> np.ndarray:
    """Dark curved lines across the picture (H, W, 3)."""
    height, width = picture.shape[:2]
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    steps = np.linspace(0, 1, 20)[:, None]
    for _ in range(number):
        start, bend, end = rng.uniform(-0.1, 1.1, (3, 2)) * (width, height)
        points = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * bend + steps**2 * end
        draw.line([tuple(point) for point in points.tolist()], fill=255, width=max(1, min(height, width) // 150))
    hair = ndimage.gaussian_filter(np.asarray(canvas, dtype=float) / 255, 0.5)[..., None]
    return picture * (1 - 0.75 * hair)


def record(spec: SkinSpec) -> dict[str, Any]:
    """What phantom.json says: the spec, and of the first picture its size, and pixels and colours of skin and lesion.

    A set that an older generator drew from the same spec differs in these.
    """
    picture, mask = draw_lesion(longest=spec.longest, rng=np.random.default_rng([spec.seed, 0]))
    colours = [picture[part].mean(axis=0).round().tolist() for part in (~mask, mask)]
    return {**asdict(spec), "first_case": [list(mask.shape), int(mask.sum()), colours]}


def write_lesions(folder: Path, *, spec: SkinSpec) -> None:
    """Write the set in ISIC 2018's layout, or reuse an equal one; see `write_once`."""

    def write(built: Path) -> None:
        (built / IMAGES).mkdir()
        for index in range(spec.num_cases):
            picture, mask = draw_lesion(longest=spec.longest, rng=np.random.default_rng([spec.seed, index]))
            image = built / IMAGES / f"ISIC_{index:07d}.jpg"
            Image.fromarray(picture).save(image, quality=92)
            Pictures(2).save_labels(built / MASKS / image.stem, mask.astype(np.uint8), like=image)

    write_once(folder, record=record(spec), write=write)


@dataclass(kw_only=True)
class PhantomISIC(ISIC):
    """A phantom set in `root`, written when it is missing; cases are split in order of their number.

    num_train: cases to train on
    num_val: cases to validate on
    num_test: cases to test on
    seed: seed of the drawing: the same seed draws the same cases
    longest: smallest and largest length of a picture's longer side, pixels
    """

    num_train: int = 24
    num_val: int = 6
    num_test: int = 6
    longest: list[int] = field(default_factory=lambda: [240, 400])
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.longest) != 2 or not 16 <= self.longest[0] <= self.longest[1]:
            raise UserError(f"data.longest={self.longest} must be the least and the largest number of pixels, from 16.")

    @property
    def spec(self) -> SkinSpec:
        """What phantom.json records."""
        return taken_from(self, kind=SkinSpec)

    def find_cases(self) -> list[Case]:
        check_may_draw(Path(self.root), may_write=self.may_write)
        write_lesions(Path(self.root), spec=self.spec)
        return super().find_cases()

    def default_split(self, cases: list[Case]) -> dict[str, list[Case]]:
        return split_in_order(cases, num_train=self.num_train, num_val=self.num_val)
