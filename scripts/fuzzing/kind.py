"""What a kind of input is to the fuzzer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# what, place, value: a change that a kind applies to its honest file; which numbers it needs, it draws beforehand
Change = tuple[str, int, Any]


@dataclass(frozen=True)
class Kind:
    """One kind of input: honest files, changes to them, and a judge.

    draw: parameters of an honest file and the changes to it, from a random generator
    judge: makes the changed file in a folder, reads it by sct, and returns what is wrong though sct accepted it; the
        errors of sct pass through
    honest: whether a file without changes must be accepted
    """

    draw: Callable[[np.random.Generator], tuple[dict, list[Change]]]
    judge: Callable[[Path, dict, list[Change]], list[str]]
    honest: bool = True


def drawn(rng: np.random.Generator, values: Any) -> Any:
    """One of some values, as it is: `rng.choice` would make numpy's of it."""
    return values[int(rng.integers(len(values)))]


def place(rng: np.random.Generator) -> int:
    """Where a change acts, modulo the size of what it acts on."""
    return int(rng.integers(1 << 30))
