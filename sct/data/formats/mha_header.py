"""The header of an MHA or MHD file (MetaImage), field by field: https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from pathlib import Path
from typing import Literal

import numpy as np

from sct.data.formats.stored import LONGEST, Stored, beside, placed, real_numbers, required, whole_numbers
from sct.errors import UserError

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# names of one field
OFFSET, MATRIX, ORDER = (
    ("Offset", "Position", "Origin"),
    ("TransformMatrix", "Rotation", "Orientation"),
    ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
)
LAST = "ElementDataFile"
TRUE, FALSE = ("True", "true", "TRUE"), ("False", "false", "FALSE")


def read_mha(path: Path) -> Stored:
    """What the header says; UserError that names the field for what makes no sense or is not read."""
    fields, end = _fields(path)
    required(fields, ("NDims", "DimSize", "ElementType", "ElementSpacing"), path=path, kind="MHA")
    if fields.get("ObjectType", "Image") != "Image":
        raise wrong(path, "ObjectType", fields["ObjectType"], "Image")
    if not _flag(path, fields, "BinaryData", default=True):
        raise wrong(path, "BinaryData", "False", "True: save it so")
    try:
        sizes = whole_numbers(fields["DimSize"])
    except ValueError:
        raise wrong(path, "DimSize", fields["DimSize"], "a positive number of voxels along every axis") from None
    if fields["NDims"] != str(len(sizes)):
        raise wrong(path, "NDims", fields["NDims"], f"{len(sizes)}, as DimSize has")
    if fields.get("HeaderSize", "0") != "0":
        raise wrong(
            path, "HeaderSize", fields["HeaderSize"], "0: save it with the voxels at the beginning of their file"
        )
    try:
        (channels,) = whole_numbers(fields.get("ElementNumberOfChannels", "1"))
    except ValueError:
        raise wrong(path, "ElementNumberOfChannels", fields["ElementNumberOfChannels"], "a positive number") from None
    file, offset = path, end
    if fields[LAST] != "LOCAL":
        file, offset = beside(path, fields[LAST], wrong=lambda *told: wrong(path, *told), field=LAST), 0
    packing: Literal["raw", "zlib"] = "zlib" if _flag(path, fields, "CompressedData", default=False) else "raw"
    there = file.stat().st_size - offset
    if packing == "zlib" and fields.get("CompressedDataSize", str(there)) not in ("0", str(there)):
        raise wrong(path, "CompressedDataSize", fields["CompressedDataSize"], f"{there}, the bytes that there are")
    return Stored(
        file=file,
        offset=offset,
        packing=packing,
        kind=_kind(path, fields),
        sizes=(channels, *sizes) if channels > 1 else sizes,
        components=0 if channels > 1 else None,
        affine=_affine(path, fields, dims=len(sizes)),
    )


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields by name, and where the voxels begin."""
    with path.open("rb") as file:
        block = file.read(LONGEST)
    fields: dict[str, str] = {}
    end = 0
    while LAST not in fields:
        line, gap, _ = block[end:].partition(b"\n")
        name, equals, text = line.decode("utf-8", "replace").partition("=")
        if not gap or not equals:
            raise UserError(
                f"{path}: cannot be read as MHA (line {len(fields) + 1} of its header is no field, as 'NDims = 3'). It "
                "is empty, truncated, damaged or of another format: copy or download it again."
            )
        if "\ufffd" in name or name.strip() in fields:
            raise wrong(path, name.strip() or "line", "two lines or no text", "one line")
        fields[name.strip()] = text.strip()
        end += len(line) + 1
    return fields, end


def _kind(path: Path, fields: dict[str, str]) -> np.dtype:
    if fields["ElementType"].endswith("_ARRAY"):
        fields = {**fields, "ElementType": fields["ElementType"].removesuffix("_ARRAY")}
    if fields["ElementType"] not in TYPES:
        raise wrong(path, "ElementType", fields["ElementType"], f"one of {', '.join(TYPES)}")
    orders = {_flag(path, fields, name, default=False) for name in ORDER if name in fields}
    if len(orders) > 1:
        raise wrong(path, ORDER[0], fields[ORDER[0]], f"the same as {ORDER[1]}, {fields[ORDER[1]]}")
    return np.dtype(TYPES[fields["ElementType"]]).newbyteorder(">" if orders == {True} else "<")


def _flag(path: Path, fields: dict[str, str], name: str, *, default: bool) -> bool:
    text = fields.get(name, str(default))
    if text not in (*TRUE, *FALSE):
        raise wrong(path, name, text, "True or False")
    return text in TRUE


def _affine(path: Path, fields: dict[str, str], *, dims: int) -> np.ndarray:
    """(4, 4) to LPS."""
    spacing = np.array(_reals(path, fields, ("ElementSpacing",), count=dims, default=[]))
    if (spacing <= 0).any():
        raise wrong(path, "ElementSpacing", fields["ElementSpacing"], "a positive spacing along every axis")
    matrix = np.array(_reals(path, fields, MATRIX, count=dims * dims, default=np.eye(dims).ravel().tolist()))
    origin = _reals(path, fields, OFFSET, count=dims, default=[0.0] * dims)
    # a row is the direction of an axis
    return placed((matrix.reshape(dims, dims) * spacing[:, None])[:3, :3].tolist(), origin)


def _reals(
    path: Path, fields: dict[str, str], names: tuple[str, ...], *, count: int, default: list[float]
) -> list[float]:
    given = [name for name in names if name in fields]
    if len(given) > 1:
        raise wrong(path, given[1], fields[given[1]], f"none beside {given[0]}")
    if not given:
        return default
    try:
        return real_numbers(fields[given[0]], count=count)
    except ValueError:
        raise wrong(path, given[0], fields[given[0]], f"{count} finite numbers") from None


def wrong(path: Path, field: str, value: object, expected: str) -> UserError:
    return UserError(
        f"{path}: its header has {field} {value}; expected {expected}. It is damaged or no MHA file that is read: copy "
        "or download it again, or convert it anew."
    )
