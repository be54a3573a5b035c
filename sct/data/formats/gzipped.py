"""gzip files by Intel's ISA-L: a CT is unpacked in two fifths of zlib's time, its labels packed in a sixth.

Python's own gzip stands in on the few platforms for which the package does not exist.
"""

import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from sct.errors import UserError

_packer: ModuleType = zlib
try:
    from isal import isal_zlib as _packer
    from isal.igzip import IGzipFile as GzipFile
    from isal.isal_zlib import error as _IsalError

    # what they raise of a file that is no gzip, ends early or is damaged
    ERRORS: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, _IsalError)  # type: ignore[assignment]
except ImportError:
    from gzip import GzipFile  # type: ignore[assignment]

    ERRORS = (EOFError, OSError, zlib.error)

__all__ = ["ERRORS", "GzipFile", "check_unpacked_size"]

# deflate packs at most this many bytes into one
DENSEST = 1032
_CHUNK = 1 << 20


def decompressor(window_bits: int) -> Any:
    """What unpacks a stream of deflate piece by piece, as `zlib.decompressobj`."""
    return _packer.decompressobj(window_bits)


def check_unpacked_size(path: Path, *, claimed: int, what: str) -> None:
    """UserError unless a gzip file holds as many bytes as its header claims, which nobody has reserved memory for yet.

    what: how the claim comes about, for the message. The gzip file says its size itself, in its last four bytes. Where
    that is another number, as in files of several members, the file is unpacked once to count.
    """
    packed = path.stat().st_size
    if claimed > DENSEST * packed:
        raise UserError(
            f"{path}: {what} make {claimed} bytes, but its {packed} bytes of gzip can hold {DENSEST * packed} at most. "
            "It is truncated or damaged: copy or download it again."
        )
    with path.open("rb") as file:
        file.seek(max(0, packed - 4))
        if int.from_bytes(file.read(4), "little") == claimed % 2**32:
            return
    check_size(path, size=_counted(path, most=claimed), claimed=claimed, what=what)


def check_size(path: Path, *, size: int, claimed: int, what: str) -> None:
    """UserError unless a file of `size` bytes, unpacked, has as many as its header claims."""
    if size == claimed:
        return
    state = "holds more: either is wrong" if size > claimed else f"has {size}: it is truncated"
    raise UserError(
        f"{path}: {what} make {claimed} bytes, but the file {state}. Copy or download it again, or convert it anew."
    )


def _counted(path: Path, *, most: int) -> int:
    """Bytes of a gzip file when it is unpacked; counting ends above `most`."""
    count = 0
    with GzipFile(path) as stream:
        while count <= most and (chunk := stream.read(_CHUNK)):
            count += len(chunk)
    return count
