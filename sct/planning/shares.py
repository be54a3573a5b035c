"""Which cases of a data set train, where the config does not say it in a way that works for the set at hand."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.planning.choice import GIVEN, Choice

logger = logging.getLogger(__name__)

# all cases train, validate and test
SAME = "same"


def share_out(
    data: SegmentationData, cases: list[Case], *, given: Mapping[str, Any]
) -> tuple[dict[str, list[Case]], Choice]:
    """The parts, and data.split as it gives them: the config's own, a random one, or all cases in every part.

    UserError where the command itself names a split that does not fit.
    """
    if "split" in given:
        return whole_split(data, cases), Choice("split", data.split, GIVEN)
    reasons = {
        data.split: "as in the config that the plan began with",
        None: "at random, by the shares and the seed below",
    }
    for split, reason in reasons.items():
        data.split = split
        try:
            return whole_split(data, cases), Choice("split", split, reason)
        except UserError:
            continue
    logger.warning("%d case(s) are too few to keep any apart: scores will be of cases that were trained on", len(cases))
    data.split = SAME
    reason = "too few cases to keep any apart: scores are of cases that were trained on, and mean nothing for others"
    return whole_split(data, cases), Choice("split", SAME, reason)


def whole_split(data: SegmentationData, cases: list[Case]) -> dict[str, list[Case]]:
    """The parts by data.split; UserError where one is empty."""
    parts: dict[str, list[Case]] = data.split_cases(cases)
    if empty := [name for name in SPLITS if not parts[name]]:
        raise UserError(f"data.split={data.split} has no case to {empty[0]} on.")
    return parts


def num_cached(parts: Mapping[str, Sequence[Case]]) -> int:
    """Cases that a training keeps prepared."""
    return len({case for name in ("train", "val") for case in parts[name]})
