"""Changes to the bytes of any file, whatever it holds."""

import gzip

import numpy as np

from fuzzing.kind import Change, drawn, place

PLAIN = ("flip", "flip", "flip", "truncate", "insert", "zero", "overwrite", "double", "garbage", "empty")
# of a gzip file
PACKED = (*PLAIN, "crc", "isize", "gzflags", "deflate_end", "member", "half_member", "zeros")


def draw_damage(rng: np.random.Generator, names: tuple[str, ...] = PLAIN, *, share: float = 1.0) -> list[Change]:
    """No change, one or two; `share`: how often there is any."""
    if rng.random() >= share:
        return []
    number = drawn(rng, (1, 1, 1, 2))
    return [(drawn(rng, names), place(rng), int(rng.integers(1, 256))) for _ in range(number)]


def damaged(data: bytes, changes: list[Change]) -> bytes:
    """The bytes after all changes that are known here; the others are left to the kind."""
    for what, at, value in changes:
        data = _damaged(bytearray(data), what, at=at % max(1, len(data)), value=value)
    return bytes(data)


def _damaged(data: bytearray, what: str, *, at: int, value: int) -> bytearray:
    match what:
        case "truncate":
            del data[at:]
        case "flip" if data:
            data[at] ^= 1 << value % 8
        case "insert":
            data[at:at] = bytes((value * k) % 256 for k in range(value % 9 + 1))
        case "zero":
            data[at : at + 7] = bytes(len(data[at : at + 7]))
        case "overwrite":
            data[at : at + 8] = bytes([value]) * len(data[at : at + 8])
        case "double":
            data[at:at] = data[at : at + value]
        case "garbage":
            data += bytes((at >> shift & 255) | 1 for shift in (0, 8, 16)) * value
        case "zeros":
            data += bytes(value)
        case "empty":
            data.clear()
        case "crc" if len(data) > 8:
            data[-8] ^= value
        case "isize" if len(data) > 4:
            data[-4] ^= value
        case "gzflags" if len(data) > 4:
            data[3] = value
        case "deflate_end" if len(data) > 16:
            del data[-8 - value % 8 : -8]
        case "member":
            data += gzip.compress(bytes(value))
        case "half_member":
            data += gzip.compress(bytes(1000))[: -value % 20 - 1]
    return data
