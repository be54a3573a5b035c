"""Which cases of a data set train, where the config does not say it in a way that works for the set at hand."""

import logging
from collections.abc import Mapping
from typing import Any

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.data.splits import SPLITS, by_patient
from sct.errors import UserError
from sct.planning.choice import GIVEN, Choice

logger = logging.getLogger(__name__)

# all cases train, validate and test
SAME = "same"


def choose_split(data: SegmentationData, *, given: Mapping[str, Any]) -> Choice:
    """Sets data.split: the command's, else the config's where it fits, else random; all cases in every part if few."""
    if "split" in given:
        return Choice("split", data.split, GIVEN)
    cases = data.find_cases()
    if data.split is not None and fits(data, cases):
        return Choice("split", data.split, "as in the config that the plan began with")
    data.split = None
    if fits(data, cases) or len(by_patient(cases, pattern=data.patient_pattern)) >= len(SPLITS):
        return Choice("split", None, "at random, by the shares and the seed below")
    logger.warning("%d case(s) are too few to keep any apart: scores will be of cases that were trained on", len(cases))
    data.split = SAME
    reason = "too few cases to keep any apart: scores are of cases that were trained on, and mean nothing for others"
    return Choice("split", SAME, reason)


def fits(data: SegmentationData, cases: list[Case]) -> bool:
    """Whether every part has a case."""
    try:
        parts = data.split_cases(cases)
    except UserError:
        return False
    return all(parts[name] for name in SPLITS)
