"""Who a case is: unique ids, raters, and errors that name both files."""

from pathlib import Path

import pytest

from sct.data.cases import Case
from sct.data.formats.base import Nifti
from sct.data.identity import check_ids, name_cases
from sct.data.sets.btcv import _number
from sct.data.splits import split_by_file
from sct.errors import UserError

ROOT = Path("/data")
STEM = Nifti(3).stem


def named(*pairs):
    return [
        (case.id, case.rater, case.name)
        for case in name_cases([(ROOT / image, ROOT / label) for image, label in pairs], root=ROOT, stem=STEM)
    ]


def test_an_id_is_the_stem_where_stems_differ():
    assert named(("img/a.nii.gz", "lab/a.nii.gz"), ("img/b.nii", "lab/b.nii")) == [("a", None, "a"), ("b", None, "b")]


def test_where_stems_are_shared_ids_are_relative_paths():
    found = named(("one/x.nii.gz", "l1/x.nii.gz"), ("two/x.nii.gz", "l2/x.nii.gz"), ("y.nii.gz", "l/y.nii.gz"))
    assert [name for _, _, name in found] == ["one/x", "two/x", "y"]


def test_several_label_files_of_an_image_are_raters_of_one_id():
    found = named(("i/a.nii", "r1/a.nii"), ("i/a.nii", "r2/a.nii"), ("i/b.nii", "r1/b.nii"))
    assert found == [("a", "r1", "a@r1"), ("a", "r2", "a@r2"), ("b", None, "b")]
    found = named(("i/a.nii", "l/a_anna.nii"), ("i/a.nii", "l/a_ben.nii"))
    assert [rater for _, rater, _ in found] == ["a_anna", "a_ben"]


@pytest.mark.parametrize(
    "cases",
    [
        [Case("a", Path("1/a.nii"), Path("l/a.nii")), Case("a", Path("2/a.nii"), Path("m/a.nii"))],
        name_cases([(ROOT / "a.nii", ROOT / "l.nii")] * 2, root=ROOT, stem=STEM),
        name_cases([(ROOT / "a.nii", ROOT / "l.nii"), (ROOT / "a.nii.gz", ROOT / "m.nii")], root=ROOT, stem=STEM),
    ],
)
def test_two_cases_of_one_name_are_an_error_that_names_both(cases):
    with pytest.raises(UserError) as error:
        check_ids(cases)
    for case in cases:
        assert f"{case.image} with {case.label}" in str(error.value)


def test_a_split_that_names_an_id_takes_all_its_raters(tmp_path):
    cases = [
        Case("a", Path("a"), Path("1"), "anna"),
        Case("a", Path("a"), Path("2"), "ben"),
        Case("b", Path("b"), None),
    ]
    file = tmp_path / "split.json"
    file.write_text('{"train": ["a"], "val": ["b"], "test": ["b"]}')
    assert split_by_file(cases, split=str(file))["train"] == cases[:2]


@pytest.mark.parametrize(
    ("name", "number"),
    [("img0001.nii.gz", "0001"), ("img10001.nii.gz", "10001"), ("a1_b2.nii", "a1_b2"), ("x.nii", "x")],
)
def test_numbers_of_btcv_are_read_whole(name, number):
    assert _number(Path(name)) == number
