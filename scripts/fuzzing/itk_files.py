"""NRRD and MHA files: honest ones, changes of fields and bytes, and what the standards say that a file holds."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fuzzing.damage import PLAIN, damaged
from fuzzing.kind import Change, drawn, place
from fuzzing.nifti_files import FAR, LARGEST, SMALLEST, Reading

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
NRRD_TYPES = {"uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"}
NRRD_TYPES |= {"int8": "i1", "int16": "i2", "unsigned char": "u1", "signed short": "i2", "uint8": "u1"}
MHA_TYPES = {"MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_FLOAT": "f4"}
MHA_TYPES |= {"MET_DOUBLE": "f8", "MET_CHAR": "i1", "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"}
SPACES = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "RAS": (1, 1, 1)}
SPACES |= {"LPS": (-1, -1, 1), "left-anterior-superior": (-1, 1, 1)}
LOWER = {name.lower(): signs for name, signs in SPACES.items()}
ODD = ["", "0", "-1", "1", "2", "3", "4", "7", "0.5", "1e-30", "1e6", "1e30", "nan", "inf", "x", "9" * 30, "32767"]
NRRD_VALUES = {
    "type": ["short", "float", "block", "double", "uchar", "ushort", "int", "", "complex"],
    "dimension": ["0", "1", "2", "3", "4", "17", "-1"],
    "space": [*SPACES, "scanner-xyz", "nonsense", "3D-right-handed"],
    "endian": ["little", "big", "x"],
    "encoding": ["raw", "gzip", "gz", "ascii", "hex", "bzip2", "zrl", "x"],
    "kinds": ["domain domain domain", "vector domain domain", "domain domain", "list domain domain domain"],
    "data file": ["other.raw", "/etc/hostname", "../x", "LIST", "x%d.raw 1 3 1"],
    "byte skip": ["-1", "0", "4", "1000000"],
    "line skip": ["0", "1", "1000000"],
    "space units": ['"mm" "mm" "mm"', '"um" "um" "um"', '"m" "m" "m"'],
    "measurement frame": ["(1,0,0) (0,1,0) (0,0,1)", "(x"],
    "sizes": ["1500 1000 1000", "99999999 99999999 99999999", "4 4", "4 4 4 4"],
}
MHA_VALUES = {
    "ElementType": [*MHA_TYPES, "MET_LONG_LONG", "MET_NONE", "x"],
    "NDims": ["0", "1", "2", "3", "4", "11", "-1"],
    "DimSize": ["1500 1000 1000", "99999999 99999999 99999999", "4 4", "4 4 4 4"],
    "ElementNumberOfChannels": ["0", "1", "2", "3", "-1", "1000000"],
    "BinaryDataByteOrderMSB": ["True", "False", "x"],
    "ElementByteOrderMSB": ["True", "False"],
    "BinaryData": ["True", "False"],
    "CompressedData": ["True", "False"],
    "CompressedDataSize": ["0", "1", "10", "100000", "-1"],
    "ElementDataFile": ["LOCAL", "other.raw", "/etc/hostname", "LIST", "", "x%d.raw 1 3 1"],
    "HeaderSize": ["-1", "0", "10"],
    "ObjectType": ["Image", "Tube", ""],
}


def draw_file(rng: np.random.Generator, *, form: str) -> dict:
    return {
        "form": form,
        "shape": rng.integers(3, 8, 3).tolist(),
        "kind": drawn(rng, ["u1", "i2", "i2", "u2", "f4", "f8"]),
        "big": bool(rng.random() < 0.2),
        "packed": bool(rng.random() < 0.5),
        "beside": bool(rng.random() < 0.15),
        "spacing": [drawn(rng, [0.7, 1.0, 1.5, 3.0]) for _ in range(3)],
        "turn": drawn(rng, [0.0, 0.0, 0.3]),
        "flip": [drawn(rng, [-1, 1]) for _ in range(3)],
        "space": drawn(rng, list(SPACES)),
        "seed": place(rng),
    }


def draw_changes(rng: np.random.Generator, *, form: str) -> list[Change]:
    values = NRRD_VALUES if form == "nrrd" else MHA_VALUES
    names = [
        *values,
        *(["space directions", "space origin", "sizes"] if form == "nrrd" else ["TransformMatrix", "Offset"]),
    ]
    names += ["sizes", "spacings"] if form == "nrrd" else ["ElementSpacing", "DimSize"]
    found: list[Change] = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 2, 2])):
        what = drawn(rng, ["set", "set", "set", "number", "number", "drop", "twice", "data"])
        if what == "set":
            name = drawn(rng, list(values))
            found.append(("set", place(rng), (name, drawn(rng, values[name]))))
        elif what == "number":
            found.append(("number", place(rng), (drawn(rng, names), drawn(rng, ODD))))
        elif what == "data":
            found.append(("data", place(rng), drawn(rng, ["cut", "more", "crc", "flip", "garbage"])))
        else:
            found.append((what, place(rng), drawn(rng, names)))
    if rng.random() < 0.3:
        found.append((drawn(rng, PLAIN), place(rng), int(rng.integers(1, 256))))
    return found


def affine_of(base: dict) -> np.ndarray:
    """To LPS."""
    c, s = math.cos(base["turn"]), math.sin(base["turn"])
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * np.array(base["spacing"]) * np.array(base["flip"])
    affine[:3, 3] = (-5.0, 7.5, 12.0)
    return affine


def voxels_of(base: dict) -> np.ndarray:
    values = np.random.default_rng(base["seed"]).integers(0, 3, math.prod(base["shape"]))
    return values.astype(np.dtype(base["kind"]).newbyteorder(">" if base["big"] else "<"))


def fields_of(base: dict) -> list[tuple[str, str]]:
    """Header lines in their order."""
    affine, shape = affine_of(base), " ".join(map(str, base["shape"]))
    data = "x.raw.gz" if base["packed"] and base["form"] == "nrrd" else "x.zraw" if base["packed"] else "x.raw"
    if base["form"] == "nrrd":
        turned = np.diag([*np.array(SPACES[base["space"]]) * [-1, -1, 1], 1.0]) @ affine
        vectors = [f"({','.join(f'{x:.12g}' for x in column)})" for column in turned[:3].T]
        kind = next(name for name, code in NRRD_TYPES.items() if code == base["kind"])
        fields = [("type", kind), ("dimension", "3"), ("space", base["space"]), ("sizes", shape)]
        fields += [("space directions", " ".join(vectors[:3])), ("kinds", "domain domain domain")]
        fields += [("endian", "big" if base["big"] else "little"), ("encoding", "gzip" if base["packed"] else "raw")]
        return [*fields, ("space origin", vectors[3]), *([("data file", data)] if base["beside"] else [])]
    kind = next(name for name, code in MHA_TYPES.items() if code == base["kind"])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    matrix = (affine[:3, :3] / spacing).T.ravel()
    fields = [("ObjectType", "Image"), ("NDims", "3"), ("BinaryData", "True")]
    fields += [("BinaryDataByteOrderMSB", str(base["big"])), ("CompressedData", str(base["packed"]))]
    if base["packed"]:
        fields.append(("CompressedDataSize", str(len(packed_data(base)))))
    fields += [("TransformMatrix", numbers(matrix)), ("Offset", numbers(affine[:3, 3]))]
    fields += [("ElementSpacing", numbers(spacing)), ("DimSize", shape), ("ElementType", kind)]
    return [*fields, ("ElementDataFile", data if base["beside"] else "LOCAL")]


def numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.12g}" for value in values)


def packed_data(base: dict) -> bytes:
    data = voxels_of(base).tobytes()
    if not base["packed"]:
        return data
    return gzip.compress(data, mtime=0) if base["form"] == "nrrd" else zlib.compress(data)


def change_fields(fields: list[tuple[str, str]], changes: list[Change]) -> list[tuple[str, str]]:
    """The lines after the changes of lines."""
    for what, at, value in changes:
        index = {name: number for number, (name, _) in enumerate(fields)}
        if what == "set":
            name, text = value
            if name in index:
                fields[index[name]] = (name, text)
            else:
                fields.insert(len(fields) - 1, (name, text))
        elif what == "number" and value[0] in index:
            name, text = fields[index[value[0]]]
            parts = text.replace("(", "( ").replace(")", " )").replace(",", " , ").split()
            own = [number for number, part in enumerate(parts) if part not in "(),"]
            if own:
                parts[own[at % len(own)]] = value[1]
            fields[index[name]] = (name, " ".join(parts).replace("( ", "(").replace(" )", ")").replace(" , ", ","))
        elif what == "drop" and value in index:
            del fields[index[value]]
        elif what == "twice" and value in index:
            fields.insert(at % (len(fields) + 1), fields[index[value]])
    return fields


def write_files(folder: Path, base: dict, changes: list[Change]) -> Path:
    """The header with its voxels in the same file or beside; returns the header's path."""
    fields, data = change_fields(fields_of(base), changes), packed_data(base)
    for what, at, value in changes:
        if what == "data":
            i = at % max(1, len(data))
            data = {
                "cut": data[:i],
                "more": data + b"\1" * (at % 99 + 1),
                "crc": data[:-6] + bytes(x ^ 1 for x in data[-6:-5]) + data[-5:],
                "flip": data[:i] + bytes(x ^ 1 << at % 8 for x in data[i : i + 1]) + data[i + 1 :],
                "garbage": data + bytes(at >> s & 255 for s in (0, 8, 16)) * 300,
            }[value]
    if base["form"] == "nrrd":
        head = "NRRD0005\n# made for a test\n" + "".join(f"{name}: {text}\n" for name, text in fields) + "\n"
        path, beside = folder / ("x.nhdr" if base["beside"] else "x.nrrd"), "x.raw.gz" if base["packed"] else "x.raw"
    else:
        head = "".join(f"{name} = {text}\n" for name, text in fields)
        path, beside = folder / ("x.mhd" if base["beside"] else "x.mha"), "x.zraw" if base["packed"] else "x.raw"
    if base["beside"]:
        (folder / beside).write_bytes(data)
        data = b""
    (folder / "other.raw").write_bytes(bytes(2000))
    path.write_bytes(damaged(head.encode() + data, changes))
    return path


def reading(path: Path, *, form: str) -> Reading | str:
    """What the standard says that a file holds, or why it must be refused."""
    try:
        return (nrrd_reading if form == "nrrd" else mha_reading)(path)
    except (ValueError, KeyError, IndexError, OverflowError, EOFError, OSError, zlib.error) as error:
        return f"{type(error).__name__} in the header or data"


def nrrd_reading(path: Path) -> Reading | str:
    raw = path.read_bytes()
    if raw[:7] != b"NRRD000":
        return "no NRRD"
    head, gap, data = raw.replace(b"\r\n", b"\n").partition(b"\n\n") if b"\n\n" not in raw else raw.partition(b"\n\n")
    fields: dict[str, str] = {}
    for line in head.split(b"\n")[1:]:
        if line.startswith(b"#") or b":=" in line:  # comments and notes, in any letters
            continue
        name, colon, text = line.decode("ascii").partition(": ")
        if not colon or name.lower() in fields:
            return "a line is no field, or a field is there twice"
        fields[name.lower()] = text.strip()
    if "data file" in fields or "datafile" in fields:
        beside = fields.get("data file", fields.get("datafile", ""))
        if Path(beside).name != beside:
            return "voxels outside the folder"
        data = (path.parent / beside).read_bytes()
    elif not gap:
        return "no end of the header"
    shape = [int(size) for size in fields["sizes"].split()]
    if len(shape) != int(fields["dimension"]) or min(shape) < 1:
        return "sizes and dimension differ"
    kind = np.dtype(NRRD_TYPES[fields["type"].lower()])
    if kind.itemsize > 1:
        kind = kind.newbyteorder({"little": "<", "big": ">"}[fields["endian"].lower()])
    if fields["encoding"].lower() in ("gzip", "gz"):
        data = gzip.decompress(data)
    elif fields["encoding"].lower() != "raw":
        return "another encoding"
    if any(int(fields.get(name, 0)) for name in ("byte skip", "line skip")):
        return "skipped bytes"
    if len(data) != math.prod(shape) * kind.itemsize:
        return "more or fewer voxels than the header says"
    if any(word not in ("domain", "space") for word in fields.get("kinds", "domain").lower().split()):
        return "an axis that is not of space"
    if "mm" not in fields.get("space units", "mm"):
        return "another unit"
    signs = np.diag([*LOWER[fields["space"].lower()], 1.0])
    affine = np.eye(4)
    affine[:3, :3] = np.array([vector(text) for text in fields["space directions"].split(") ")]).T
    affine[:3, 3] = vector(fields.get("space origin", "(0,0,0)"))
    if "spacings" in fields or "axis mins" in fields:
        return "spacings beside directions"
    voxels = np.frombuffer(data, kind).reshape(shape, order="F").astype(np.float64)
    return sensible(voxels, signs @ affine)


def vector(text: str) -> list[float]:
    found = [float(part) for part in text.strip().removeprefix("(").removesuffix(")").split(",")]
    if len(found) != 3:
        raise ValueError(text)
    return found


def mha_reading(path: Path) -> Reading | str:
    data = path.read_bytes()
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line, end, data = data.partition(b"\n")
        name, equals, text = line.decode("latin-1").partition("=")
        if not end or not equals or name.strip() in fields:
            return "a line is no field, or a field is there twice"
        text = {"true": "True", "false": "False"}.get(text.strip(), text.strip())
        fields[name.strip()] = text
    if fields["ElementDataFile"] != "LOCAL":
        beside = fields["ElementDataFile"]
        if Path(beside).name != beside:
            return "voxels outside the folder"
        data = (path.parent / beside).read_bytes()
    dims, shape = int(fields["NDims"]), [int(size) for size in fields["DimSize"].split()]
    if len(shape) != dims or min(shape) < 1:
        return "DimSize and NDims differ"
    if fields.get("BinaryData", "True") != "True" or fields.get("ObjectType", "Image") != "Image":
        return "no binary image"
    orders = {fields[name] for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if name in fields}
    if len(orders) > 1 or not orders <= {"True", "False"}:
        return "byte order is unclear"
    if fields.get("CompressedData", "False") not in ("True", "False"):
        return "CompressedData is unclear"
    kind = np.dtype(MHA_TYPES[fields["ElementType"]]).newbyteorder(">" if "True" in orders else "<")
    channels = int(fields.get("ElementNumberOfChannels", 1))
    if int(fields.get("HeaderSize", 0)) != 0 or channels != 1:
        return "skipped bytes or channels"
    if fields.get("CompressedData") == "True":
        if int(fields.get("CompressedDataSize", len(data))) not in (0, len(data)):
            return "CompressedDataSize is wrong"
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(data)
        if not unpacker.eof or unpacker.unused_data:
            return "the packed voxels do not end"
    if len(data) != math.prod(shape) * kind.itemsize:
        return "more or fewer voxels than the header says"
    matrix = np.array([float(x) for x in fields.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()]).reshape(3, 3).T
    spacing = [float(x) for x in fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1")).split()]
    offset = [float(x) for x in fields.get("Offset", "0 0 0").split()]
    if len(spacing) != 3 or len(offset) != 3 or min(spacing) <= 0:
        return "spacing or offset of another number of axes"
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix * spacing, offset
    voxels = np.frombuffer(data, kind).reshape(shape, order="F").astype(np.float64)
    return sensible(voxels, FLIP @ affine)


def sensible(voxels: np.ndarray, affine: np.ndarray) -> Reading | str:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(voxels).all():
        return "voxels are not finite"
    if not np.isfinite(affine).all() or not (spacing.min() > SMALLEST * 0.999 and spacing.max() < LARGEST * 1.001):
        return "no scanner has voxels of this size"
    if np.abs(affine[:3, 3]).max() > FAR * 1.001 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.99e-3:
        return "flat, or too far away"
    return Reading(voxels, affine, spacing)
