"""What the selection of tokens of a trained run is worth: other tokens, the same weights, the cases of a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sct.errors import UserError
from sct.evaluation.selection import KINDS, Selection, check_selection
from sct.inference import SlidingWindow
from sct.runtime.files import write_text
from sct.runtime.plain import read_json
from sct.runtime.progress import counted

if TYPE_CHECKING:
    from sct.runs.run import Run

# below the folder of an evaluation
FILE = "selection.json"


def measure_selection(run: Run, *, split: str, folder: Path, count: int | None = None, seed: int = 0) -> Selection:
    """Predicts the first `count` cases of a split, None: all, with each ranking; writes selection.json into `folder`.

    With the windows of the run's inferer, blended in any case, and without mirrored windows and post-processing. seed:
    of the random ranking. UserError where the network chooses no tokens.
    """
    selection = check_selection(
        counted(run.data.cases(split)[:count], what="cases predicted with other tokens"),
        network=run.network,
        data=run.data,
        inferer=SlidingWindow(overlap=run.inferer.overlap, blending=run.inferer.blending),
        device=run.device,
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, json.dumps(selection.summary(), indent=1, allow_nan=False) + "\n")
    return selection


def read_value(folder: Path) -> float | None:
    """The value of the selection that an evaluation in `folder` measured; None where it did not."""
    path = folder / FILE
    if not path.exists():
        return None
    again = "Make it again with  python -m sct.eval ckpt=RUN selection=true"
    content = read_json(path, remedy=again)
    value = content.get("value") if isinstance(content, dict) else content
    if not isinstance(value, int | float | None):
        raise UserError(f"{path}: `value` is {value!r}, and no number. {again}")
    return value


def selection_table(selection: Selection) -> str:
    """A line for each ranking: mean Dice, p against random, and the shares of patches kept after each stage."""
    stages = range(1, selection.num_stages + 1)
    heads = [f"{kind} {stage}" for stage in stages for kind in KINDS]
    lines = [f"{'ranking':9} {'Dice':>7} {'p':>7}  " + " ".join(f"{head:>12}" for head in heads)]
    for ranking, outcome in selection.outcomes.items():
        p = selection.p_value(ranking)
        shown = "" if p is None else f"{p:.2g}"
        shares = [f"{outcome.shares.of(kind, stage):12.3f}" for stage in stages for kind in KINDS]
        lines.append(f"{ranking:9} {outcome.mean:7.4f} {shown:>7}  " + " ".join(shares))
    agreement = "" if selection.agreement is None else f", agreement {selection.agreement:.3f}"
    return "\n".join([*lines, f"value of the selection {selection.value:+.4f}{agreement}"])
