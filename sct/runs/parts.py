"""An evaluation that several processes share: each scores its part, the last one to end writes the tables."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sct.config.check import to_dict
from sct.data.loading.cache import describe
from sct.errors import UserError
from sct.evaluation.metrics import Row
from sct.inference import MemoryNotice
from sct.runs.card import digest
from sct.runs.evaluation import Evaluation, begin, report, score
from sct.runtime.ledger import Ledger, Task
from sct.runtime.progress import Pace
from sct.runtime.shards import Shard, part_of
from sct.runtime.version import __version__

if TYPE_CHECKING:
    from sct.runs.run import Run

logger = logging.getLogger(__name__)

# below the folder of an evaluation: the scores of single cases
FOLDER = ".scored"


def evaluate_part(
    run: Run, *, split: str, folder: Path, save_predictions: bool, figures: int, lesions: bool, shard: Shard
) -> Evaluation | None:
    """Scores the cases of a shard that are not yet scored with these weights and settings; None until all shards have.

    Once all cases of the split are scored, by whatever process, writes what an evaluation in one process writes.
    UserError that lists the cases of the shard that can't be scored.
    """
    # the caller has left the check to this: of each case when its turn comes
    cases = begin(run, split=split)
    mine = part_of(cases, names=[case.id for case in cases], shard=shard)
    logger.info("%s: %d of %d cases", shard.text(), len(mine), len(cases))
    tasks = {case: Task(case.name, tuple(run.data.format.files_of(case))) for case in cases}
    by_task = {task: case for case, task in tasks.items()}
    pace, notice = Pace(len(mine), unit="case"), MemoryNotice()
    drawn = set(cases[:figures])
    made_by = digest(settings_of(run, split=split, written=[save_predictions, figures, lesions]))
    with Ledger(folder / FOLDER, made_by=made_by) as ledger:
        for claim in ledger.claims([tasks[case] for case in mine]):
            case = by_task[claim.task]
            try:
                if faults := run.data.find_faults(case):
                    raise UserError("\n".join(faults))
                rows, kept = score(
                    run,
                    case,
                    folder=folder,
                    save_predictions=save_predictions,
                    picture=case in drawn,
                    lesions=lesions,
                    notice=notice,
                )
            except UserError as error:
                logger.error("%s failed: %s", case.name, error)
                claim.fail(str(error))
                continue
            claim.finish({"rows": [asdict(row) for row in rows], "kept": kept})
            pace.advance()
            pace.done = len(ledger.done) + len(ledger.found) + len(ledger.failed)
            logger.info("%s  %s  %s", pace.place(), case.name, pace.text())
        results = [ledger.result(tasks[case]) for case in cases]
    if ledger.failed:
        listed = "\n  ".join(f"{name}: {message}" for name, message in sorted(ledger.failed.items()))
        raise UserError(
            f"{len(ledger.failed)} of {len(mine)} cases could not be scored:\n  {listed}\nMend the files, or leave the "
            "cases out with data.exclude=[...] in all shards. The same command tries them again, and repeats no other."
        )
    known = [result for result in results if result is not None]
    if len(known) < len(cases):
        logger.info("%d of %d cases are scored: the last shard to end writes the tables", len(known), len(cases))
        return None
    rows = [Row(**row) for result in known for row in result["rows"]]
    return report(run, rows, [result["kept"] for result in known], split=split, folder=folder, lesions=lesions)


def settings_of(run: Run, *, split: str, written: list[Any]) -> dict[str, Any]:
    """All that the scores of a case depend on beside its files, and what is written of it."""
    return {
        "weights": run.weights_digest,
        "preprocessing": describe(run.data.preprocess),
        "outputs": list(run.data.outputs.legend),
        "inferer": to_dict(run.config.inferer),
        "precision": run.settings["precision"] or run.config.trainer.precision,
        "version": __version__,
        "split": split,
        "tolerance": run.data.tolerance,
        "postprocessing": run.postprocessing.settings(run.data.outputs),
        "written": written,
        "changed": run.changed,
        "look": run.look.settings() if run.look else {},
    }
