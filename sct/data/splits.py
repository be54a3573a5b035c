"""Which cases train, select and test: shipped or own split files, or a seeded random split.

A split file is JSON with the keys `train`, `val`, `test`, each a list of case ids or the word "all".
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sct.data.cases import Case
from sct.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_SHOWN = 40  # ids in a message
_SHIPPED = Path(__file__).parent / "splits"


def shipped_splits() -> list[str]:
    """Names that `data.split` may have besides a path."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def split_by_file(cases: Sequence[Case], *, split: str) -> dict[str, list[Case]]:
    """Sort the cases as the shipped or own file `split` says; raises `UserError` if it names absent ones."""
    path = _SHIPPED / f"{split}.json" if split in shipped_splits() else Path(split)
    if not path.is_file():
        raise UserError(
            f"data.split={split} is neither a file nor one of the shipped splits {shipped_splits()}. "
            "Name one of these, or leave it null for a random split."
        )
    lists = _read_split(path)
    by_id = {case.id: case for case in cases}
    named = {name: sorted(by_id) if ids == "all" else ids for name, ids in lists.items()}
    absent = sorted({i for ids in named.values() for i in ids} - by_id.keys())
    if absent:
        raise UserError(
            f"The split {path} names {len(absent)} case(s) that the data folder lacks: "
            f"{_some(absent)} (it has {_some(sorted(by_id))}). Complete the data, or set "
            "data.split=null for a random split or data.split=same to train, validate and test on the very "
            "same cases (overfitting on purpose)."
        )
    unused = sorted(by_id.keys() - {i for ids in named.values() for i in ids})
    if unused:
        logger.warning("split %s leaves %d case(s) of the folder out: %s", path.stem, len(unused), _some(unused))
    if set(named["train"]) & {*named["val"], *named["test"]}:
        logger.warning("split %s validates or tests on cases it trains on: its figures mean nothing", path.stem)
    return {name: [by_id[i] for i in ids] for name, ids in named.items()}


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")


def _read_split(path: Path) -> dict[str, list[str] | str]:
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"data.split: {path} is not JSON ({error}).") from error
    lists = content if isinstance(content, dict) else {}
    wrong = [name for name in SPLITS if lists.get(name) != "all" and not isinstance(lists.get(name), list)]
    if wrong:
        raise UserError(
            f"data.split: {path} lacks {', '.join(wrong)}: it must have the keys train, val and test, each a "
            'list of case ids or "all".'
        )
    return {name: lists[name] for name in SPLITS}


def split_at_random(cases: Sequence[Case], *, val_share: float, test_share: float, seed: int) -> dict[str, list[Case]]:
    """Share the cases out with a permutation that follows from `seed` and the ids alone."""
    if not (val_share > 0 and test_share > 0 and val_share + test_share < 1):
        raise UserError(
            f"data.val_share={val_share} and data.test_share={test_share} must be positive and leave cases to train on."
        )
    ordered = sorted(cases, key=lambda case: case.id)
    num_test = max(1, round(test_share * len(ordered)))
    num_val = max(1, round(val_share * len(ordered)))
    if len(ordered) < num_val + num_test + 1:
        raise UserError(
            f"{len(ordered)} case(s) are too few to train, validate and test on different ones. Add cases, "
            "or set data.split=same to use the very same cases for all three (overfitting on purpose)."
        )
    shuffled = [ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))]
    parts = {
        "test": shuffled[:num_test],
        "val": shuffled[num_test : num_test + num_val],
        "train": shuffled[num_test + num_val :],
    }
    return {name: sorted(parts[name], key=lambda case: case.id) for name in SPLITS}


def split_in_order(cases: list[Case], *, num_train: int, num_val: int) -> dict[str, list[Case]]:
    """The first cases train, the next validate, the rest test."""
    first_test = num_train + num_val
    return {"train": cases[:num_train], "val": cases[num_train:first_test], "test": cases[first_test:]}
