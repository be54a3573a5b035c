"""The header of a NIfTI file, with every field checked that decides how its voxels are read.

nibabel repairs or passes over many faults of a header. Here each is one error that names the field.
"""

import itertools
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from sct.data.formats.gzipped import GzipFile, check_size, check_unpacked_size
from sct.errors import UserError

Header = nib.Nifti1Header
# by size in bytes: class, and the magic of a file that holds header and voxels
KINDS: dict[int, tuple[type[Header], bytes]] = {348: (nib.Nifti1Header, b"n+1"), 540: (nib.Nifti2Header, b"n+2")}
# what follows the magic of NIfTI-2, which a copy as text would change; some programs leave it out
LINE_ENDS = (b"\r\n\x1a\n", b"\0\0\0\0")
# mm in a unit of length, by its code; a header without one means mm
UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
# of sform_code and qform_code
LAST_CODE = 5


def read_header(path: Path) -> Header:
    """The header of a NIfTI file, whose size is the one that the header claims.

    UserError for a field that makes no sense, and for fewer or more voxels than it says; errors of gzip pass through.
    """
    with GzipFile(path) if is_packed(path) else path.open("rb") as file:
        block = file.read(max(KINDS))
    header = parsed(block, path=path)
    check_fields(header, path=path)
    offset, shape, kind = header.get_data_offset(), header.get_data_shape(), header.get_data_dtype()
    claimed = offset + math.prod(shape) * kind.itemsize
    what = (
        f"dim {' x '.join(map(str, shape))} and datatype {int(header['datatype'])} ({kind}) behind vox_offset {offset}"
    )
    if is_packed(path):
        check_unpacked_size(path, claimed=claimed, what=what)
    else:
        check_size(path, size=path.stat().st_size, claimed=claimed, what=what)
    return header


def is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def parsed(block: bytes, *, path: Path) -> Header:
    """The header that a file begins with, in its byte order; UserError where it begins with none."""
    ends = {"<": int.from_bytes(block[:4], "little"), ">": int.from_bytes(block[:4], "big")}
    end, size = next(((end, size) for end, size in ends.items() if size in KINDS), ("<", 0))
    if not size or len(block) < size:
        state = f"sizeof_hdr is {ends['<']}, not 348 or 540" if len(block) >= min(KINDS) else f"{len(block)} bytes"
        raise UserError(
            f"{path}: cannot be read as NIfTI ({state}). It is empty, truncated, damaged or of another format: copy or "
            "download it again."
        )
    header = KINDS[size][0](block[:size], endianness=end, check=False)
    if bytes(header["magic"]).rstrip(b"\0") != KINDS[size][1]:
        raise wrong(path, "magic", bytes(header["magic"]), f"{KINDS[size][1]!r}, of one file with header and voxels")
    if isinstance(header, nib.Nifti2Header) and header["eol_check"].tobytes() not in LINE_ENDS:
        raise wrong(path, "magic", header["eol_check"].tobytes(), f"{LINE_ENDS[0]!r} behind n+2")
    return header


def check_fields(header: Header, *, path: Path) -> None:
    """UserError for the first field that makes no sense."""
    number, *sizes = (int(size) for size in header["dim"])
    if not 1 <= number <= 7:
        raise wrong(path, "dim[0]", number, "1 to 7, the number of axes")
    if min(sizes[:number]) < 1:
        shape = tuple(sizes[:number])
        raise UserError(f"{path}: has shape {shape} (dim), so no voxel in it. Convert the image again.")
    code, bits = int(header["datatype"]), int(header["bitpix"])
    try:
        kind = header.get_data_dtype()
    except KeyError:
        raise wrong(path, "datatype", code, "a number type that NIfTI knows") from None
    if bits != 8 * kind.itemsize or bits == 0:
        raise wrong(path, "bitpix", bits, f"{8 * kind.itemsize}, as datatype {code} ({kind}) has")
    offset, first = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if not (math.isfinite(offset) and offset >= first and offset == int(offset)):
        raise wrong(path, "vox_offset", offset, f"a whole number from {first} on")
    _check_scaling(float(header["scl_slope"]), float(header["scl_inter"]), path=path)
    _check_places(header, path=path)


def _check_scaling(slope: float, inter: float, *, path: Path) -> None:
    """A slope of 0 or nan, which nibabel and SPM write, means none; it then has no intercept to lose."""
    if math.isinf(slope) or (math.isnan(slope) and not (math.isnan(inter) or inter == 0)):
        raise wrong(path, "scl_slope", slope, f"a finite number (scl_inter is {inter})")
    if slope != 0 and not math.isnan(slope) and not math.isfinite(inter):
        raise wrong(path, "scl_inter", inter, f"a finite number (scl_slope is {slope})")


def _check_places(header: Header, *, path: Path) -> None:
    unit = int(header["xyzt_units"]) % 8  # the other bits are the unit of time
    if unit not in UNITS:
        raise UserError(f"{path}: names no unit of length that NIfTI knows (xyzt_units={unit}). Correct its header.")
    for name in ("sform_code", "qform_code"):
        if not 0 <= header[name] <= LAST_CODE:
            raise wrong(path, name, int(header[name]), f"0 to {LAST_CODE}")
    if header["sform_code"] > 0:
        return
    sizes = header["pixdim"][1:4].astype(np.float64)
    if header["qform_code"] == 0:
        sizes = sizes[: int(header["dim"][0])]
    elif header["pixdim"][0] not in (-1, 0, 1):
        raise wrong(path, "pixdim[0]", float(header["pixdim"][0]), "-1, 0 or 1, where the qform counts")
    else:
        _check_rotation(header, path=path)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise wrong(path, "pixdim", sizes.tolist(), "a positive spacing along every axis")


def _check_rotation(header: Header, *, path: Path) -> None:
    values = [float(header[f"quatern_{letter}"]) for letter in "bcd"]
    try:
        found = header.get_qform_quaternion()
    except ValueError:
        found = [math.nan]
    if not np.isfinite(found).all():
        raise wrong(path, "quatern_b, quatern_c, quatern_d", values, "a rotation, of length 1 at most")


def unit_in_mm(header: Header) -> float:
    """The unit of length of a checked header in mm."""
    return UNITS[int(header["xyzt_units"]) % 8]


def source_of_affine(header: Header) -> str:
    """The fields that the affine of a header comes from."""
    if header["sform_code"] > 0:
        return "sform: srow_x, srow_y, srow_z"
    return "qform: pixdim, quatern, qoffset" if header["qform_code"] > 0 else "pixdim"


def distance_of_forms(header: Header) -> float:
    """How far the sform and the qform of a checked header put a corner of the image apart, in voxels.

    0 where the header has one of them alone, or a qform that is no form: the sform counts then as it does always.
    """
    if header["sform_code"] == 0 or header["qform_code"] == 0:
        return 0.0
    shape = (*header.get_data_shape(), 1, 1)[:3]
    corners = np.array([*itertools.product(*((0, size - 1) for size in shape))], dtype=np.float64)
    try:
        with np.errstate(all="ignore"):
            sform, qform = (header.get_sform().astype(np.float64), header.get_qform().astype(np.float64))
            apart = np.linalg.norm(corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3], axis=1).max()
            found = apart / np.linalg.norm(sform[:3, :3], axis=0).min()
    except (ValueError, HeaderDataError):
        return 0.0
    return float(found) if math.isfinite(found) else 0.0


def wrong(path: Path, field: str, value: Any, expected: str) -> UserError:
    return UserError(
        f"{path}: its header has {field} {value}; expected {expected}. It is damaged or no NIfTI file: copy or "
        "download it again, or convert it anew."
    )
