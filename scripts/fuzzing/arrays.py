"""The kinds `npz` (a slice of Synapse) and `h5` (a volume of it)."""

import io
import struct
import zipfile
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from fuzzing.damage import PLAIN, damaged
from fuzzing.kind import Change, Kind, drawn, place
from fuzzing.nifti import LABELS
from sct.data.cases import Case
from sct.data.check import check_cases
from sct.data.sets.synapse_files import SynapseFiles

SPACINGS = [0, -1, 0.5, 1e-9, 1e6, np.nan, np.inf]
ARRAYS = ["text", "object", "complex", "axes", "scalar", "dates", "fields", "other_shape", "nan", "big", "none", "half"]
LAYOUTS = ["claims", "external", "link", "virtual", "group", "checks", "missing"]


def draw(rng: np.random.Generator, *, kind: str) -> tuple[dict, list[Change]]:
    shape = rng.integers(2, 8, 2 if kind == "npz" else 3).tolist()
    base = {"kind": kind, "shape": shape, "type": drawn(rng, ["f4", "f8", "f2", "i2"]), "seed": place(rng)}
    base |= {"packed": bool(rng.random() < 0.7), "spacing": bool(rng.random() < 0.7)}
    found: list[Change] = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 2])):
        names = ["array", "spacing", "claims", "twice"] if kind == "npz" else ["array", "spacing", "layout", "layout"]
        what = drawn(rng, [*PLAIN, *PLAIN, *names])
        value = {"array": ARRAYS, "spacing": SPACINGS, "layout": LAYOUTS}.get(what)
        found.append((what, place(rng), drawn(rng, value) if value else int(rng.integers(1, 256))))
    return base, found


def arrays_of(base: dict, changes: list[Change]) -> dict[str, np.ndarray | None]:
    rng, shape = np.random.default_rng(base["seed"]), base["shape"]
    image = (rng.random(shape) * 50).astype(base["type"])
    found = {"image": image, "label": rng.integers(0, 3, shape).astype(np.uint8)}
    spacing = np.array([3.0, 0.7, 0.8])
    for what, at, value in changes:
        if what == "array":
            name = ("image", "label")[at % 2]
            own = image if found[name] is None else found[name]
            own = own if own.dtype.kind in "iufc" and own.ndim else image
            found[name] = {
                "text": np.full(shape, "1.5"),
                "object": np.full(shape, None, dtype=object),
                "complex": own + 1j,
                "axes": own[..., None],
                "scalar": np.array(3.0),
                "dates": np.zeros(shape, "M8[s]"),
                "fields": np.zeros(shape, [("a", "f4")]),
                "other_shape": own[1:],
                "nan": np.where(np.arange(own.size).reshape(own.shape) == 1, np.nan, own.real.astype("f8"))
                if own.dtype.kind in "iufc" and own.ndim
                else own,
                "big": own.astype(own.dtype.newbyteorder(">")),
                "none": None,
                "half": np.full(shape, 0.5, "f4"),
            }[value]
        elif what == "spacing":
            spacing[at % 3] = value
    return found | {"spacing": spacing if base["spacing"] else None}


def write(path: Path, base: dict, changes: list[Change]) -> None:
    arrays = {name: array for name, array in arrays_of(base, changes).items() if array is not None}
    if base["kind"] == "npz":
        buffer = io.BytesIO()
        (np.savez_compressed if base["packed"] else np.savez)(buffer, **arrays)
        data = buffer.getvalue()
        for what, at, _ in changes:
            data = changed(data, what, at=at)
    else:
        write_h5(path, arrays, base, changes)
        data = path.read_bytes()
    path.write_bytes(damaged(data, changes))


def changed(data: bytes, what: str, *, at: int) -> bytes:
    """claims: the header of an array names another shape, under a right checksum · twice: a member is there twice."""
    if what not in ("claims", "twice"):
        return data
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as copy:
        members = [(name, archive.read(name)) for name in archive.namelist()]
        for name, body in members:
            if what == "claims" and name == "image.npy":
                head = body[10 : 10 + struct.unpack("<H", body[8:10])[0]]
                start, end = head.index(b"("), head.index(b")") + 1
                shape = [b"(1500, 1000, 1000)", b"(2, 2)", b"(99999, 99999)", b"(-1, 4)", b"(0, 3)"][at % 5]
                new = head[:start] + shape + head[end:].rstrip(b" \n") + b" \n"
                body = body[:8] + struct.pack("<H", len(new)) + new + body[10 + len(head) :]
            copy.writestr(name, body)
        if what == "twice":
            copy.writestr(members[0][0], members[-1][1])
    return out.getvalue()


def write_h5(path: Path, arrays: dict, base: dict, changes: list[Change]) -> None:
    layouts = {value for what, _, value in changes if what == "layout"}
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["image"] = np.ones(base["shape"], "f4")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if name == "spacing":
                file.attrs[name] = array
            elif name == "image" and layouts:
                write_odd(file, layouts, base["shape"], array)
            elif array.dtype.kind == "U":
                file.create_dataset(name, data=array.astype("S3"))
            elif array.dtype.kind not in "OM":
                file.create_dataset(name, data=array, compression="gzip" if base["packed"] and array.ndim else None)


def write_odd(file: h5py.File, layouts: set[str], shape: list[int], array: np.ndarray) -> None:
    """`image` stored in an unusual way."""
    layout = sorted(layouts)[0]
    if layout == "claims":
        file.create_dataset("image", shape=(1500, 1000, 1000), dtype="f4", chunks=(10, 100, 100), compression="gzip")
    elif layout == "external":
        Path(file.filename).with_name("raw").write_bytes(bytes(4 * int(np.prod(shape))))
        file.create_dataset("image", shape=shape, dtype="f4", external=[("raw", 0, 1 << 20)])
    elif layout == "link":
        file["image"] = h5py.ExternalLink("other.h5", "/image")
    elif layout == "virtual":
        virtual = h5py.VirtualLayout(shape=tuple(shape), dtype="f4")
        virtual[:] = h5py.VirtualSource("other.h5", "image", shape=tuple(shape))
        file.create_virtual_dataset("image", virtual)
    elif layout == "group":
        file.create_group("image")
    elif layout == "missing":
        file.create_dataset("image", shape=shape, dtype="f4", chunks=True, compression="gzip")
    elif array.dtype.kind in "iuf" and array.ndim:
        file.create_dataset("image", data=array, fletcher32=True)


def judge(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """A file through the check as image and label, and a written label map."""
    path, form = folder / ("x.npz" if base["kind"] == "npz" else "x.npy.h5"), SynapseFiles()
    write(path, base, changes)
    check_cases([Case("x", path, path)], label_map=LABELS, num_channels=1, file_format=form, memory=None)
    (image, grid), (label, _) = form.read_image(path), form.read_label(path)
    form.save_labels(folder / "out" / "x", np.zeros(grid.shape, np.uint8), like=path)
    odd = sorted(value for what, _, value in changes if what == "layout")[:1]  # as it was written
    odd = [] if odd == ["checks"] else odd
    names = {what for what, _, _ in changes}
    if odd or ("twice" in names and not names & set(PLAIN)):  # damage may change one of the two names
        return [f"accepted, but {odd or 'an array is there twice'}"]
    truth = arrays_of(base, changes)
    for name, found in (("image", image[0]), ("label", label)):
        own = truth[name]
        if own is None or own.dtype.kind not in "iufb" or own.shape != found.shape:
            return [f"accepted, but {name} is no array of numbers of this shape"]
        # an h5 file has no checksum of its headers and of what is not packed
        sure = base["kind"] == "npz" or not {what for what, _, _ in changes} & set(PLAIN)
        if sure and not np.allclose(found, own.astype("f4"), equal_nan=True):
            return [f"{name} differs"]
    return []


KINDS = {kind: Kind(partial(draw, kind=kind), judge) for kind in ("npz", "h5")}
