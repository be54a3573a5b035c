"""Which images are predicted, what they are called, and where their label maps go."""

from pathlib import Path

import pytest

from sct.data.formats.base import Nifti
from sct.data.formats.pictures import Pictures
from sct.errors import UserError
from sct.inference.inputs import find_inputs, label_paths

NIFTI = Nifti(3)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def ids(path: Path, **settings: bool) -> list[str]:
    return [case.id for case in find_inputs(path, file_format=NIFTI, **settings)]


def test_folders_below_are_read_where_asked(tmp_path):
    root = touch(tmp_path, "a.nii.gz", "p1/b.nii.gz", "p2/c.nii", "p2/notes.csv", ".hidden/d.nii.gz", "p1/._b.nii.gz")
    assert ids(root) == ["a"]
    assert sorted(ids(root, recursive=True)) == ["a", "b", "c"]
    with pytest.raises(UserError, match="recursive=true also looks"):
        ids(touch(tmp_path / "x", "y/a.nii.gz"))


def test_names_that_repeat_are_told_apart_by_their_folders(tmp_path):
    root = touch(tmp_path / "in", "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/flair.nii.gz")
    cases = find_inputs(root, file_format=NIFTI, recursive=True)
    assert [case.id for case in cases] == ["p1/t1", "p2/flair", "p2/t1"]
    paths = label_paths(cases, output=tmp_path / "out", file_format=NIFTI)
    assert paths["p2/t1"] == tmp_path / "out/p2/t1.nii.gz"
    assert len(set(paths.values())) == 3


def test_links_are_called_as_they_are_called_here(tmp_path):
    store = touch(tmp_path / "store", "x1.nii.gz", "x2.nii.gz")
    for number in (1, 2):
        place = tmp_path / f"in/p{number}/t1.nii.gz"
        place.parent.mkdir(parents=True)
        place.symlink_to(store / f"x{number}.nii.gz")
    assert ids(tmp_path / "in", recursive=True) == ["p1/t1", "p2/t1"]


def test_a_list_of_any_system(tmp_path, monkeypatch):
    touch(tmp_path, "p1/mü ller.nii.gz", "p2/b.nii.gz", "folder/c.nii.gz")
    entries = "p1/mü ller.nii.gz\r\n\r\np2\\b.nii.gz\r\nfolder\r\nmissing.nii.gz\r\np2/b.nii.gz\r\n"
    (tmp_path / "list.txt").write_text(entries, encoding="utf-8-sig", newline="")
    assert ids(tmp_path / "list.txt") == ["mü ller", "b", "c", "missing"], "that one is missing is told in its turn"
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "lists/list.txt"
    elsewhere.parent.mkdir()
    elsewhere.write_text(f"p2/b.nii.gz\n{tmp_path}/folder/c.nii.gz\n")
    assert [case.image for case in find_inputs(elsewhere, file_format=NIFTI)] == [
        *(Path("p2/b.nii.gz"), tmp_path / "folder/c.nii.gz")
    ]


def test_names_that_repeat_in_a_list_are_paths_below_the_common_folder(tmp_path):
    touch(tmp_path, "site1/p/t1.nii.gz", "site2/p/t1.nii.gz")
    (tmp_path / "list.txt").write_text("site1/p/t1.nii.gz\nsite2/p/t1.nii.gz\n")
    assert ids(tmp_path / "list.txt") == ["site1/p/t1", "site2/p/t1"]


def test_a_line_that_means_nothing_is_told(tmp_path):
    (tmp_path / "list.txt").write_text("a.nii.gz\nnotes.docx\n")
    with pytest.raises(UserError, match=r"lists .*notes\.docx"):
        ids(tmp_path / "list.txt")


def test_files_that_differ_in_their_ending_alone_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds both"):
        ids(touch(tmp_path, "a.nii", "a.nii.gz"))


def one(tmp_path: Path) -> list:
    return find_inputs(touch(tmp_path / "one", "a.nii.gz") / "a.nii.gz", file_format=NIFTI)


@pytest.mark.parametrize("name", ["pred.nii.gz", "x/PRED.NII", "pred.nii"])
def test_one_label_map_goes_to_the_file_that_is_named(tmp_path, name):
    assert label_paths(one(tmp_path), output=tmp_path / name, file_format=NIFTI) == {"a": tmp_path / name}


def test_a_folder_may_be_called_as_a_file(tmp_path):
    (tmp_path / "out.nii.gz").mkdir()
    paths = label_paths(one(tmp_path), output=tmp_path / "out.nii.gz", file_format=NIFTI)
    assert paths == {"a": tmp_path / "out.nii.gz/a.nii.gz"}
    assert label_paths(one(tmp_path), output=tmp_path / "v1.2", file_format=NIFTI)["a"].parent.name == "v1.2"


def test_what_can_not_be_written_is_told_before(tmp_path):
    touch(tmp_path, "file", "two/a.nii.gz", "two/b.nii.gz")
    for name in ("file", "pred.mha", "pred.png"):
        with pytest.raises(UserError, match=r"end in \.nii\.gz or \.nii"):
            label_paths(one(tmp_path), output=tmp_path / name, file_format=NIFTI)
    two = find_inputs(tmp_path / "two", file_format=NIFTI)
    with pytest.raises(UserError, match="one file, but there are 2 images"):
        label_paths(two, output=tmp_path / "pred.nii.gz", file_format=NIFTI)
    with pytest.raises(UserError, match="overwrite the input"):
        label_paths(one(tmp_path), output=tmp_path / "one/a.nii.gz", file_format=NIFTI)
    (tmp_path / "link").symlink_to(tmp_path / "two")
    with pytest.raises(UserError, match="overwrite the input"):
        label_paths(two, output=tmp_path / "link", file_format=NIFTI)
    pictures = find_inputs(touch(tmp_path / "p", "a.jpg") / "a.jpg", file_format=Pictures(2))
    with pytest.raises(UserError, match=r"end in _segmentation\.png or \.png"):
        label_paths(pictures, output=tmp_path / "mask.jpg", file_format=Pictures(2))
