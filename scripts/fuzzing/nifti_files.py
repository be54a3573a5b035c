"""NIfTI files: honest ones, changes of fields and bytes, and what the standard says that a file holds.

Nothing here asks nibabel: the header is a struct of its own.
"""

import gzip
import math
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np

from fuzzing.damage import PACKED, damaged
from fuzzing.kind import Change, drawn, place

N1 = np.dtype(
    [("sizeof_hdr", "i4"), ("data_type", "V10"), ("db_name", "V18"), ("extents", "i4"), ("session_error", "i2")]
    + [("regular", "V1"), ("dim_info", "u1"), ("dim", "8i2"), ("intent", "3f4"), ("intent_code", "i2")]
    + [("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "8f4"), ("vox_offset", "f4")]
    + [("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1")]
    + [("cal", "2f4"), ("slice_duration", "f4"), ("toffset", "f4"), ("glmax", "i4"), ("glmin", "i4")]
    + [("descrip", "V80"), ("aux_file", "V24"), ("qform_code", "i2"), ("sform_code", "i2"), ("quatern", "3f4")]
    + [("qoffset", "3f4"), ("srow", "(3,4)f4"), ("intent_name", "V16"), ("magic", "S4")]
)
N2 = np.dtype(
    [("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "8i8"), ("intent", "3f8")]
    + [("pixdim", "8f8"), ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8"), ("cal", "2f8")]
    + [("slice_duration", "f8"), ("toffset", "f8"), ("slice_start", "i8"), ("slice_end", "i8"), ("descrip", "V80")]
    + [("aux_file", "V24"), ("qform_code", "i4"), ("sform_code", "i4"), ("quatern", "3f8"), ("qoffset", "3f8")]
    + [("srow", "(3,4)f8"), ("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "i4"), ("intent_name", "V16")]
    + [("dim_info", "u1"), ("unused", "V15")]
)
assert (N1.itemsize, N2.itemsize) == (348, 540)
MAGIC = {348: b"n+1", 540: b"n+2\0\r\n\x1a\n"}
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
NO_NUMBERS = {32: np.dtype("c8"), 128: RGB}
ODD = [0, -1, 1, 2, 7, 0.5, 1e-6, 1e-30, 1e6, 1e30, math.nan, math.inf, -math.inf]
VALUES = {
    "dim": [0, 1, -1, 2, 3, 5, 8, 100, 2000, 32767, -32768],
    "datatype": [0, 1, 2, 4, 16, 32, 64, 128, 512, 256, 1536, 2048, 2304, 9999, -5],
    "bitpix": [0, 1, 8, 16, 32, 64, 128, -8],
    "vox_offset": [0, 1, 16, 348, 352, 353, 400, 1e6, 1e12, -16, math.nan, math.inf, 352.5],
    "qform_code": [0, 1, 2, 4, 5, 99, -1],
    "sform_code": [0, 1, 2, 4, 5, 99, -1],
    "magic": [b"n+1\0", b"ni1\0", b"n+2\0", b"xxxx", b"\0" * 4],
    "sizeof_hdr": [0, 348, 540, 349, -1],
    "intent_code": [0, 1, 1007, 2001, 10000],
    "xyzt_units": [0, 1, 2, 3, 10, 255],
    "byte": list(range(256)),
    "tail": [1, 7, 300, 70000],
    "extension": [(1, 16, 6), (1, 0, 6), (1, -16, 4), (1, 1 << 30, 2), (1, 17, 99), (9, 32, 6)],
    "huge": [(1500, 1000, 1000), (32767, 32767, 1), (512, 512, 3000)],
    "swap": [2, 4],
}
FIELDS = [*VALUES, "dim", "pixdim", "pixdim", "qform", "scl_slope", "scl_inter", "srow", "srow", "quatern", "qoffset"]
FIELDS += ["oblique", "voxel"]
# sct reads voxels between a nanometre and 10 metres, up to a kilometre from the origin
SMALLEST, LARGEST, FAR = 1e-6, 1e4, 1e6


@dataclass(frozen=True)
class Reading:
    """voxels (dim[1], ...) float64; affine (4, 4) in mm, or None where a header has pixdim alone; spacing in mm."""

    voxels: np.ndarray
    affine: np.ndarray | None
    spacing: np.ndarray


def draw_file(rng: np.random.Generator, *, label: bool, flat: bool) -> dict:
    """Parameters of an honest file."""
    dims = 2 if flat else drawn(rng, [3] * 10 + [2, 4, 4, 5])
    shape = rng.integers(4, 10, min(dims, 3)).tolist() + [drawn(rng, [1, 1, 2]) for _ in range(dims - 3)]
    return {
        "size": drawn(rng, [348, 348, 348, 540]),
        "endian": drawn(rng, ["<", "<", ">"]),
        "code": 2 if label else drawn(rng, [2, 4, 4, 4, 16, 16, 64, 64, 8, 512, 256, 768, 1024, 1280, 32, 128]),
        "shape": shape,
        "gz": bool(rng.random() < 0.6),
        "members": bool(rng.random() < 0.1),
        "seed": place(rng),
        "scaled": bool(rng.random() < 0.3 and not label),
        "flip": [drawn(rng, [-1, 1]) for _ in range(3)],
        "spacing": [drawn(rng, [0.7, 1, 1.5, 3]) for _ in range(3)],
        "form": drawn(rng, ["s", "s", "q", "both"]),
    }


def is_honest(base: dict, dims: int) -> bool:
    """Whether sct reads the file without changes: one number a voxel and the right axes."""
    shape = list(base["shape"])
    while len(shape) > dims and shape[-1] == 1:
        shape.pop()
    return base["code"] in TYPES and len(shape) == dims


def draw_changes(rng: np.random.Generator) -> list[Change]:
    found = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 1, 2, 2, 3])):
        what = drawn(rng, FIELDS)
        found.append((what, place(rng), drawn(rng, VALUES.get(what, ODD))))
    if rng.random() < 0.35:
        found.append((drawn(rng, PACKED), place(rng), int(rng.integers(1, 256))))
    return found


def layout_of(base: dict) -> np.dtype:
    return (N1 if base["size"] == 348 else N2).newbyteorder(base["endian"])


def header_of(base: dict) -> np.ndarray:
    """Header (1) of a file without faults."""
    layout, shape = layout_of(base), base["shape"]
    header = np.zeros(1, layout)
    header["sizeof_hdr"], header["magic"] = base["size"], MAGIC[base["size"]]
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    kind = np.dtype(TYPES.get(base["code"]) or NO_NUMBERS[base["code"]])
    header["datatype"], header["bitpix"], header["vox_offset"] = base["code"], kind.itemsize * 8, base["size"] + 4
    header["pixdim"] = [1, *base["spacing"], 1, 1, 1, 1]
    header["scl_slope"], header["scl_inter"] = (0.5, -3) if base["scaled"] else (1, 0)
    header["xyzt_units"] = 2
    origin = [-5, 5, 15]
    if base["form"] != "q":
        header["sform_code"] = 1
        for axis in range(3):
            header["srow"][0, axis, axis], header["srow"][0, axis, 3] = (
                base["flip"][axis] * base["spacing"][axis],
                origin[axis],
            )
    if base["form"] != "s":
        header["qform_code"], header["qoffset"] = 1, origin
        header["quatern"] = [[0, 0, 0], [1, 0, 0], [0, 0.6, 0]][base["seed"] % 3]
        header["pixdim"][0, 0] = -1 if base["seed"] % 2 else 1
    return header


def voxels_of(base: dict) -> bytes:
    rng, count = np.random.default_rng(base["seed"]), math.prod(base["shape"])
    kind = NO_NUMBERS.get(base["code"]) or np.dtype(TYPES[base["code"]]).newbyteorder(base["endian"])
    values = rng.integers(0, 3, (count, 3) if kind == RGB else count)
    return values.astype("u1" if kind == RGB else kind).tobytes()


def change_field(header: np.ndarray, what: str, at: int, value: object) -> None:
    """One field of a header; a quaternion or a size of voxels is made the one that counts."""
    match what:
        case "oblique":
            header["srow"][0, 0, 1], header["srow"][0, 1, 0] = 0.3, -0.3
        case "srow":
            header["srow"][0, at % 3, at // 3 % 4] = value
        case "huge":
            header["dim"][0, 1:4] = value
        case "swap":  # the same number of bytes, seen in another way
            header["datatype"], header["bitpix"] = (256, 8) if value == 2 else (512, 16)
        case "dim":
            header["dim"][0, at % 8] = value
        case "pixdim" | "qform":
            header["pixdim"][0, at % 8 if what == "pixdim" else at % 4] = value
            if what == "qform":
                header["sform_code"], header["qform_code"] = 0, at // 4 % 2
        case "quatern" | "qoffset":
            header[what][0, at % 3] = value
            header["sform_code"], header["qform_code"] = 0, 1
        case _ if what in header.dtype.names:
            header[what] = value


def file_bytes(base: dict, changes: list[Change]) -> bytes:
    """The bytes of a changed file."""
    header, gap = header_of(base), b"\0" * 4
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for what, at, value in changes:
            try:
                change_field(header, what, at, value)
            except (OverflowError, ValueError):
                continue  # the field can't hold this
            if what == "extension":
                gap = bytes([value[0], 0, 0, 0]) + struct.pack(base["endian"] + "ii", *value[1:]) + b"\0" * 24
                header["vox_offset"] = base["size"] + 36
    raw = bytearray(header.tobytes() + gap + voxels_of(base))
    for what, at, value in changes:
        if what == "byte":
            raw[at % base["size"]] = value
        elif what == "tail":
            raw += np.random.default_rng(at).bytes(value)
        elif what == "voxel" and base["code"] in (16, 64):
            last = np.array([value], dtype=base["endian"] + ("f4" if base["code"] == 16 else "f8")).tobytes()
            raw[-len(last) :] = last
    data = bytes(raw)
    if base["gz"]:
        cut = base["seed"] % len(data) if base["members"] else 0
        data = (gzip.compress(data[:cut], mtime=0) if cut else b"") + gzip.compress(data[cut:], mtime=0)
    return damaged(data, changes)


def reading(data: bytes, *, gz: bool) -> Reading | str:
    """What the standard says that a file holds, or why it must be refused."""
    try:
        raw = gzip.decompress(data) if gz else data
    except (EOFError, zlib.error, OSError, struct.error):
        return "gzip damaged"
    sizes = {raw[:4]: (size, end) for size in (348, 540) for end, raw in _ends(size)}
    if raw[:4] not in sizes:
        return "sizeof_hdr is neither 348 nor 540"
    size, end = sizes[raw[:4]]
    if len(raw) < size:
        return "no whole header"
    header = np.frombuffer(raw[:size], (N1 if size == 348 else N2).newbyteorder(end))[0]
    if header["magic"] not in (MAGIC[size], MAGIC[size][:3]):
        return "magic is not that of a single file"
    n, code, offset = int(header["dim"][0]), int(header["datatype"]), float(header["vox_offset"])
    shape = [int(edge) for edge in header["dim"][1 : n + 1]]
    if not 1 <= n <= 7 or min(shape) < 1:
        return "dim makes no sense"
    if code not in TYPES:
        return "datatype is none of real numbers"
    kind = np.dtype(TYPES[code]).newbyteorder(end)
    if int(header["bitpix"]) != kind.itemsize * 8:
        return "bitpix and datatype differ"
    if offset == 0:
        offset = size + 4
    if not size + 4 <= offset < 1e9 or offset != int(offset):
        return "vox_offset makes no sense"
    count = math.prod(shape)
    if int(offset) + count * kind.itemsize != len(raw):
        return "more or fewer voxels than the header says"
    voxels = np.frombuffer(raw, kind, count, int(offset)).reshape(shape, order="F").astype(np.float64)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isinf(slope) or (math.isnan(slope) and not math.isnan(inter) and inter != 0):
        return "scl_slope is not finite"
    if slope != 0 and not math.isnan(slope):
        if not math.isfinite(inter):
            return "scl_inter is not finite"
        voxels = voxels * slope + inter
    if not np.isfinite(voxels).all():
        return "voxels are not finite"
    return placed(header, voxels)


def _ends(size: int) -> list[tuple[str, bytes]]:
    return [(end, struct.pack(end + "i", size)) for end in "<>"]


def placed(header: np.void, voxels: np.ndarray) -> Reading | str:
    """The same with its place in the world."""
    unit = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7)
    if unit is None:
        return "no such unit of length"
    if not (0 <= header["sform_code"] <= 5 and 0 <= header["qform_code"] <= 5):
        return "no such code of a form"
    affine = None
    pixdim = header["pixdim"][1:4].astype(np.float64)
    if header["sform_code"] > 0:
        affine = np.vstack([header["srow"].astype(np.float64), [0, 0, 0, 1]])
    elif header["qform_code"] > 0:
        if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
            return "pixdim is not positive"
        b, c, d = header["quatern"].astype(np.float64)
        rest = 1 - (b * b + c * c + d * d)
        qfac = float(header["pixdim"][0])
        if not rest >= -1e-6 or qfac not in (-1, 0, 1):
            return "the quaternion is none"
        affine = from_quaternion(math.sqrt(max(0, rest)), b, c, d, scale=pixdim * [1, 1, -1 if qfac < 0 else 1])
        affine[:3, 3] = header["qoffset"]
    if affine is None:
        # without a form, only the axes that there are count
        spacing = np.abs(pixdim * unit)[: min(3, int(header["dim"][0]))]
        if not (pixdim[: len(spacing)] > 0).all():
            return "pixdim is not positive"
    else:
        affine[:3] *= unit
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if (
            not np.isfinite(affine).all()
            or abs(np.linalg.det(affine[:3, :3] / np.where(spacing > 0, spacing, 1))) < 1e-3
        ):
            return "the form is not finite, or flat"
        if np.abs(affine[:3, 3]).max() > FAR * 1.001:
            return "the origin lies too far away"
    if not (np.isfinite(spacing).all() and spacing.min() > SMALLEST * 0.999 and spacing.max() < LARGEST * 1.001):
        return "no scanner has voxels of this size"
    return Reading(voxels, affine, spacing)


def from_quaternion(a: float, b: float, c: float, d: float, *, scale: np.ndarray) -> np.ndarray:
    """Affine (4, 4) of the rotation (a, b, c, d), by the formula of nifti1.h."""
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c],
        [2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b],
        [2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - c * c - b * b],
    ]
    affine[:3, :3] *= scale
    return affine
