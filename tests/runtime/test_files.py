"""Files: digests say whether a file still is what was written."""

from sct.runtime.files import file_digest, folder_digests

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
