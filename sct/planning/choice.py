"""A line of a plan: a key, its value, and why it has this value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIVEN = "as the command says"


@dataclass(frozen=True)
class Choice:
    """One setting of a plan.

    key: dotted, below the node that it stands in; value: plain containers; reason: a sentence in plain English
    """

    key: str
    value: Any
    reason: str


def choose(key: str, value: Any, reason: str, *, given: Mapping[str, Any]) -> Choice:
    """The value of a rule, unless the user gave one: `given` are values by key."""
    return Choice(key, given[key], GIVEN) if key in given else Choice(key, value, reason)
