"""Verification: a run scored again, or trained again, and compared with its card."""

import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sct.config.schema import EvalConfig
from sct.config.trust import Trust
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.runs import card
from sct.runs.folder import log_to
from sct.runtime.checkpoint import shortened
from sct.tasks.eval import evaluate
from sct.tasks.train import train

logger = logging.getLogger(__name__)

# what may explain a difference, and is told beside it
CIRCUMSTANCES = ("versions", "commit", "hardware", "dtype")


def verify(cfg: DictConfig) -> None:
    """UserError that lists every difference between the card and what comes out now."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses what does not go together
    source = Path(cfg.card) if cfg.card else result_folder(Path(cfg.ckpt), split=cfg.split)
    wanted = card.read_card(source)
    if "scores" not in wanted:
        raise UserError(f"{source} has no scores; give the card of an evaluation, <run>/eval/<split>/{card.FILE}.")
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(cfg.ckpt) if not cfg.retrain else Path(cfg.output or temporary) / "run"
        if cfg.retrain:
            retrain(wanted, run, trust=Trust.of_command(cfg).saved(source))
        # sums are taken in another order by another number of threads
        torch.set_num_threads(wanted["hardware"]["threads"])
        found = rescored(wanted, run, Path(temporary) / "eval", plugins=list(cfg.plugins))
    faults = compare(wanted, found, tolerance=cfg.tolerance)
    # what the card does not tell, an older one, cannot differ
    known = [name for name in CIRCUMSTANCES if name in wanted]
    circumstances = card.differences(*({name: of[name] for name in known} for of in (found, wanted)))
    for difference in circumstances:
        logger.warning("not as on the card: %s", difference)
    if faults:
        reason = f"\nNot as on the card: {'; '.join(circumstances)}" if circumstances else ""
        raise UserError(f"{source} is not confirmed:\n  " + "\n  ".join(faults) + reason)
    kind = "weights and scores of a new training" if cfg.retrain else "scores"
    logger.info("confirmed: %s are those on %s", kind, source)


def result_folder(ckpt: Path, *, split: str) -> Path:
    """Where the evaluation of a run folder, or of a checkpoint in it, left its card."""
    run = ckpt.parent.parent if ckpt.is_file() else ckpt
    return run / "eval" / split / card.FILE


def retrain(wanted: Mapping[str, Any], folder: Path, *, trust: Trust) -> None:
    """Trains the config on a card from nothing, into a new folder."""
    training = wanted["training"]
    if training is None:
        raise UserError("The card knows no training: it is of a run that was trained without one.")
    if training["processes"] > 1:
        raise UserError(f"The card's training ran in {training['processes']} processes; one would see other batches.")
    torch.set_num_threads(training["hardware"]["threads"])
    cfg = OmegaConf.create({**training["config"], "resume": None, "run_dir": str(folder)})
    train(cfg, overrides=training["command"][3:], trust=trust)


def rescored(wanted: Mapping[str, Any], run: Path, folder: Path, *, plugins: list[str]) -> dict[str, Any]:
    """The card of a new evaluation in the way that the old one says."""
    settings: Any = {**wanted["evaluation"], "ckpt": str(run), "output": str(folder), "plugins": plugins}
    cfg = OmegaConf.merge(OmegaConf.structured(EvalConfig), settings, {"save_predictions": False, "figures": 0})
    assert isinstance(cfg, DictConfig)
    evaluate(cfg)
    return card.read_card(folder)


def compare(wanted: Mapping[str, Any], found: Mapping[str, Any], *, tolerance: float) -> list[str]:
    """What differs in data, weights and scores, a line each; scores within `tolerance` are equal."""
    faults = []
    for split in SPLITS:
        ours, theirs = set(found["split"][split]), set(wanted["split"][split])
        if ours != theirs:
            difference = shortened(sorted(ours ^ theirs))
            faults.append(
                f"the cases to {split} on: {len(ours)}, on the card {len(theirs)}; they differ in {difference}"
            )
    if not faults and found["split"]["files"] != wanted["split"]["files"]:
        faults.append("files of the same cases have other sizes than the card knows")
    now, then = ((of["training"] or {}).get("first_weights") or {} for of in (found, wanted))
    # an older card does not tell them
    faults += [f"first weights, {difference}" for difference in card.differences(now, then)] if now and then else []
    if found["weights"] != wanted["weights"]:
        faults.append(f"weights: {found['weights'][:12]}..., on the card {wanted['weights'][:12]}...")
    known = dict(numbers(wanted["scores"]))
    for name, value in numbers(found["scores"]):
        other = known.pop(name, math.nan)
        if not abs(value - other) <= tolerance:
            faults.append(f"{name}: {value}, on the card {other}")
    return faults + [f"{name}: missing, on the card {value}" for name, value in known.items()]


def numbers(node: Mapping[str, Any], *, key: str = "") -> list[tuple[str, float]]:
    """All numbers of a summary with their dotted keys."""
    found: list[tuple[str, float]] = []
    for name, value in node.items():
        if isinstance(value, Mapping):
            found += numbers(value, key=f"{key}{name}.")
        elif isinstance(value, int | float):
            found.append((f"{key}{name}", float(value)))
    return found
