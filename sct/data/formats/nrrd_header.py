"""The header of an NRRD file, field by field: http://teem.sourceforge.net/nrrd/format.html."""

import re
from pathlib import Path
from typing import Literal

import numpy as np

from sct.data.formats.stored import LONGEST, Stored, beside, placed, real_numbers, required, whole_numbers
from sct.errors import UserError

_NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
TYPES = {name: code for code, names in _NAMES.items() for name in names}
ENCODINGS: dict[str, Literal["raw", "gzip"]] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
# signs that turn the axes of a space to LPS
SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
# fields without meaning for us
_PASSED_OVER = {"content", "number", "sample units", "sampleunits", "min", "max", "old min", "oldmin", "old max"}
_PASSED_OVER |= {"oldmax", "centers", "centerings", "labels", "units", "thicknesses", "axis mins", "axismins"}
_PASSED_OVER |= {"axis maxs", "axismaxs", "measurement frame"}
_USED = {"type", "dimension", "sizes", "encoding", "endian", "space", "space directions", "space origin", "spacings"}
_USED |= {
    "kinds",
    "space dimension",
    "space units",
    "data file",
    "datafile",
    "byte skip",
    "byteskip",
    "line skip",
    "lineskip",
}
_SPATIAL = ("domain", "space")
_VECTOR = r"(?:\([^()]*\)|none)"


def read_nrrd(path: Path) -> Stored:
    """What the header says; UserError that names the field for what makes no sense or is not read."""
    fields, end = _fields(path)
    required(fields, ("type", "dimension", "sizes", "encoding"), path=path, kind="NRRD")
    number = _number(fields["dimension"])
    try:
        sizes = whole_numbers(fields["sizes"])
    except ValueError:
        raise wrong(path, "sizes", fields["sizes"], "a positive number of voxels along every axis") from None
    if len(sizes) != number:
        raise wrong(path, "dimension", fields["dimension"], f"{len(sizes)}, as sizes has")
    if fields["encoding"].lower() not in ENCODINGS:
        raise wrong(path, "encoding", fields["encoding"], "raw or gzip: save it so")
    for name in ("byte skip", "byteskip", "line skip", "lineskip"):
        if fields.get(name, "0") != "0":
            raise wrong(path, name, fields[name], "0: save it with the voxels at the beginning of their file")
    components = _components(path, fields, number=number)
    affine = _affine(path, fields, components=components, number=number)
    file, offset = path, end
    if given := next((name for name in ("data file", "datafile") if name in fields), None):
        file, offset = beside(path, fields[given], wrong=lambda *told: wrong(path, *told), field=given), 0
    elif not end:
        raise wrong(path, "header", "no end", "an empty line before the voxels")
    return Stored(
        file=file,
        offset=offset,
        packing=ENCODINGS[fields["encoding"].lower()],
        kind=_kind(path, fields),
        sizes=sizes,
        components=components,
        affine=affine,
    )


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields by name, and where the header ends; 0 where nothing follows it."""
    with path.open("rb") as file:
        block = file.read(LONGEST)
    if not re.match(rb"NRRD000[1-6]\r?\n", block):
        raise UserError(
            f"{path}: cannot be read as NRRD (it does not begin with NRRD000). It is empty, truncated, damaged or of "
            "another format: copy or download it again."
        )
    gap = re.search(rb"\r?\n\r?\n", block)
    try:
        text = block[: gap.start() if gap else None].decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise wrong(path, "header", "bytes that are no text", "lines of text") from None
    fields: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n")[1:]:
        if line.startswith("#") or re.match(r"[^:]*:=", line):
            continue
        name, colon, text = line.partition(": ")
        name = name.lower()
        if not colon or name not in _USED | _PASSED_OVER:
            raise wrong(path, "line", line[:60], "a field of NRRD, as 'sizes: 512 512 200'")
        if name in fields:
            raise wrong(path, name, "two lines", "one")
        fields[name] = text.strip()
    return fields, gap.end() if gap else 0


def _kind(path: Path, fields: dict[str, str]) -> np.dtype:
    if fields["type"].lower() not in TYPES:
        raise wrong(path, "type", fields["type"], "a number type")
    kind = np.dtype(TYPES[fields["type"].lower()])
    if kind.itemsize == 1:
        return kind
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower())
    if order is None:
        raise wrong(path, "endian", fields.get("endian", "missing"), "little or big")
    return kind.newbyteorder(order)  # type: ignore[arg-type]


def _components(path: Path, fields: dict[str, str], *, number: int) -> int | None:
    """The axis that counts the numbers of a voxel, by its kind or because it has no direction."""
    kinds = fields.get("kinds", " ".join(["domain"] * number)).split()
    if len(kinds) != number:
        raise wrong(path, "kinds", fields["kinds"], f"{number}, one an axis")
    others = {axis for axis, kind in enumerate(kinds) if kind.lower() not in (*_SPATIAL, "none", "???")}
    if "space directions" in fields:
        vectors = _vectors(path, fields["space directions"])
        turned = {axis for axis, vector in enumerate(vectors) if vector != "none"}
        if clash := [kinds[axis] for axis in sorted(others & turned)]:
            raise wrong(path, "kinds", " ".join(kinds), f"domain where an axis has a direction, not {clash[0]}")
        others |= set(range(len(vectors))) - turned
    if any(kinds[axis].lower() == "complex" for axis in others):
        raise UserError(
            f"{path}: its voxels hold complex numbers, not one number each. Convert it to one volume for each channel, "
            "such as the magnitude of a complex image."
        )
    if len(others) > 1:
        raise wrong(path, "kinds", " ".join(kinds), "one axis at most that is not of space")
    return next(iter(others), None)


def _vectors(path: Path, text: str) -> list[str]:
    if not re.fullmatch(rf"{_VECTOR}(\s+{_VECTOR})*", text):
        raise wrong(path, "space directions", text, "vectors such as (0.8,0,0) (0,0.8,0) (0,0,2)")
    return re.findall(_VECTOR, text)


def _vector(text: str, *, count: int) -> list[float]:
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError(text)
    if text.count(",") != count - 1:
        raise ValueError(text)
    return real_numbers(text[1:-1].replace(",", " "), count=count)


def _affine(path: Path, fields: dict[str, str], *, components: int | None, number: int) -> np.ndarray:
    """(4, 4) to LPS, of the axes of space."""
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if any(unit.lower() not in ("mm", "millimeter", "millimeters") for unit in units):
        raise wrong(path, "space units", fields["space units"], '"mm" for every axis')
    axes = [axis for axis in range(number) if axis != components]
    name = fields.get("space", "").lower()
    if "space directions" not in fields:
        if name or "space origin" in fields:
            raise wrong(path, "space directions", "missing", "a vector for every axis of the space")
        return placed(np.diag(_spacings(path, fields, axes=axes)).tolist(), [0.0, 0.0, 0.0])
    if "spacings" in fields:
        raise wrong(path, "spacings", fields["spacings"], "none beside space directions")
    # where the number of axes stands in place of a name, ITK, which 3D Slicer and others use, takes LPS
    if name not in SPACES and (name or "space dimension" not in fields):
        raise wrong(path, "space", fields.get("space", "missing"), ", ".join(SPACES))
    try:
        vectors = _vectors(path, fields["space directions"])
        if len(vectors) != number:
            raise ValueError(vectors)
        count = 3 if name else vectors[axes[0]].count(",") + 1
        columns = [_vector(vectors[axis], count=count) for axis in axes]
    except ValueError:
        expected = f"{number} vectors of finite numbers, as (0.8,0,0) (0,0.8,0) (0,0,2)"
        raise wrong(path, "space directions", fields["space directions"], expected) from None
    try:
        origin = _vector(fields.get("space origin", f"({','.join(['0'] * count)})"), count=count)
    except ValueError:
        raise wrong(path, "space origin", fields["space origin"], f"one vector of {count} finite numbers") from None
    return np.diag([*SPACES.get(name, (1.0, 1.0, 1.0)), 1.0]) @ placed(columns, origin)


def _spacings(path: Path, fields: dict[str, str], *, axes: list[int]) -> list[float]:
    if "spacings" not in fields:
        return [1.0] * len(axes)
    try:
        parts = fields["spacings"].split()
        found = real_numbers(" ".join(parts[axis] for axis in axes), count=len(axes))
    except (ValueError, IndexError):
        raise wrong(path, "spacings", fields["spacings"], "a finite number for every axis") from None
    return found


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 3 else -1


def wrong(path: Path, field: str, value: object, expected: str) -> UserError:
    return UserError(
        f"{path}: its header has {field} {value}; expected {expected}. It is damaged or no NRRD file that is read: "
        "copy or download it again, or convert it anew."
    )
