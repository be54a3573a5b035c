"""The elements of a DICOM file, walked through without their values: whether each lies in the file, and its size.

GDCM takes memory for any length that an element claims. DICOM PS3.5, section 7.
"""

import mmap
import struct
from pathlib import Path

from sct.errors import UserError

IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
# what two letters before a length of four bytes say
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
_SHORT = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL"}
_SHORT |= {b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
_SYNTAX, _ITEM, _ITEM_END, _SEQUENCE_END = (0x0002, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_PIXELS = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
_BEGIN, _DEEPEST = 132, 32


class _Broken(Exception):
    """An element that does not lie in the file."""


def check_elements(path: Path) -> int | None:
    """Bytes of the pixels of a DICOM file, or None where they are packed.

    UserError for a file with an element that is longer than what is left of the file, or of what holds it.
    """
    sizes: dict[tuple[int, int], int] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            begin, syntax = _meta(data)
            if syntax != DEFLATED:
                order = ">" if syntax == BIG else "<"
                _walk(data, begin, len(data), order=order, explicit=syntax != IMPLICIT, depth=0, sizes=sizes)
        except (_Broken, struct.error) as error:
            raise UserError(
                f"{path}: cannot be read as DICOM ({error}). It is truncated or damaged: copy it again, or take it out."
            ) from None
    if syntax == DEFLATED or sizes.get(_PIXELS) == _UNDEFINED:
        return None
    return sizes.get(_PIXELS, 0)


def _meta(data: mmap.mmap) -> tuple[int, str]:
    """Where the elements behind the head (group 2) begin, and how they are written."""
    at, syntax = _BEGIN, IMPLICIT
    while at + 8 <= len(data) and data[at : at + 2] == b"\x02\0":
        tag, size, value, _ = _header(data, at, len(data), order="<", explicit=True)
        if tag == _SYNTAX:
            syntax = data[value : value + size].decode("ascii", "replace").strip("\0 ")
        at = value + size
    return at, syntax


def _header(
    data: mmap.mmap, at: int, end: int, *, order: str, explicit: bool
) -> tuple[tuple[int, int], int, int, bytes]:
    """Tag, length, place of the value and letters of an element; its value lies before `end`."""
    tag = struct.unpack_from(order + "HH", data, at)
    letters = data[at + 4 : at + 6] if explicit and tag[0] != 0xFFFE else b""
    if not letters or letters in _LONG:
        value = at + (12 if letters else 8)
        (size,) = struct.unpack_from(order + "I", data, value - 4)
    else:
        value = at + 8
        (size,) = struct.unpack_from(order + "H", data, value - 2)
    if letters and letters not in _LONG | _SHORT:
        raise _Broken(f"the element ({tag[0]:04x},{tag[1]:04x}) is of no type")
    if size != _UNDEFINED and value + size > end:
        raise _Broken(f"the element ({tag[0]:04x},{tag[1]:04x}) claims {size} bytes, {end - value} are left")
    return tag, size, value, letters


def _walk(
    data: mmap.mmap,
    at: int,
    end: int,
    *,
    order: str,
    explicit: bool,
    depth: int,
    item: bool = False,
    sizes: dict[tuple[int, int], int] | None = None,
) -> int:
    """Walks elements from `at` to `end`, or to the end of an item of undefined length; returns where.

    sizes: the lengths of the elements are written to it
    """
    if depth > _DEEPEST:
        raise _Broken("sequences are nested too deeply")
    while at < end:
        tag, size, value, letters = _header(data, at, end, order=order, explicit=explicit)
        if tag == _ITEM_END and item:
            return value
        if sizes is not None:
            sizes[tag] = size
        holds = letters == b"SQ" or (size >= 8 and struct.unpack_from(order + "HH", data, value) == _ITEM)
        if size == _UNDEFINED or (holds and letters in (b"SQ", b"")):
            # of unknown type (UN) the items are written in the implicit way
            inner = explicit and letters != b"UN"
            stop = end if size == _UNDEFINED else value + size
            at = _items(data, value, stop, order=order, explicit=inner, depth=depth + 1, open_end=size == _UNDEFINED,
                        is_pixels=tag == _PIXELS)  # fmt: skip
        else:
            at = value + size
    if item:
        raise _Broken("an item has no end")
    return at


def _items(
    data: mmap.mmap, at: int, end: int, *, order: str, explicit: bool, depth: int, open_end: bool, is_pixels: bool
) -> int:
    """Walks the items of a sequence; those of packed pixels hold bytes and no elements."""
    while at < end:
        tag, size, value, _ = _header(data, at, end, order=order, explicit=False)
        if tag == _SEQUENCE_END and open_end:
            return value
        if tag != _ITEM:
            raise _Broken(f"({tag[0]:04x},{tag[1]:04x}) stands where an item should")
        if size == _UNDEFINED:
            at = _walk(data, value, end, order=order, explicit=explicit, depth=depth, item=True)
        elif is_pixels:
            at = value + size
        else:
            at = _walk(data, value, value + size, order=order, explicit=explicit, depth=depth)
    if open_end:
        raise _Broken("a sequence has no end")
    return at
