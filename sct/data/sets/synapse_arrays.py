"""The arrays of an npz or h5 file, checked before memory is taken: numbers alone, in this file, as many as it says."""

import math
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy

from sct.data.formats.gzipped import DENSEST
from sct.errors import UserError
from sct.runtime.extras import install_command

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# HDF5's name of gzip
_DEFLATE = "gzip"


class Arrays(Protocol):
    """The arrays of an open file. axes: what each must have · spacing: None where the file has none."""

    axes: tuple[str, ...]
    spacing: Any

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def voxels(self, name: str) -> np.ndarray: ...


class Slice:
    """An npz file."""

    axes: tuple[str, ...] = ("rows", "columns")

    def __init__(self, archive: zipfile.ZipFile, *, path: Path) -> None:
        self.archive = archive
        self.path = path
        names = archive.namelist()
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise damaged(path, twice[0], "is there twice")
        self.spacing = self._array("spacing") if "spacing" in self.names() else None

    def names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self.archive.namelist()]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._header(name)[0]

    def voxels(self, name: str) -> np.ndarray:
        return self._array(name).astype(np.float32)

    def _array(self, name: str) -> np.ndarray:
        shape, fortran, kind = self._header(name)
        with self.archive.open(f"{name}.npy") as file:
            self._skip_header(file)
            voxels = np.frombuffer(file.read(), kind)  # to the end, where the checksum is compared
        return voxels.reshape(shape, order="F" if fortran else "C")

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
        """Shape, order and type of an array, whose member has as many bytes; the whole array is not unpacked."""
        member = self.archive.getinfo(f"{name}.npy")
        with self.archive.open(member) as file:
            shape, fortran, kind = self._skip_header(file)
            begin = file.tell()
        check_numbers(self.path, name, kind)
        claimed = math.prod(shape) * kind.itemsize
        there = member.file_size - begin
        if claimed != there or min(shape, default=1) < 0 or member.file_size > DENSEST * member.compress_size + DENSEST:
            raise damaged(self.path, name, f"has shape {shape} of {kind}, {claimed} bytes, but {there} are there")
        return shape, fortran, kind

    @staticmethod
    def _skip_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"npy format {version}")
        return _HEADERS[version](file)


class Volume:
    """An h5 file."""

    axes: tuple[str, ...] = ("slices", "rows", "columns")

    def __init__(self, file: Any, *, path: Path) -> None:
        self.file = file
        self.path = path
        self.spacing = file.attrs.get("spacing")

    def names(self) -> list[str]:
        return list(self.file)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._dataset(name).shape

    def voxels(self, name: str) -> np.ndarray:
        return np.asarray(self._dataset(name), dtype=np.float32)

    def _dataset(self, name: str) -> Any:
        """A data set whose numbers are all in this file."""
        package = h5py()
        if not isinstance(self.file.get(name, getlink=True), package.HardLink):
            raise damaged(self.path, name, "is a link to another place")
        found = self.file[name]
        if not isinstance(found, package.Dataset):
            raise damaged(self.path, name, "is no array")
        check_numbers(self.path, name, found.dtype)
        if found.external or found.is_virtual:
            raise damaged(self.path, name, "lies in other files")
        claimed = math.prod(found.shape) * found.dtype.itemsize
        there = found.id.get_storage_size()
        if found.chunks is None:
            is_whole = there == claimed
        else:
            parts = math.prod(-(-size // edge) for size, edge in zip(found.shape, found.chunks, strict=True))
            packed = found.compression is not None
            is_whole = found.id.get_num_chunks() == parts and (claimed <= there if not packed else there > 0)
            is_whole = is_whole and (found.compression != _DEFLATE or claimed <= DENSEST * there)
        if not is_whole or there > self.path.stat().st_size:
            raise damaged(self.path, name, f"has shape {found.shape} of {found.dtype}, but {there} bytes are there")
        return found


def check_numbers(path: Path, name: str, kind: np.dtype) -> None:
    """UserError where an array does not hold one real number a voxel."""
    if kind.kind not in "iufb":
        raise damaged(path, name, f"holds {kind}, not one real number a voxel")


def damaged(path: Path, name: str, fault: str) -> UserError:
    kind = "npz" if path.suffix.lower() == ".npz" else "h5"
    return UserError(
        f"{path}: cannot be read as {kind} (`{name}` {fault}). It is damaged or of another format: copy or prepare it "
        "again."
    )


def h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            "Volumes of Synapse (.h5) need the package h5py, which is not installed. Install it with: "
            + install_command("synapse")
        ) from error
    return h5py
