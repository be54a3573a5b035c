"""Files: digests say whether a file still is what was written."""

import errno
import os
import zlib

import pytest

from sct.runtime import files
from sct.runtime.files import append_line, checksum, file_digest, folder_digests, remembered, write_remembered

# of the bytes "abc", by FIPS 180-2
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == ABC


def test_a_folder_has_a_digest_for_every_file_by_its_path(tmp_path):
    (tmp_path / "models").mkdir()
    for name in ("a.json", "models/b.pt"):
        (tmp_path / name).write_bytes(b"abc")
    assert folder_digests(tmp_path) == {"a.json": ABC, "models/b.pt": ABC}


def test_a_checksum_is_the_crc_of_all_or_of_the_first_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIECE", 7)
    (tmp_path / "file").write_bytes(b"some bytes that are read in pieces")
    assert checksum(tmp_path / "file") == zlib.crc32(b"some bytes that are read in pieces")
    assert checksum(tmp_path / "file", end=9) == zlib.crc32(b"some byte")


@pytest.mark.parametrize("content", [["a", "b"], {"key": [1.5, 0.1, -1e-300]}])
def test_what_is_remembered_is_the_same_or_made_again(tmp_path, caplog, content):
    path = tmp_path / "memory.json"
    assert remembered(None) is None
    assert remembered(path) is None
    write_remembered(path, content)
    assert remembered(path) == content
    assert not caplog.text
    text = path.read_text()
    changed = text.replace('["a', '["c').replace("1.5", "1.7")
    for damaged in (changed, text[:-1], "null", "[1]", '{"digest": 1}', "\xff"):
        caplog.clear()
        path.write_bytes(damaged.encode("latin-1"))
        assert remembered(path) is None
        assert f"{path} is damaged" in caplog.text


def test_a_line_is_appended_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "rows"
    append_line(path, "one")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="full"):
            append_line(path, "two")
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_room_on_the_disk_is_found(tmp_path, monkeypatch):
    assert files.why_full(tmp_path) is None
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    assert files.why_full(tmp_path).errno == errno.EDQUOT


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    names = ("file", ".123-file", ".lock", ".a-b")
    for name in names:
        (tmp_path / name).touch()
    files.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {".123-file"}
