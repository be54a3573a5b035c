"""Where a trained run meets data to be scored on: its own data set, also one that was moved, or another set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sct.data.cases import Case
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.runs import card

if TYPE_CHECKING:  # `Run` evaluates itself by this module
    from sct.runs.run import Run

logger = logging.getLogger(__name__)

# settings by which the user says which cases test
WHO_TESTS = ("split", "folds", "fold")
_SHOWN = 5


def prepare_to_score(run: Run, *, split: str) -> None:
    """Finds the cases of the run's data; of a data set that is not the training's, every case tests.

    UserError where nothing is to be scored in `split`.
    """
    data, asked = run.data, run.settings["data"]
    data.needed = (split,)
    if "root" in asked and not is_same_folder(data.root, run.trained_root):
        cases = data.find_cases()
        known = card.read_card(run.folder) if (run.folder / card.FILE).exists() else None
        if known is not None and card.has_recorded_files(known, cases, data=data):
            logger.info("data.root=%s holds the run's own data set, its cases are in the parts they had", data.root)
        else:
            data.is_other_set = True
            chosen = [key for key in WHO_TESTS if key in asked]
            if not chosen:
                if split != "test":
                    raise UserError(
                        f"data.root={data.root} is another data set than the run's: all of its cases test, and none is "
                        f"in split={split}. Leave split out, or give data.split=FILE."
                    )
                data.split, data.folds, data.fold = "tests", None, None
            logger.info(
                "data.root=%s is another data set than the run was trained on: %s",
                data.root,
                f"{', '.join(f'data.{key}' for key in chosen)} says what tests" if chosen else "all of its cases test",
            )
            warn_of_training_ids(cases, known=known)
    data.prepare()


def is_same_folder(one: str, other: str) -> bool:
    """Whether two paths are one folder."""
    return Path(one).resolve() == Path(other).resolve()


def warn_of_training_ids(cases: Sequence[Case], *, known: dict | None) -> None:
    """A warning where cases of another set are called as cases of the training, if they may be the same."""
    trained = set() if known is None else {name for part in SPLITS[:2] for name in known["split"][part]}
    if shared := sorted({case.name for case in cases} & trained):
        logger.warning(
            "%d of its cases have ids of cases that the run was trained or chosen on (%s): if the images are the same, "
            "leave them out with data.exclude=[...], or their scores mean nothing",
            len(shared),
            ", ".join(shared[:_SHOWN]) + ", ..." * (len(shared) > _SHOWN),
        )
