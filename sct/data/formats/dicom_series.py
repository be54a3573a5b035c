"""DICOM series: which slices of a folder belong together, in which order, and where they lie.

Letters: K slices, H rows, W columns. Positions are in mm in DICOM's world, which runs to the left and the back (LPS).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sct.data.formats.dicom_elements import check_elements
from sct.data.formats.itk import readable, simpleitk
from sct.errors import UserError

# every DICOM file has this behind 128 bytes of anything
MAGIC = b"DICM"
IMAGE_IO = "GDCMImageIO"
# in slice distances: how far a slice may lie from its place on a regular grid
TOLERANCE = 0.1
# degrees between the direction of the slices and their normal, above which a series is said to be tilted
TILT = 0.1
_SHOWN = 5
# tags as SimpleITK names them
SERIES, DESCRIPTION, MODALITY = "0020|000e", "0008|103e", "0008|0060"
POSITION, ORIENTATION, SPACING, ROWS, COLUMNS = "0020|0032", "0020|0037", "0028|0030", "0028|0010", "0028|0011"
SAMPLES, FRAMES, THICKNESS = "0028|0002", "0028|0008", "0018|0050"
ALLOCATED, STORED, HIGH, SIGNED = "0028|0100", "0028|0101", "0028|0102", "0028|0103"
SLOPE, INTERCEPT, LIGHT = "0028|1053", "0028|1052", "0028|0004"
NAMES = {
    POSITION: "position",
    ORIENTATION: "orientation",
    SPACING: "spacing",
    ROWS: "rows",
    COLUMNS: "columns",
    SAMPLES: "samples per pixel",
    FRAMES: "number of frames",
    THICKNESS: "slice thickness",
    SLOPE: "rescale slope",
    INTERCEPT: "rescale intercept",
    ALLOCATED: "bits allocated",
    STORED: "bits stored",
    HIGH: "high bit",
    SIGNED: "pixel representation",
    LIGHT: "photometric interpretation",
}
REQUIRED = (SERIES, ROWS, COLUMNS, SAMPLES, ALLOCATED, STORED, HIGH, SIGNED)
# what one byte of packed pixels may stand for at most
_DENSEST = 1 << 14
# the tag that says in the head of a file what it holds, before the length of its value
CLASS_TAG = b"\x02\x00\x02\x00UI"
# DICOM objects that are no image, by the beginnings of their UIDs: directories, waveforms, presentations,
# segmentations and registrations, reports, documents, radiotherapy
NO_IMAGE = ("1.2.840.10008.1.3.10", *(f"1.2.840.10008.5.1.4.1.1.{n}." for n in (9, 11, 66, 88, 104, 481)))


@dataclass(frozen=True)
class Slice:
    """One file of a series and its tags."""

    path: Path
    tags: Mapping[str, str]

    def numbers(self, tag: str, *, count: int) -> np.ndarray:
        """The `count` finite numbers of a tag; UserError that names the file where it has others."""
        try:
            found = np.array([float(number) for number in self.tags[tag].split("\\")])
        except ValueError:
            found = np.array([np.nan])
        if len(found) != count or not np.isfinite(found).all():
            shown = self.tags[tag].encode("ascii", "replace").decode()
            raise self.wrong(tag, shown, f"{count} finite number(s)")
        return found

    def whole(self, tag: str, *, default: int | None = None) -> int:
        """The whole number of a tag."""
        text = self.tags.get(tag, "")
        if not text and default is not None:
            return default
        if not text.isdecimal():
            raise self.wrong(tag, text or "missing", "a whole number")
        return int(text)

    def wrong(self, tag: str, value: str, expected: str) -> UserError:
        return UserError(
            f"{self.path}: its tag ({tag.replace('|', ',')}) {NAMES.get(tag, '')} is {value}; expected {expected}. It "
            "is damaged: copy it again, or take the series out."
        )

    def check(self, *, pixels: int | None) -> None:
        """UserError for pixels that are described wrongly, or that are not `pixels` bytes (None: packed)."""
        edges, bits = [self.whole(tag) for tag in (COLUMNS, ROWS)], self.whole(ALLOCATED)
        if min(edges) < 1 or bits not in (1, 8, 12, 16, 32, 64):
            raise self.wrong(ROWS, f"{edges[1]} x {edges[0]} pixels of {bits} bits", "pixels of 8, 16 or 32 bits")
        if not 1 <= self.whole(STORED) <= bits or self.whole(HIGH) != self.whole(STORED) - 1:
            raise self.wrong(STORED, f"{self.whole(STORED)}, the highest of them {self.whole(HIGH)}", f"at most {bits}")
        if self.whole(SIGNED) > 1:
            raise self.wrong(SIGNED, self.tags[SIGNED], "0 or 1")
        # GDCM gives pixels of another kind other values, without a word
        if self.whole(SAMPLES) == 1 and (light := self.tags.get(LIGHT)) and light not in ("MONOCHROME1", "MONOCHROME2"):
            raise self.wrong(LIGHT, light.encode("ascii", "replace").decode(), "MONOCHROME1 or MONOCHROME2")
        if (SLOPE in self.tags) != (INTERCEPT in self.tags):
            raise self.wrong(SLOPE if INTERCEPT in self.tags else INTERCEPT, "missing", "both, or none")
        for tag in (SLOPE, INTERCEPT):
            if tag in self.tags and self.numbers(tag, count=1)[0] == 0 and tag == SLOPE:
                raise self.wrong(SLOPE, "0", "another number")
        if self.whole(SAMPLES) != 1 or self.whole(FRAMES, default=1) > 1:
            return  # refused where series are arranged
        claimed = -(-edges[0] * edges[1] * bits // 8)
        there = pixels if pixels is not None else _DENSEST * self.path.stat().st_size
        # an odd number of bytes has one more behind it
        if claimed > there or (pixels is not None and there > claimed + 1):
            shown = f"{edges[1]} x {edges[0]} pixels of {bits} bits, {claimed} bytes"
            raise self.wrong(ROWS, shown, f"the size of its pixels, {there} bytes")

    @property
    def position(self) -> np.ndarray:
        """Centre of the first voxel (3,)."""
        return self.numbers(POSITION, count=3)

    @property
    def axes(self) -> np.ndarray:
        """Directions in which the columns and the rows follow each other (2, 3)."""
        found = self.numbers(ORIENTATION, count=6).reshape(2, 3)
        if not np.allclose(found @ found.T, np.eye(2), atol=1e-2):
            raise self.wrong(ORIENTATION, self.tags[ORIENTATION], "two directions of length 1 at right angles")
        return found


@dataclass(frozen=True)
class Series:
    """Slices in their order in space; shape (W, H, K) and affine (4, 4) from voxels to LPS.

    tilt: degrees between the direction of the slices and their normal
    """

    uid: str
    slices: tuple[Slice, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    tilt: float

    @property
    def paths(self) -> list[Path]:
        return [one.path for one in self.slices]

    @property
    def distance(self) -> float:
        """From one slice to the next along their normal, in mm."""
        return float(np.linalg.norm(self.affine[:3, 2]) * np.cos(np.radians(self.tilt)))


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == MAGIC


def is_called_as_slice(name: str) -> bool:
    """Whether a file is called as slices are: IM0001, 1.2.840.113, 7.dcm. Without it, its volume would be smaller."""
    return re.search(r"\.(dcm|dicom|ima|\d+)$|^[^.]*\d[^.]*$", name, re.IGNORECASE) is not None


def is_slice(path: Path) -> bool:
    """Whether a file is a DICOM image, by its first bytes."""
    return is_dicom(path) and not class_of(path).startswith(NO_IMAGE)


def class_of(path: Path) -> str:
    """UID of what a DICOM file holds, from its head."""
    with path.open("rb") as file:
        head = file.read(1024)
    _, found, rest = head.partition(CLASS_TAG)
    return rest[2 : 2 + int.from_bytes(rest[:2], "little")].decode("ascii", "replace").strip("\0 ") if found else ""


def read_slices(paths: Iterable[Path]) -> list[Slice]:
    """The tags of all images among some files; other files, and DICOM objects such as reports, are left out.

    UserError for an image that can't be read: left out, its volume would be a smaller one.
    """
    found = []
    for path in paths:
        if not is_dicom(path):
            if is_called_as_slice(path.name):
                raise UserError(f"{path}: is no DICOM file, or an empty one. Copy it again, or take it out.")
            continue
        if class_of(path).startswith(NO_IMAGE):
            continue
        pixels = check_elements(path)
        reader = simpleitk(path).ImageFileReader()
        reader.SetImageIO(IMAGE_IO)
        reader.SetFileName(str(path))
        with readable(path, kind="DICOM"):
            reader.ReadImageInformation()
        tags = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
        if missing := [tag for tag in REQUIRED if tag not in tags]:
            raise UserError(f"{path}: lacks the tag(s) {', '.join(missing)}. Take the file out, or copy it again.")
        found.append(Slice(path, tags))
        found[-1].check(pixels=pixels)
    return found


def choose_series(slices: Sequence[Slice], *, uid: str | None, place: Path) -> tuple[str, list[Slice]]:
    """The slices of the only series of `place`, or of the series `uid`; UserError that lists what there is."""
    by_uid: dict[str, list[Slice]] = {}
    for one in slices:
        by_uid.setdefault(one.tags[SERIES], []).append(one)
    if not by_uid:
        raise UserError(f"{place}: holds no DICOM image. Give the folder, or the zip file, of a series.")
    listed = "\n  ".join(describe_series(key, own) for key, own in by_uid.items())
    if uid is not None and uid not in by_uid:
        raise UserError(f"{place}: has no series {uid} (series=UID). It has\n  {listed}")
    if uid is None and len(by_uid) > 1:
        raise UserError(
            f"{place}: holds {len(by_uid)} DICOM series:\n  {listed}\nChoose one with series=UID in sct.predict, or "
            "give a folder that holds one series alone."
        )
    chosen = uid or next(iter(by_uid))
    return chosen, by_uid[chosen]


def describe_series(uid: str, slices: Sequence[Slice]) -> str:
    """A line for a list: UID, description, number of slices, spacing."""
    tags = slices[0].tags
    size = " x ".join(tags.get(SPACING, "?").split("\\"))
    name = " ".join(word for word in (tags.get(MODALITY), tags.get(DESCRIPTION)) if word) or "no description"
    return f"{uid}: {name}, {len(slices)} slice(s) of {tags[COLUMNS]} x {tags[ROWS]} voxels, {size} mm{step_of(slices)}"


def step_of(slices: Sequence[Slice]) -> str:
    """The usual distance of slices for a list; nothing where their places are not known."""
    if len(slices) < 2 or not all({POSITION, ORIENTATION} <= set(one.tags) for one in slices):
        return ""
    places = np.sort([one.position @ np.cross(*one.axes) for one in slices])
    return f", {np.median(np.diff(places)):.4g} mm apart"


def arrange(slices: Sequence[Slice], *, uid: str, place: Path) -> Series:
    """Slices in their order in space, and their grid.

    UserError, with the numbers, where they differ in size, spacing or direction, lie at unequal distances or twice at
    one place, or hold several frames or colours.
    """
    _check_alike(slices, uid=uid, place=place)
    axes, spacing = slices[0].axes, slices[0].numbers(SPACING, count=2)
    if (spacing <= 0).any():
        raise slices[0].wrong(SPACING, slices[0].tags[SPACING], "two positive numbers of mm")
    normal = np.cross(*axes)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.array([one.position for one in ordered])
    step = _step(ordered, positions=positions, normal=normal, uid=uid, place=place)
    affine = np.eye(4)
    # rows and columns of a slice are the second and the first axis; DICOM gives the distance of rows first
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = axes[0] * spacing[1], axes[1] * spacing[0], step
    affine[:3, 3] = positions[0]
    tags = slices[0].tags
    cosine = np.clip(step @ normal / np.linalg.norm(step), -1, 1)
    shape = (int(tags[COLUMNS]), int(tags[ROWS]), len(ordered))
    return Series(uid, tuple(ordered), shape, affine, float(np.degrees(np.arccos(cosine))))


def _check_alike(slices: Sequence[Slice], *, uid: str, place: Path) -> None:
    for one in slices:
        if one.whole(FRAMES, default=1) > 1:
            raise UserError(
                f"{one.path}: holds {one.tags[FRAMES]} frames (enhanced DICOM), which is not read. Convert it to "
                "NIfTI, for example with dcm2niix."
            )
        if one.tags.get(SAMPLES, "1") != "1":
            raise UserError(f"{one.path}: holds colours, not one number a voxel. Leave the series out.")
        if missing := [tag for tag in (POSITION, ORIENTATION, SPACING) if tag not in one.tags]:
            raise UserError(
                f"{one.path}: does not say its {' and '.join(NAMES[tag] for tag in missing)}, so it is no slice of a "
                f"volume (series {uid}). Leave the series out."
            )
    kinds = Counter(f"{one.tags[COLUMNS]} x {one.tags[ROWS]} voxels of {one.tags[SPACING]} mm" for one in slices)
    if len(kinds) > 1:
        raise _mixed("sizes", kinds, uid=uid, place=place)
    turned = Counter("\\".join(f"{number:.2f}" for number in one.axes.ravel() + 0.0) for one in slices)
    if max(np.abs(one.axes - slices[0].axes).max() for one in slices) > 1e-2:
        raise _mixed("directions", turned, uid=uid, place=place)


def _mixed(what: str, kinds: Counter[str], *, uid: str, place: Path) -> UserError:
    listed = ", ".join(f"{number} of {kind}" for kind, number in kinds.most_common(_SHOWN))
    return UserError(
        f"{place}: the slices of series {uid} have {len(kinds)} {what}: {listed}. Put the slices of one kind into a "
        "folder of their own."
    )


def _step(ordered: Sequence[Slice], *, positions: np.ndarray, normal: np.ndarray, uid: str, place: Path) -> np.ndarray:
    """The way (3,) from one slice to the next; UserError where the ways differ."""
    count = len(ordered)
    if count == 1:
        return normal * (ordered[0].numbers(THICKNESS, count=1)[0] if ordered[0].tags.get(THICKNESS) else 1.0)
    along = positions @ normal
    distances = np.diff(along)
    usual = float(np.median(distances))
    twice = int((distances < TOLERANCE * max(usual, 1e-3)).sum())
    if twice:
        raise UserError(
            f"{place}: {count} slices of series {uid} lie at {count - twice} places: it holds several volumes, such as "
            "times or echoes, or slices twice. Put the slices of one volume into a folder of their own."
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    away = np.linalg.norm(positions - (positions[0] + np.arange(count)[:, None] * step), axis=1)
    if away.max() > TOLERANCE * usual:
        odd = np.flatnonzero(np.abs(distances - usual) > TOLERANCE * usual)
        odd = odd if len(odd) else np.array([int(away.argmax()) - 1])
        shown = ", ".join(
            f"{distances[k]:.4g} mm between {ordered[k].path.name} and {ordered[k + 1].path.name}" for k in odd[:_SHOWN]
        )
        raise UserError(
            f"{place}: the slices of series {uid} lie {usual:.4g} mm apart, but {shown}"
            f"{f' and {len(odd) - _SHOWN} more' if len(odd) > _SHOWN else ''}. Slices are missing, or the distance "
            "changes: restore the missing files, or resample the series to one distance."
        )
    return step
