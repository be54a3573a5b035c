"""Voxels that lie in a file as its text header says: NRRD and MHA. Every claim is checked before memory is taken.

Letters: S sizes of the stored axes, the first of which runs fastest.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from sct.data.formats.gzipped import DENSEST, GzipFile, decompressor
from sct.errors import UserError

_CHUNK = 1 << 20
# of a text header: far above any honest one
LONGEST = 1 << 16

Wrong = Callable[[str, object, str], UserError]


@dataclass(frozen=True)
class Stored:
    """What a header says of its voxels.

    file, offset: where they begin · packing: how they are packed · sizes: S · components: the axis of S that counts the
    numbers of a voxel, None where every voxel has one · affine: (4, 4) to LPS in mm
    """

    file: Path
    offset: int
    packing: Literal["raw", "gzip", "zlib"]
    kind: np.dtype
    sizes: tuple[int, ...]
    components: int | None
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, with the components last."""
        if self.components is None:
            return self.sizes
        return (*self.sizes[: self.components], *self.sizes[self.components + 1 :], self.sizes[self.components])

    @property
    def claimed(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.sizes) * self.kind.itemsize

    def check_size(self, header: Path, *, field: str) -> None:
        """UserError where the file can't have as many bytes as its header claims, or has more.

        field: where the header says the sizes. What is packed is compared exactly where it is read.
        """
        there = self.file.stat().st_size - self.offset
        most = there if self.packing == "raw" else DENSEST * there
        if self.claimed > most or (self.packing == "raw" and there != self.claimed):
            raise self._other_size(header, field=field, found=f"{there} bytes ({self.packing})")

    def read(self, header: Path, *, field: str) -> np.ndarray:
        """The voxels (*S) as they are stored; UserError where there are more or fewer, or a checksum is wrong."""
        self.check_size(header, field=field)
        voxels = np.empty(math.prod(self.sizes), dtype=self.kind)
        buffer = memoryview(voxels.view(np.uint8))  # type: ignore[arg-type]
        with self.file.open("rb") as file:
            file.seek(self.offset)
            if self.packing == "zlib":
                found, more = _unpack_zlib(file, buffer)
            else:
                stream: Any = GzipFile(fileobj=file, mode="rb") if self.packing == "gzip" else file
                found = _fill(stream, buffer)
                more = found == len(buffer) and bool(stream.read(1))  # the end, where the checksum is compared
        if found < len(buffer) or more:
            raise self._other_size(header, field=field, found="more bytes" if more else f"{found} bytes")
        return voxels.reshape(self.sizes, order="F")

    def _other_size(self, header: Path, *, field: str, found: str) -> UserError:
        where = "behind the header" if self.file == header else f"in {self.file.name}"
        return UserError(
            f"{header}: {field} {' x '.join(map(str, self.sizes))} of {self.kind} make {self.claimed} bytes, but "
            f"{where} are {found}. It is truncated or damaged: copy or download it again, or convert it anew."
        )


def _fill(stream: Any, buffer: memoryview) -> int:
    """Reads until the buffer is full or the stream ends; returns how many bytes."""
    found = 0
    while found < len(buffer) and (got := stream.readinto(buffer[found : found + _CHUNK])):
        found += got
    return found


def _unpack_zlib(file: IO[bytes], buffer: memoryview) -> tuple[int, bool]:
    """Unpacks one zlib stream; returns how many bytes, and whether there are more, packed or behind the stream."""
    unpacker, found = decompressor(zlib.MAX_WBITS), 0
    data = file.read(_CHUNK)
    while not unpacker.eof:
        part = unpacker.decompress(data, _CHUNK)
        if found + len(part) > len(buffer):
            return found, True
        buffer[found : found + len(part)] = part
        found += len(part)
        data = unpacker.unconsumed_tail
        # a full part may have more behind it without more data
        if not data and len(part) < _CHUNK and not unpacker.eof and not (data := file.read(_CHUNK)):
            raise EOFError("the packed voxels end early")
    return found, bool(unpacker.unused_data or file.read(1))


def beside(header: Path, name: str, *, wrong: Wrong, field: str) -> Path:
    """The file of voxels that a header names; UserError unless it lies beside the header."""
    file = header.parent / name
    if not name or Path(name).name != name or "\\" in name:
        raise wrong(field, name, "the name of one file in the same folder")
    if not file.is_file():
        raise UserError(f"{header}: names the file {name} ({field}), which is not in {header.parent}. Restore it.")
    return file


def whole_numbers(text: str) -> tuple[int, ...]:
    """Sizes from text; ValueError where one is not a positive number."""
    found = tuple(int(part) for part in text.split())
    if not found or min(found) < 1 or max(found) > 2**40:
        raise ValueError(text)
    return found


def real_numbers(text: str, *, count: int) -> list[float]:
    """Numbers from text; ValueError where there are not `count` finite ones."""
    found = [float(part) for part in text.split()]
    if len(found) != count or not np.isfinite(found).all():
        raise ValueError(text)
    return found


def required(fields: Mapping[str, str], names: Sequence[str], *, path: Path, kind: str) -> None:
    if missing := [name for name in names if name not in fields]:
        raise UserError(
            f"{path}: cannot be read as {kind} (its header lacks {', '.join(missing)}). It is empty, truncated, "
            "damaged or of another format: copy or download it again."
        )


def placed(affine: Sequence[Sequence[float]], origin: Sequence[float]) -> np.ndarray:
    """The affine (4, 4) of up to 3 axes, given as vectors of up to 3 numbers, and an origin."""
    found = np.eye(4)
    for axis, vector in enumerate(affine[:3]):
        found[:3, axis] = 0
        found[: min(3, len(vector)), axis] = vector[:3]
    found[: min(3, len(origin)), 3] = origin[:3]
    return found
