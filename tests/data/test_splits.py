"""Split files, shipped and own, and seeded random splits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sct.data import splits
from sct.data.cases import Case
from sct.data.splits import SPLITS, shipped_splits, split_at_random, split_by_file
from sct.errors import UserError

NUMBERS = [*range(1, 11), *range(21, 41)]
TEST_12 = [f"{n:04d}" for n in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)]


def btcv_cases() -> list[Case]:
    return [Case(f"{n:04d}", Path("i"), Path("l")) for n in NUMBERS]


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


@pytest.mark.parametrize(("name", "sizes"), [("btcv_18_12", (15, 3, 12)), ("btcv_monai_24_6", (21, 3, 6))])
def test_shipped_btcv_splits_share_out_all_cases_once(name: str, sizes: tuple) -> None:
    parts = split_by_file(btcv_cases(), split=name)
    assert tuple(len(parts[key]) for key in ("train", "val", "test")) == sizes
    assert sorted(i for part in parts.values() for i in ids(part)) == ids(btcv_cases())


def test_test_cases_are_the_papers() -> None:
    assert ids(split_by_file(btcv_cases(), split="btcv_18_12")["test"]) == TEST_12
    monai = [f"{n:04d}" for n in range(35, 41)]
    assert ids(split_by_file(btcv_cases(), split="btcv_monai_24_6")["test"]) == monai


def test_every_shipped_split_is_listed() -> None:
    assert shipped_splits() == ["btcv_18_12", "btcv_monai_24_6", "isic2018_1815_261_518", "same", "tests"]


def test_the_isic_split_shares_out_2594_images_and_is_drawn_from_the_seed() -> None:
    path = next(path for path in splits._SHIPPED.glob("isic2018*.json"))
    shipped = {name: json.loads(path.read_text())[name] for name in SPLITS}
    assert {name: len(part) for name, part in shipped.items()} == {"train": 1815, "val": 261, "test": 518}
    every = sorted({image for part in shipped.values() for image in part})
    assert len(every) == 2594
    assert (every[0], every[-1]) == ("ISIC_0000000", "ISIC_0016072")
    cases = [Case(image, Path("i"), Path("l")) for image in every]
    drawn = split_at_random(cases, val_share=0.1006, test_share=0.1997, seed=0)
    assert {name: ids(part) for name, part in drawn.items()} == shipped
    assert split_by_file(cases, split="isic2018_1815_261_518") == drawn


def test_a_message_names_only_some_of_many_absent_cases() -> None:
    with pytest.raises(UserError, match=r"names 2593 case\(s\)") as caught:
        split_by_file([Case("ISIC_0000000", Path("i"), None)], split="isic2018_1815_261_518")
    assert str(caught.value).count("ISIC_") == 41


def test_absent_cases_are_listed_with_the_ways_out(make_btcv: Callable) -> None:
    with pytest.raises(UserError) as caught:
        make_btcv(split="btcv_18_12").prepare()
    for part in ("0004", "0040", "data.split=same", "data.split=null"):
        assert part in str(caught.value)


def test_same_cases_only_on_request(make_btcv: Callable, btcv_root: Path) -> None:
    data = make_btcv(split="same")
    assert data.cases("train") == data.cases("val") == data.cases("test")
    for number in (2, 3, 21, 22, 23):
        (btcv_root / f"RawData/Training/img/img{number:04d}.nii.gz").unlink()
    with pytest.raises(UserError, match=r"data\.split=same"):
        make_btcv(split=None).prepare()
    assert len(make_btcv(split="same").cases("train")) == 1


def test_own_file(make_btcv: Callable, tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"train": ["0001", "0002"], "val": ["0003"], "test": ["0021"]}))
    data = make_btcv(split=str(own))
    assert ids(data.cases("train")) == ["0001", "0002"]
    own.write_text(json.dumps({"train": ["0001"], "val": ["0003"]}))
    with pytest.raises(UserError, match="no case to test"):
        make_btcv(split=str(own)).prepare()
    own.write_text(json.dumps({"training": ["0001"], "tests": ["0003"]}))
    with pytest.raises(UserError, match="none of train, val and test"):
        make_btcv(split=str(own)).prepare()
    own.write_text(json.dumps({"train": "0001", "test": ["0003"]}))
    with pytest.raises(UserError, match="a wrong train"):
        make_btcv(split=str(own)).prepare()
    own.write_text(json.dumps({"train": ["0001"], "val": [], "test": ["0002"]}))
    with pytest.raises(UserError, match="no case to val"):
        make_btcv(split=str(own)).prepare()
    own.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        make_btcv(split=str(own)).prepare()


def test_unknown_split_names_the_shipped_ones(make_btcv: Callable) -> None:
    with pytest.raises(UserError, match="btcv_18_12"):
        make_btcv(split="btcv_18_13").prepare()


def test_random_split_follows_seed_and_ids_only() -> None:
    shares = {"val_share": 0.1, "test_share": 0.2}
    one = split_at_random(btcv_cases(), seed=0, **shares)
    assert one == split_at_random(btcv_cases()[::-1], seed=0, **shares)
    assert one != split_at_random(btcv_cases(), seed=1, **shares)
    assert [len(one[key]) for key in ("train", "val", "test")] == [21, 3, 6]
    assert sorted(i for part in one.values() for i in ids(part)) == ids(btcv_cases())


def test_shares_must_leave_something() -> None:
    with pytest.raises(UserError, match="val_share"):
        split_at_random(btcv_cases(), val_share=0.5, test_share=0.5, seed=0)


def test_unknown_part(make_btcv: Callable) -> None:
    with pytest.raises(UserError, match="split=validation"):
        make_btcv().cases("validation")
