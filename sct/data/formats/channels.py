"""Images of several files, one for each channel, as nnU-Net names them: CASE_0000.nii.gz, CASE_0001.nii.gz, ...

Letters: C channels, S spatial size of a file (2 or 3 numbers).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sct.data.cases import TOLERANCE, Grid
from sct.data.formats.base import FileFormat
from sct.data.formats.decoding import decode
from sct.data.formats.pictures import Pictures
from sct.data.formats.volumes import Volumes
from sct.errors import UserError

# of volumes that are one file a channel
ENDINGS = tuple(ending for ending in Volumes.suffixes if ending != ".zip")


class Listed:
    """Images whose files do not follow the rule of names: all files of an image by its first.

    Slots: where the files are is no setting of the format, so that `describe` does not show it.
    """

    __slots__ = ("files",)

    def __init__(self, files: Mapping[Path, tuple[Path, ...]]) -> None:
        self.files = dict(files)


@dataclass(frozen=True)
class Channels(FileFormat):
    """An image is one file for each channel, CASE_XXXX and an ending with XXXX from 0000; a label map is one file.

    one: how a single file is read and written · ending: of every file · num_channels: of an image
    listed: images whose files are named in another way
    A single file may hold several channels, as a colour picture does. A file without a number is a whole image.
    """

    one: FileFormat
    ending: str
    num_channels: int
    listed: Listed = field(default_factory=lambda: Listed({}), compare=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.one.name

    @property
    def suffixes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.ending,)

    @property
    def label_suffix(self) -> str:  # type: ignore[override]
        return self.ending

    @property
    def of_one_file(self) -> FileFormat:
        return self.one

    def image_of(self, path: Path) -> Path:
        return self.files(path)[0]

    def remark(self, image: Path) -> str | None:
        return self.one.remark(self.files(image)[0])

    def files(self, image: Path) -> list[Path]:
        if image in self.listed.files:
            return list(self.listed.files[image])
        case, number = self._parts(image)
        if number is None:
            return [image]
        # one more than expected, so that the check finds it
        beside = [self._channel(image, case=case, number=n) for n in range(self.num_channels + 1)]
        found = [path for path in beside if path == image or path.exists()]
        return found if image in beside else [*found, image]

    def stem(self, path: Path) -> str:
        return self._parts(path)[0]

    def read_grid(self, path: Path) -> Grid:
        return self._joined({file: self.one.read_grid(file) for file in self.files(path)})

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self._read(path, stored=False)

    def read_stored(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self._read(path, stored=True)

    def read_label(self, path: Path) -> tuple[np.ndarray, Grid]:
        return self.one.read_label(path)

    def label_endings(self, *, like: Path) -> tuple[str, ...]:
        own = self.one.label_endings(like=self.files(like)[0])
        return own if own[0] == self.ending else (self.ending, *(ending for ending in own if ending != self.ending))

    def write_labels(self, path: Path, labels: np.ndarray, *, like: Path) -> None:
        self.one.write_labels(path, labels, like=self.files(like)[0])

    def _read(self, path: Path, *, stored: bool) -> tuple[np.ndarray, Grid]:
        read = self.one.read_stored if stored else self.one.read_image
        images = {file: read(file) for file in self.files(path)}
        grid = self._joined({file: own for file, (_, own) in images.items()})
        voxels = [channel for own, _ in images.values() for channel in own]
        if len(images) == 1:
            return next(iter(images.values()))[0], grid
        # the memory order of one file with all channels, so that whatever follows computes the same
        return np.stack([channel.T for channel in voxels]).transpose(0, *range(voxels[0].ndim, 0, -1)), grid

    def _joined(self, grids: Mapping[Path, Grid]) -> Grid:
        """The grid of an image from those of its files; UserError that names two files which do not fit together."""
        (first, grid), *others = grids.items()
        case, number = self._parts(first)
        # one colour picture holds all channels
        if number is not None and first not in self.listed.files and all(g.num_channels == 1 for g in grids.values()):
            wanted = [self._channel(first, case=case, number=n) for n in range(self.num_channels)]
            if missing := [path for path in wanted if path not in grids]:
                raise UserError(
                    f"{first}: a channel of this image is missing; expected {missing[0]}. Restore it, or take the case "
                    "out."
                )
        for file, other in others:
            if other.shape != grid.shape:
                raise UserError(
                    f"{file}: has shape {other.shape}, but {first.name} of the same image has {grid.shape}. Resample "
                    "one to the other."
                )
            distance = grid.distance(other)
            if not distance <= TOLERANCE * grid.spacing.min():
                raise UserError(
                    f"{file}: lies {distance:.2f} {grid.unit} away from {first.name} of the same image: the affines "
                    "differ. Copy the affine if the voxels belong together, otherwise resample one to the other."
                )
        num_channels = sum(own.num_channels for own in grids.values())
        return Grid(grid.shape, num_channels, grid.affine, unit=grid.unit)

    def _parts(self, path: Path) -> tuple[str, str | None]:
        """Name of the case, and the digits of the channel where the name has them."""
        stem = super().stem(path)
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        return (stem, None) if match is None else (match[1], match[2])

    def _channel(self, path: Path, *, case: str, number: int) -> Path:
        return path.with_name(f"{case}_{number:04d}{self.ending}")


@dataclass(frozen=True)
class IndexedPictures(Pictures):
    """Pictures as nnU-Net has them: grey ones have one channel, and masks hold the class indices as they are."""

    label_suffix = ".png"

    def read_grid(self, path: Path) -> Grid:
        grid = super().read_grid(path)
        return replace(grid, num_channels=_stored_channels(path))

    def read_image(self, path: Path) -> tuple[np.ndarray, Grid]:
        pixels, grid = super().read_image(path)
        stored = _stored_channels(path)
        return pixels[:stored], replace(grid, num_channels=stored)


def _stored_channels(path: Path) -> int:
    return 1 if decode(path, pixels=False).mode == "L" else 3


def one_file(ending: str, *, spatial_dims: int, setting: str) -> FileFormat:
    """The format of single files by their ending; `setting` is what names the ending, for the message."""
    if ending in ENDINGS:
        return Volumes(spatial_dims)
    if ending == ".png" and spatial_dims == 2:
        return IndexedPictures(num_classes=256)
    if ending == ".png":
        raise UserError(f"{setting} is {ending}, pictures of 2 axes: give data.roi_size 2 numbers, as [256, 256].")
    raise UserError(f"{setting} is {ending}, which is not read; known are {', '.join(ENDINGS)} and .png.")
