"""The kind `dicom`: a series of four slices in a folder or a zip file, written and read element by element."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np

from fuzzing.damage import PLAIN, damaged
from fuzzing.kind import Change, Kind, drawn, place
from sct.data.cases import Case, LabelMap
from sct.data.check import check_cases
from sct.data.formats.volumes import Volumes

ROOT = "1.2.826.0.1.3680043.10.5"
SYNTAX, CT = "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.2"
SHAPE = (5, 4, 4)  # columns, rows, slices
TAGS = {
    "class": (0x0008, 0x0016, "UI"), "instance": (0x0008, 0x0018, "UI"), "modality": (0x0008, 0x0060, "CS"),
    "thickness": (0x0018, 0x0050, "DS"), "study": (0x0020, 0x000D, "UI"), "series": (0x0020, 0x000E, "UI"),
    "number": (0x0020, 0x0013, "IS"), "position": (0x0020, 0x0032, "DS"), "orientation": (0x0020, 0x0037, "DS"),
    "frame": (0x0020, 0x0052, "UI"), "samples": (0x0028, 0x0002, "US"), "light": (0x0028, 0x0004, "CS"),
    "frames": (0x0028, 0x0008, "IS"), "rows": (0x0028, 0x0010, "US"), "columns": (0x0028, 0x0011, "US"),
    "spacing": (0x0028, 0x0030, "DS"), "allocated": (0x0028, 0x0100, "US"), "stored": (0x0028, 0x0101, "US"),
    "high": (0x0028, 0x0102, "US"), "signed": (0x0028, 0x0103, "US"), "intercept": (0x0028, 0x1052, "DS"),
    "slope": (0x0028, 0x1053, "DS"), "pixels": (0x7FE0, 0x0010, "OW"),
}  # fmt: skip
TEXTS = [
    "",
    "0",
    "-1",
    "1",
    "x",
    "nan",
    "inf",
    "1e30",
    "0.5",
    "1e-30",
    "1\\2",
    "0\\0",
    "-1\\-1",
    "0\\0\\0",
    "1\\0\\0\\0\\1\\0",
]
TEXTS += ["1\\0\\0\\1\\0\\0", "0\\0\\0\\0\\0\\0", "nan\\0\\0", "1e30\\0\\0", "9" * 40, "1\\2\\x"]
WORDS = [0, 1, 2, 3, 7, 8, 12, 16, 32, 255, 60000, 65535]


def draw(rng: np.random.Generator) -> tuple[dict, list[Change]]:
    found: list[Change] = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 2])):
        what = drawn(rng, ["set", "set", "set", "set", "drop", "all", "lose", "copy", "junk", "zip", *PLAIN[:6]])
        value = int(rng.integers(1, 256)) if what in PLAIN else place(rng)
        found.append((what, place(rng), value))
    base = {"seed": place(rng), "zip": bool(rng.random() < 0.3), "slope": drawn(rng, ["1", "0.5", "2"])}
    return base, found


def values_of(base: dict, k: int) -> dict[str, str | int | bytes]:
    """Elements of slice k."""
    stored = np.random.default_rng([base["seed"], k]).integers(-100, 100, SHAPE[1::-1]).astype("<i2")
    return {
        "class": CT, "instance": f"{ROOT}.{k + 1}", "modality": "CT", "thickness": "2.5", "study": f"{ROOT}.9",
        "series": ROOT, "number": str(k + 1), "position": f"-5\\7.5\\{12 + 2.5 * k}", "orientation": "1\\0\\0\\0\\1\\0",
        "frame": f"{ROOT}.8", "samples": 1, "light": "MONOCHROME2", "rows": SHAPE[1], "columns": SHAPE[0],
        "spacing": "0.7\\0.8", "allocated": 16, "stored": 16, "high": 15, "signed": 1, "intercept": "-3",
        "slope": base["slope"], "pixels": stored.tobytes(),
    }  # fmt: skip


def changed(values: dict, changes: list[Change], k: int) -> dict:
    for what, at, value in changes:
        if what not in ("set", "drop", "all") or (what != "all" and at % SHAPE[2] != k):
            continue
        name = list(TAGS)[at // 4 % (len(TAGS) - 1)]
        if what == "drop":
            values.pop(name, None)
        else:
            values[name] = WORDS[value % len(WORDS)] if TAGS[name][2] == "US" else TEXTS[value % len(TEXTS)]
    return values


def element(group: int, number: int, kind: str, body: bytes) -> bytes:
    body += (b"\0" if kind == "UI" else b" ") * (len(body) % 2)
    head = struct.pack("<HH", group, number) + kind.encode()
    return head + (struct.pack("<xxI", len(body)) if kind in ("OW", "OB") else struct.pack("<H", len(body))) + body


def file_bytes(values: dict) -> bytes:
    def body(value: str | int | bytes) -> bytes:
        return (
            value
            if isinstance(value, bytes)
            else struct.pack("<H", value)
            if isinstance(value, int)
            else value.encode()
        )

    meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", CT.encode())
    meta += element(2, 3, "UI", str(values.get("instance", "1")).encode()) + element(2, 0x10, "UI", SYNTAX.encode())
    ordered = sorted((TAGS[name], value) for name, value in values.items())
    return (
        bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
        + b"".join(element(*tag, body(value)) for tag, value in ordered)
    )  # fmt: skip


def write(folder: Path, base: dict, changes: list[Change]) -> Path:
    files = {f"IM{(k * 3) % 4}": file_bytes(changed(values_of(base, k), changes, k)) for k in range(SHAPE[2])}
    names = list(files)
    for what, at, value in changes:
        name = names[at % len(names)]
        if what == "lose":
            files.pop(name, None)
        elif what == "copy":
            files[f"copy{value % 3}"] = files.get(name, b"")
        elif what == "junk":
            files[("notes.txt", "x.dcm", "DICOMDIR", "IM9")[value % 4]] = bytes([value % 256]) * (value % 300)
        elif what in PLAIN and not base["zip"] and name in files:
            files[name] = damaged(files[name], [(what, at // 7, value)])
    if not base["zip"]:
        place_of = folder / "series"
        place_of.mkdir()
        for name, data in files.items():
            (place_of / name).write_bytes(data)
        return place_of
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"../{name}" if any(what == "zip" for what, _, _ in changes) else name, data)
    path = folder / "series.zip"
    path.write_bytes(damaged(buffer.getvalue(), changes))
    return path


def parsed(data: bytes) -> dict[str, bytes]:
    """Elements by name; ValueError or struct.error where they are not whole."""
    by_tag = {tag[:2]: name for name, tag in TAGS.items()}
    at, found = 132, {}
    while at < len(data):
        group, number, kind = struct.unpack_from("<HH2s", data, at)
        long = kind in (b"OW", b"OB")
        size = struct.unpack_from("<I" if long else "<H", data, at + 8 if long else at + 6)[0]
        at += 12 if long else 8
        if at + size > len(data) or not kind.isalpha():
            raise ValueError("an element ends early")
        if name := by_tag.get((group, number)):
            found[name] = data[at : at + size]
        at += size
    return found


def reading(files: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Voxels (columns, rows, slices), spacing and first place in RAS; None where it is not sure what the files say."""
    slices = []
    for data in files:
        values = parsed(data)
        text = {
            name: value.decode("latin-1").strip("\0 ")
            for name, value in values.items()
            if TAGS[name][2] in ("DS", "UI")
        }
        words = {name: struct.unpack("<H", value[:2])[0] for name, value in values.items() if TAGS[name][2] == "US"}
        if (words["allocated"], words["stored"], words["high"], words["samples"]) != (16, 16, 15, 1):
            return None
        pixels = np.frombuffer(values["pixels"], "<i2" if words["signed"] else "<u2").reshape(
            words["rows"], words["columns"]
        )
        place_of = [float(x) for x in text["position"].split("\\")]
        if text["orientation"] != "1\\0\\0\\0\\1\\0" or len(text["spacing"].split("\\")) != 2:
            return None
        slope, intercept = float(text.get("slope", 1)), float(text.get("intercept", 0))
        slices.append((place_of, pixels.T * slope + intercept, text["spacing"], text["series"]))
    slices.sort(key=lambda one: one[0][2])
    if any(one[0][:2] != slices[0][0][:2] for one in slices):
        return None  # a tilt within the tolerance of a grid, or a refusal
    voxels = np.stack([one[1] for one in slices], axis=-1)
    rows, columns = (float(x) for x in slices[0][2].split("\\"))
    step = (slices[-1][0][2] - slices[0][0][2]) / (len(slices) - 1)
    first = np.array(slices[0][0]) * [-1, -1, 1]
    return voxels, np.array([columns, rows, step]), first


def judge(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """A series through the check, and its written label map."""
    path, form = write(folder, base, changes), Volumes(3)
    label_map = LabelMap(("background", "a"))
    check_cases([Case("x", path, None)], label_map=label_map, num_channels=1, file_format=form, memory=None)
    voxels, grid = form.read_image(path)
    labels = (voxels[0] > 0).astype(np.uint8)
    written = form.save_labels(folder / "out" / "x", labels, like=path)
    found = [] if np.array_equal(form.read_label(written)[0], labels) else ["written labels differ"]
    if base["zip"] or any(what in ("junk", "zip") for what, _, _ in changes):
        same = changes or voxels.shape[1:] == SHAPE
        return found if same else ["another shape"]
    try:
        truth = reading([file.read_bytes() for file in sorted(path.iterdir())])
    except (ValueError, KeyError, struct.error, UnicodeDecodeError, IndexError, ZeroDivisionError):
        return [*found, "accepted, but an element is missing or not whole"]
    if truth is None:
        return found
    if voxels[0].shape != truth[0].shape or not np.allclose(voxels[0], truth[0], rtol=1e-4, atol=1e-4):
        found.append("voxels differ from the standard's")
    if not np.allclose(grid.spacing, truth[1], rtol=1e-4) or not np.allclose(grid.affine[:3, 3], truth[2], rtol=1e-4):
        found.append("spacing or place differ from the standard's")
    return found


KINDS = {"dicom": Kind(draw, judge)}
