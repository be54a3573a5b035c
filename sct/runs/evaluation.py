"""Scores of a trained run on the cases of a split."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sct.data.cases import Case
from sct.errors import UserError
from sct.evaluation.case import CaseFiles, evaluate_case
from sct.evaluation.lesions import lesion_table
from sct.evaluation.metrics import Row, unique_rows
from sct.evaluation.scores import markdown_table, summary_of, write_report
from sct.evaluation.tokens import known_means
from sct.inference import MemoryNotice
from sct.runs import card
from sct.runs.meeting import prepare_to_score
from sct.runtime.progress import Pace

if TYPE_CHECKING:  # `Run` imports this module
    from sct.runs.run import Run

logger = logging.getLogger(__name__)

SPLITS = ("val", "test")


@dataclass(frozen=True)
class Evaluation:
    """Scores of an evaluation.

    rows: one row for each case and class; summary: means for each class and over classes, as in summary.json;
    columns: the scores that `table` shows.
    """

    rows: list[Row]
    summary: Mapping[str, Any]
    columns: tuple[str, ...]

    def table(self) -> str:
        """The summary as a markdown table with one line for each class and mean; below it the lesions, if counted."""
        lesions = f"\n{lesion_table(self.summary['lesions'])}" if "lesions" in self.summary else ""
        return markdown_table(self.summary, scores=self.columns) + lesions


def evaluate(
    run: Run, *, split: str, folder: Path | None, save_predictions: bool, figures: int, lesions: bool
) -> Evaluation:
    """Predicts and scores every case of a split; `lesions`: also counts connected parts of each class.

    Writes cases.csv, summary.json, table.md, predictions, figures and the card into `folder`; nothing if it is None.
    """
    cases = begin(run, split=split)
    rows: list[Row] = []
    token_rows: list[dict[str, float]] = []
    pace, notice = Pace(len(cases), unit="case"), MemoryNotice()
    for number, case in enumerate(cases):
        case_rows, case_tokens = score(
            run,
            case,
            folder=folder,
            save_predictions=save_predictions,
            picture=number < figures,
            lesions=lesions,
            notice=notice,
        )
        pace.advance()
        scores = [row.dice for row in case_rows if not row.absent]
        dice = sum(scores) / max(1, len(scores))
        logger.info("%s  %s  mean Dice %.4f  %s", pace.place(), case.name, dice, pace.text())
        rows += case_rows
        token_rows.append(case_tokens)
    return report(run, rows, token_rows, split=split, folder=folder, lesions=lesions)


def begin(run: Run, *, split: str) -> list[Case]:
    """The cases of a split, found and, unless that is left out, checked."""
    if split not in SPLITS:
        raise UserError(f"split={split} must be val or test.")
    torch.backends.cudnn.benchmark = True  # all windows have one size: searching the fastest kernel once pays off
    prepare_to_score(run, split=split)
    return run.data.cases(split)


def score(
    run: Run,
    case: Case,
    *,
    folder: Path | None,
    save_predictions: bool,
    picture: bool,
    lesions: bool,
    notice: MemoryNotice,
) -> tuple[list[Row], dict[str, float]]:
    """The rows of a case and the shares of tokens kept in it; its label map and picture are written below `folder`."""
    files = None
    if folder is not None:
        files = CaseFiles(folder, labels=save_predictions, picture=picture, title=run.config.name)
    return evaluate_case(
        case,
        data=run.data,
        network=run.network,
        inferer=run.inferer,
        device=run.device,
        dtype=run.number_format.dtype,
        files=files,
        notice=notice,
        postprocessing=run.postprocessing,
        lesions=lesions,
        look=run.look,
    )


def report(
    run: Run,
    rows: Sequence[Row],
    token_rows: Sequence[dict[str, float]],
    *,
    split: str,
    folder: Path | None,
    lesions: bool,
) -> Evaluation:
    """The scores of all cases as an evaluation; tables and card are written into `folder`."""
    data, network = run.data, run.network
    rows = unique_rows(rows)
    steps = run.postprocessing.settings(data.outputs)
    look = run.look.settings() if run.look else {}
    settings = {"split": split, **run.settings, "postprocess": "chosen" if steps else "none", "lesions": lesions}
    settings["first_look"] = "calibrated" if look else "none"
    about = {"ckpt": str(run.source), **settings, "root": data.root, "seed": run.config.seed}
    about |= {"tolerance": data.tolerance, "postprocessing": steps, **known_means(token_rows)}
    title = f"{run.config.name}: {split}"
    if folder is None:
        summary = summary_of(rows, title=title, meta=about, groups=data.class_groups)
    else:
        summary = write_report(folder, rows, title=title, meta=about, groups=data.class_groups, scores=data.scores)
        training = card.read_card(run.folder) if (run.folder / card.FILE).exists() else None
        written = card.result_card(
            training,
            evaluation=settings,
            weights=card.weights_digest(network.state_dict()),
            summary=summary,
            data=data,
            device=run.device,
            chosen=run.number_format,
            postprocessing=steps,
            look=look,
        )
        card.write_card(folder, written)
    return Evaluation(rows, summary, data.scores)
