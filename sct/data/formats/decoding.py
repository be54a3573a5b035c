"""Decodes a picture with Pillow, once its claims are checked; what Pillow raises becomes one error with the name.

Pillow reads the pixels of a damaged PNG without a look at their checksums, and takes memory for any size that a header
claims, up to 179 million pixels.
"""

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from sct.data.formats.gzipped import DENSEST
from sct.errors import UserError

UPRIGHT = 1
# by what is in a file, whatever its ending; Pillow knows kinds that start other programs
READ = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
_PNG = b"\x89PNG\r\n\x1a\n"
# bytes that one byte of a file can stand for: a line of one colour in a fax, a picture of one colour in WebP
_DENSEST = {"PNG": DENSEST, "JPEG": DENSEST, "MPO": DENSEST, "TIFF": 1 << 15, "BMP": 1 << 8, "GIF": 1 << 12}
_SMALL = 1 << 22  # bytes that need no check


def decode(path: Path, *, pixels: bool = True) -> Image.Image:
    """The picture, upright as its camera says (EXIF); UserError that names the file.

    pixels: False reads the header alone, of which size and mode are right
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: the file does not exist. Restore it or take the case out.") from None
    if content.startswith(_PNG):
        check_chunks(content, path=path)
    try:
        # not from the path: Pillow would map a grey TIFF and mix up rows and columns where it is turned
        with Image.open(BytesIO(content), formats=READ) as image:
            kind = image.format or ""
            # a photograph of a phone may hold a smaller copy of itself, which is no page
            pages = getattr(image, "n_frames", 1) if kind == "TIFF" else 1
            size = image.width * image.height * len(image.getbands())
            if pages == 1 and not is_too_large(size, stored=len(content), kind=kind):
                turned = orientation(image)
                if pixels:
                    image.load()
                    return ImageOps.exif_transpose(image) if orientation(image) != UPRIGHT else image
                # Pillow gives the size of a TIFF upright
                return image if turned == UPRIGHT or kind == "TIFF" else ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises many kinds
        raise unreadable(path, f"{type(error).__name__}: {error}") from error
    if pages != 1:
        raise UserError(f"{path}: holds {pages} pictures. Store each in a file of its own.")
    raise unreadable(path, f"a size of {image.width} x {image.height} pixels in {len(content)} bytes")


def is_too_large(size: int, *, stored: int, kind: str) -> bool:
    """Whether a file of `stored` bytes can't hold `size` numbers, for which nobody has reserved memory yet."""
    return size > max(_SMALL, _DENSEST.get(kind, 1 << 20) * stored)


def check_chunks(content: bytes, *, path: Path) -> None:
    """UserError unless every chunk of a PNG is whole and has the checksum that was written with it."""
    view, at = memoryview(content), len(_PNG)
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", view, at)
        end = at + 12 + size
        name = content[at + 4 : at + 8]
        if end > len(content):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", view, end - 4)[0]:
            raise unreadable(path, f"the checksum of its chunk {name.decode('ascii', 'replace')} is wrong")
        if name == b"IEND":
            return
        at = end
    raise unreadable(path, "it ends before its chunk IEND")


def unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: cannot be read as a picture ({reason}). It is empty, truncated, damaged or of another format: copy "
        "or download it again."
    )


def orientation(image: Image.Image) -> int:
    """What a camera wrote about how it was held, 1 to 8; `UPRIGHT` where it wrote nothing that makes sense."""
    found = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    return found if found in range(1, 9) else UPRIGHT
