"""Label maps of many images by a run: shared out over processes, none made twice, failures listed at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sct.config.check import to_dict
from sct.data.cases import Case
from sct.data.loading.cache import describe
from sct.errors import UserError
from sct.inference.base import Model
from sct.inference.cases import Turn, predict_cases
from sct.inference.inputs import find_inputs, label_paths
from sct.runs.card import digest
from sct.runtime.ledger import Ledger, Task
from sct.runtime.memory import keep_large_blocks
from sct.runtime.shards import Shard, part_of
from sct.runtime.signals import Interrupted

if TYPE_CHECKING:  # `Run` predicts files by this module
    from sct.runs.run import Run

logger = logging.getLogger(__name__)

# below the output folder: which label map is of which image, weights and settings
FOLDER = ".predicted"
_MAX_TOLD = 200


def predict_files(run: Run, inputs: Path, *, output: Path, recursive: bool, shard: Shard | None) -> list[Path]:
    """See `Run.predict_files`."""
    every = find_inputs(inputs, file_format=run.data.format, recursive=recursive)
    paths = label_paths(every, output=output, file_format=run.data.format)
    torch.backends.cudnn.benchmark = True  # windows have one size: the fastest kernel for it is soon found
    if every[0].image == inputs:
        # also in one of several processes: each task of an array may have an image of its own
        return predict_alone(run, every[0], path=paths[every[0].name])
    cases = part_of(every, names=[case.id for case in every], shard=shard)
    if shard is not None:
        logger.info("%s: %d of %d cases", shard.text(), len(cases), len(every))
    folder = output.parent if output in paths.values() else output
    return predict_shared(run, cases, paths=paths, folder=folder / FOLDER)


def predict_alone(run: Run, case: Case, *, path: Path) -> list[Path]:
    """The label map of a single image, made in any case; without a record."""
    # a thread keeps the number of helpers that it first asks for: before the loading changes it for a while
    torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(run.load)

        def load() -> tuple[Model, torch.dtype]:
            network = loaded.result()
            # from here on: the voxels as stored, which are the most of all, have gone back to the system
            keep_large_blocks()
            return network.model, network.number_format.dtype

        return predict_cases(
            [Turn(case, path)],
            total=1,
            data=run.data,
            load=load,
            inferer=run.inferer,
            device=run.device,
            postprocessing=run.postprocessing,
            look=run.look,
        )


def predict_shared(run: Run, cases: Sequence[Case], *, paths: dict[str, Path], folder: Path) -> list[Path]:
    """The label maps of many images that other processes may be at, too; UserError at the end where some failed."""
    run.load()
    tasks = {Task(case.name, tuple(run.data.format.files(case.image)), paths[case.name]): case for case in cases}
    with Ledger(folder, made_by=made_by(run)) as ledger, going_on():

        def turns() -> Iterator[Turn]:
            for claim in ledger.claims(tasks):
                case = tasks[claim.task]
                yield Turn(case, paths[case.name], claim)

        predict_cases(
            turns(),
            total=len(cases),
            data=run.data,
            load=lambda: (run.load().model, run.load().number_format.dtype),
            inferer=run.inferer,
            device=run.device,
            postprocessing=run.postprocessing,
            look=run.look,
            ended=lambda: len(ledger.done) + len(ledger.found) + len(ledger.failed),
        )
    logger.info(
        "%d cases: %d predicted now, %d were there already, %d failed",
        *(len(cases), len(ledger.done), len(ledger.found), len(ledger.failed)),
    )
    if ledger.failed:
        raise UserError(failures(ledger.failed, total=len(cases), records=folder))
    return [paths[case.name] for case in cases]


@contextmanager
def going_on() -> Iterator[None]:
    """Adds to `Interrupted` how a prediction goes on."""
    try:
        yield
    except Interrupted as interrupted:
        interrupted.advice = "What is predicted is whole and stays. The same command goes on, and repeats none of it."
        raise


def made_by(run: Run) -> str:
    """Stands for all that a label map depends on beside its image: weights, preprocessing, inferer, number format.

    What precision=auto chooses is a circumstance, as the machine is, and no setting.
    """
    settings = {
        "weights": run.weights_digest,
        "preprocessing": describe(run.data.preprocess),
        "labels": list(run.data.outputs.legend),
        "inferer": to_dict(run.config.inferer),
        "precision": run.settings["precision"] or run.config.trainer.precision,
        "exported": run.is_exported,
        "postprocessing": run.postprocessing.settings(run.data.outputs),
        # only where there are any: records of earlier versions stay valid
        **({"changed": run.changed} if run.changed else {}),
        **({"look": run.look.settings()} if run.look else {}),
    }
    return digest(settings)


def failures(messages: dict[str, str], *, total: int, records: Path) -> str:
    """All cases that failed, with the reason of each."""
    told = [f"{name}: {message}" for name, message in sorted(messages.items())]
    more = [f"... and {len(told) - _MAX_TOLD} more, see the records in {records}"] * (len(told) > _MAX_TOLD)
    listed = "\n  ".join([*told[:_MAX_TOLD], *more])
    return (
        f"{len(told)} of {total} cases failed, the others are done:\n  {listed}\n"
        "Mend these files or take them out. The same command tries them again, and repeats no other."
    )
