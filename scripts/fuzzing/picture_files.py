"""Pictures: honest ones, changes to them, and for PNG what the standard says that a file holds."""

import io
import math
import struct
import zlib

import numpy as np
from PIL import Image

from fuzzing.damage import PLAIN, damaged
from fuzzing.kind import Change, drawn, place

MODES = ["RGB", "RGB", "L", "L", "1", "P", "RGBA", "I;16", "CMYK", "LA"]
# by mode: PNG's colour types and channels
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
EXIF = [1, 3, 6, 8, 5, 0, 9, 77]
CHUNKS = [b"zTXt", b"iTXt", b"iCCP", b"tRNS", b"PLTE", b"eXIf", b"acTL", b"IHDR", b"IEND", b"IDAT"]
SIZES = [0, 1, 7, 9000, 13000, 60000, 1 << 30, (1 << 32) - 1]


def draw_file(rng: np.random.Generator) -> dict:
    return {
        "mode": drawn(rng, MODES),
        "shape": rng.integers(2, 30, 2).tolist(),
        "kind": drawn(rng, ["png", "png", "png", "jpg", "jpg", "tif", "tif", "bmp", "gif", "webp"]),
        "packing": drawn(rng, ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]),
        "exif": drawn(rng, [None, None, None, *EXIF]),
        "seed": place(rng),
        "mask": bool(rng.random() < 0.4),
    }


def draw_changes(rng: np.random.Generator) -> list[Change]:
    found: list[Change] = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 2])):
        what = drawn(rng, [*PLAIN, *PLAIN, "size", "chunk", "field", "field", "pages"])
        found.append((what, place(rng), int(rng.integers(1, 256))))
    return found


def levels_of(base: dict) -> np.ndarray:
    """What the picture shows: 0 or 255 (H, W)."""
    return (np.random.default_rng(base["seed"]).integers(0, 2, base["shape"]) * 255).astype(np.uint8)


def file_bytes(base: dict, changes: list[Change]) -> bytes:
    image = Image.fromarray(levels_of(base))
    image = (
        Image.fromarray(levels_of(base).astype(np.uint16)) if base["mode"] == "I;16" else image.convert(base["mode"])
    )
    options: dict = {}
    if base["exif"] is not None and base["kind"] in ("png", "jpg", "webp", "tif"):
        exif = Image.Exif()
        exif[274] = base["exif"]
        options["exif"] = exif
    if base["kind"] == "tif":
        options["compression"] = base["packing"]
        if any(what == "pages" for what, _, _ in changes):
            options |= {"save_all": True, "append_images": [image]}
    buffer = io.BytesIO()
    try:
        image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(base["kind"], base["kind"].upper()), **options)
    except (OSError, ValueError, KeyError, RuntimeError):
        buffer = io.BytesIO()
        image.convert("L").save(buffer, "PNG")
    data = buffer.getvalue()
    for what, at, value in changes:
        data = changed(data, what, at=at, value=value)
    return damaged(data, changes)


def changed(data: bytes, what: str, *, at: int, value: int) -> bytes:
    """The bytes after a change of structure, with right checksums."""
    if what == "size" and data[:4] == b"\x89PNG":
        size = struct.pack(">II", SIZES[at % 8], SIZES[value % 8])
        head = data[12:16] + size + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    if what == "size" and data[:2] == b"\xff\xd8" and (i := data.find(b"\xff\xc0")) > 0:
        return data[: i + 5] + struct.pack(">HH", SIZES[at % 6], SIZES[value % 6]) + data[i + 9 :]
    if what == "chunk" and data[:4] == b"\x89PNG":
        body = CHUNKS[at % len(CHUNKS)] + bytes((at * k) % 256 for k in range(value % 40))
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:33] + chunk + data[33:]
    if what in ("field", "size") and data[:4] == b"II*\0" and len(data) > 8:
        directory = int.from_bytes(data[4:8], "little")
        count = int.from_bytes(data[directory : directory + 2], "little")
        i = directory + 2 + 12 * (at % max(1, count)) + (0, 2, 4, 8)[value % 4]
        new = struct.pack("<I", (SIZES + [2, 3, 256, 259])[at // 7 % 12])
        return data[:i] + new[: 2 if value % 4 < 2 else 4] + data[i + (2 if value % 4 < 2 else 4) :]
    return data


def png_levels(data: bytes) -> np.ndarray | str:
    """Values (H, W, channels) of a PNG as the standard says, or why it must be refused. No interlacing."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, body, check = data[at + 4 : at + 8], data[at + 8 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if len(kind) < 4 or len(body) < size or len(check) < 4:
            return "a chunk ends early"
        if zlib.crc32(kind + body) != int.from_bytes(check, "big"):
            return f"a wrong checksum of {'a critical' if kind[:1].isupper() else 'another'} chunk"
        chunks.append((kind, body))
        at += 12 + size
        if kind == b"IEND":
            break
    kinds = [kind for kind, _ in chunks]
    if (
        not chunks
        or kinds[0] != b"IHDR"
        or kinds.count(b"IHDR") != 1
        or kinds[-1] != b"IEND"
        or len(chunks[0][1]) != 13
    ):
        return "no whole PNG"
    width, height, bits, colour, packing, filters, lace = struct.unpack(">IIBBBBB", chunks[0][1])
    if packing or filters or lace or colour not in CHANNELS or not 0 < width * height < 1 << 24:
        return "another PNG"
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    except zlib.error:
        return "damaged pixels"
    step = max(1, CHANNELS[colour] * bits // 8)
    length = math.ceil(width * CHANNELS[colour] * bits / 8)
    rows = rows[: height * (length + 1)]  # more of them is no fault by the standard
    if not unpacker.eof or len(rows) < height * (length + 1):
        return "more or fewer pixels than the header says"
    return unfiltered(np.frombuffer(rows, np.uint8).reshape(height, length + 1), step=step)


def unfiltered(rows: np.ndarray, *, step: int) -> np.ndarray | str:
    """Bytes of the rows (H, length) from filtered ones with the kind of filter before each."""
    found = np.zeros((len(rows) + 1, rows.shape[1] - 1 + step), np.int64)
    for y, row in enumerate(rows.astype(np.int64), start=1):
        for x, value in enumerate(row[1:], start=step):
            left, up, corner = found[y, x - step], found[y - 1, x], found[y - 1, x - step]
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda one: abs(guess - one))
            if row[0] > 4:
                return "no such filter"
            found[y, x] = (value + (0, left, up, (left + up) // 2, paeth)[row[0]]) % 256
    return found[1:, step:]
