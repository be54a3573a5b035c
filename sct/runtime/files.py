"""Atomic writing: a file is either complete or absent. Sums: whether a file still is what was written. Full disks."""

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sct.runtime.full_disk import FULL

try:  # several times as fast; not on every kind of processor
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

logger = logging.getLogger(__name__)

# bytes that a disk has room for unless it is full, and bytes that are read at a time
_ROOM, _PIECE = 2**20, 2**22


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; it is renamed to `path` when the block succeeds, else removed.

    The temporary name has the suffix of `path`, since writers choose their format by the suffix. The folder is made.
    OSError with the system's reason if the disk is full, whatever the block raises then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with full_disk_told(path.parent):
            yield temporary
            with temporary.open("rb+") as file:  # Windows flushes only files that are open for writing
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes have left of `atomic` in a folder in which no other process writes."""
    for path in folder.glob(".*-*"):
        if path.name[1:].partition("-")[0].isdigit():
            path.unlink(missing_ok=True)


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Raises OSError with the system's reason if the block fails because the disk of `folder` is full.

    torch, numpy and others raise their own errors after a write that was cut short. What is half-written must still
    be there when the block ends: it is what fills the disk.
    """
    try:
        yield
    except Exception as error:
        reason = None if getattr(error, "errno", None) is not None else why_full(folder)
        if reason is None:
            raise
        raise reason from error


def why_full(folder: Path) -> OSError | None:
    """What the system says to a file of 1 MiB in a folder if there is no room for it; else None."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return OSError(error.errno, os.strerror(error.errno), str(folder)) if error.errno in FULL else None
    return None


def flush_folder(folder: Path) -> None:
    """Waits until the file names in a folder are on the disk; Windows can't open folders and does this by default."""
    if platform.system() == "Windows":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Appends a line to a text file and waits until it is on the disk; all of the line or, with OSError, none."""
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        data = memoryview(f"{line}\n".encode())
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def checksum(path: Path, *, end: int | None = None) -> int:
    """The CRC-32 of a file, or of its first `end` bytes: it notices damage, not intention, at the speed of the disk."""
    total, rest = 0, path.stat().st_size if end is None else end
    piece = memoryview(bytearray(min(_PIECE, rest)))
    with path.open("rb", buffering=0) as file:
        while rest and (number := file.readinto(piece[:rest])):
            total, rest = crc32(piece[:number], total), rest - number
    return total


def checksums(folder: Path) -> dict[str, int]:
    """The checksum of every file in a folder, by name."""
    return {path.name: checksum(path) for path in sorted(folder.iterdir())}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal; the file is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder, by its path within the folder, with slashes on every system."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def json_digest(value: object) -> str:
    """The SHA-256 of a value that JSON can hold; the order of keys does not matter."""
    as_read = json.loads(json.dumps(value))  # keys are then text, and text is sorted otherwise than numbers
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_remembered(path: Path, content: Any) -> None:
    """Writes what was found out once, JSON values, for `remembered`."""
    write_text(path, json.dumps({"digest": json_digest(content), "content": content}))


def remembered(path: Path | None) -> Any:
    """What `write_remembered` wrote; None if there is no file or, with a warning, if it is damaged: make it again."""
    if path is None or not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        if found["digest"] == json_digest(found["content"]):
            return found["content"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    logger.warning("%s is damaged or of an earlier version: it is made again", path)
    return None
