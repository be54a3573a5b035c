"""What a training saves to go on exactly, and how it is taken up again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sct.errors import UserError
from sct.runtime import checkpoint
from sct.training.optim import set_learning_rate

if TYPE_CHECKING:  # `Trainer` saves by this module
    from sct.training.trainer import Trainer

logger = logging.getLogger(__name__)


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything that is needed to resume a training exactly; `to_validate`: the validation of this step is to come."""
    return {
        "step": trainer.step,
        "model": trainer.segmenter.state_dict(),
        "ema": trainer.ema.state_dict() if trainer.ema is not None else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "best": trainer.best,
        "to_validate": trainer.to_validate,
        "world_size": trainer.processes.world_size,
        "number_format": trainer.format.name,
        "config": trainer.config,
    }


def save_best(trainer: Trainer, network: nn.Module) -> None:
    """Saves a network for evaluation: the best so far, whose scores are `trainer.best`."""
    state = {"step": trainer.step, "model": network.state_dict(), "best": trainer.best, "config": trainer.config}
    trainer.saver.save(state, trainer.run_dir / checkpoint.FOLDER / "best.pt")


def restore(trainer: Trainer, run_dir: Path) -> None:
    """Resumes from the newest checkpoint of a run folder that is whole, if there is one."""
    state = checkpoint.load_newest(run_dir)
    if state is not None:
        source = f"The checkpoint of {run_dir}"
        checkpoint.load_weights(trainer.segmenter, state["model"], source=source)
        if trainer.ema is not None:
            # an average that is switched on at resuming starts with the current weights
            checkpoint.load_weights(trainer.ema, state["ema"] or state["model"], source=source)
        checkpoint.load_optimizer(trainer.optimizer, state["optimizer"], source=source)
        # empty if the run computed in a precision that needs no scaler
        if state["scaler"]:
            trainer.scaler.load_state_dict(state["scaler"])
        trainer.step, trainer.best = state["step"], state["best"]
        trainer.saved_step = trainer.step
        # a run that is saved again before its next step then saves what it has read
        set_learning_rate(trainer.optimizer, lr=trainer.rate(max(0, trainer.step - 1)))
        trainer.to_validate = state.get("to_validate", False)  # checkpoints of earlier versions do not have it
        compare_start(trainer, state, run_dir)
        check_best(trainer, run_dir / checkpoint.FOLDER / "best.pt")
    steps = trainer.processes.gather(trainer.step)
    if len(set(steps)) > 1:
        raise UserError(f"The processes read different checkpoints of {run_dir} (steps {steps}); share the folder.")


def check_best(trainer: Trainer, path: Path) -> None:
    """Forgets the best score, with a warning, if its weights are damaged or gone: the next validation saves some."""
    if not trainer.best:
        return
    fault = trainer.processes.broadcast(None if not trainer.processes.is_main else fault_of_best(path))
    if fault is not None:
        if trainer.processes.is_main:
            logger.warning("%s is %s: the next validation makes it again, whatever its score", path, fault)
        trainer.best = {}


def fault_of_best(path: Path) -> str | None:
    if not path.is_file():
        return "gone"
    fault = checkpoint.fault_of(path)
    return None if fault is None else f"damaged ({fault})"


def compare_start(trainer: Trainer, state: dict[str, Any], run_dir: Path) -> None:
    """UserError if a checkpoint is beyond the last step; warnings if processes or number format have changed."""
    if trainer.step > trainer.settings.max_steps:
        raise UserError(
            f"{run_dir} is at step {trainer.step} already; give trainer.max_steps={trainer.step} or more to resume it."
        )
    if state["world_size"] != trainer.processes.world_size:
        logger.warning(
            "%s was trained by %d processes and is resumed with %d: from here on its batches differ",
            run_dir,
            state["world_size"],
            trainer.processes.world_size,
        )
    before = state.get("number_format", trainer.format.name)  # checkpoints of earlier versions do not have it
    if before != trainer.format.name:
        logger.warning(
            "%s was trained in %s and is resumed in %s: from here on its losses differ. With trainer.precision=%s "
            "it is resumed as before",
            run_dir,
            before,
            trainer.format.name,
            before,
        )
