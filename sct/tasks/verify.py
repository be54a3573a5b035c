"""Verification: scores a run again, or trains it again, and compares the result with its card."""

import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sct.config.requests import EvalConfig
from sct.config.trust import Trust
from sct.data.splits import SPLITS
from sct.errors import UserError
from sct.models.weights.pretrained import TIMM
from sct.runs import card
from sct.runs.changes import FOLDER
from sct.runs.folder import WRITTEN, log_to
from sct.runs.look import write_look
from sct.runs.postprocessing import write_choice
from sct.runtime.checkpoint import shortened
from sct.tasks.eval import evaluate
from sct.tasks.train import train

logger = logging.getLogger(__name__)

# entries of the card that may explain a difference; they are logged with it
CIRCUMSTANCES = ("versions", "commit", "hardware", "dtype")
# settings of an evaluation that its card repeats
REPEATED = (
    "split",
    "weights",
    "device",
    "precision",
    "inferer",
    "data",
    "encoder",
    "postprocess",
    "first_look",
    "lesions",
)
# of the largest machines; starting more of them would take all memory
MOST_THREADS = 1024
# modules of data sets that are drawn instead of downloaded
DRAWN = "sct.data.phantoms."


def verify(cfg: DictConfig) -> None:
    """Repeats the evaluation of a card; UserError that lists every difference from the card."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses settings that exclude each other
    source = Path(cfg.card) if cfg.card else result_folder(Path(cfg.ckpt), split=cfg.split)
    recorded = card.read_card(source)
    if "scores" not in recorded:
        raise UserError(f"{source} has no scores; give the card of an evaluation, <run>/eval/<split>/{card.FILE}.")
    with tempfile.TemporaryDirectory() as temporary:
        run = run_of(Path(cfg.ckpt)) if not cfg.retrain else Path(cfg.output or temporary) / "run"
        if cfg.retrain:
            retrain(recorded, run, source=source, trust=Trust.of_command(cfg).saved(source))
        torch.set_num_threads(threads_of(recorded, source=source))
        repeated = rescored(recorded, run, Path(temporary) / "eval", plugins=list(cfg.plugins))
    faults = compare(recorded, repeated, tolerance=cfg.tolerance)
    # cards of earlier versions lack some entries
    known = [name for name in CIRCUMSTANCES if name in recorded]
    circumstances = card.differences(*({name: of[name] for name in known} for of in (repeated, recorded)))
    for difference in circumstances:
        logger.warning("not as on the card: %s", difference)
    if faults:
        reason = f"\nNot as on the card: {'; '.join(circumstances)}" if circumstances else ""
        raise UserError(f"{source} is not confirmed:\n  " + "\n  ".join(faults) + reason)
    kind = "weights and scores of a new training" if cfg.retrain else "scores"
    logger.info("confirmed: %s are those on %s", kind, source)


def run_of(ckpt: Path) -> Path:
    """The run folder or checkpoint of `ckpt`, which may be the folder of an evaluation with changed settings."""
    return ckpt.parent.parent if ckpt.parent.name == FOLDER else ckpt


def result_folder(ckpt: Path, *, split: str) -> Path:
    """The card of an evaluation: `ckpt` is the run folder, a checkpoint in it, or RUN/changed/SETTINGS."""
    run = ckpt.parent.parent if ckpt.is_file() else ckpt
    return run / "eval" / split / card.FILE


def threads_of(recorded: Mapping[str, Any], *, source: Path) -> int:
    """The threads of a computation on a card: another number adds in another order."""
    threads = recorded["hardware"]["threads"]
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise UserError(
            f"{source}: hardware.threads is {threads}, expected 1 to {MOST_THREADS}. Take the original card."
        )
    return threads


def retrain(recorded: Mapping[str, Any], folder: Path, *, source: Path, trust: Trust) -> None:
    """Trains the config of a card from its first step, into a new folder; all that it writes is beside that folder."""
    training = recorded["training"]
    if training is None:
        raise UserError("The card describes no training: its run was trained without a card.")
    if training["processes"] > 1:
        raise UserError(f"The card's training ran in {training['processes']} processes; one would see other batches.")
    config = OmegaConf.create({**training["config"], "resume": None, "run_dir": str(folder)})
    if str(config.get("pretrained") or "").startswith(TIMM):
        raise UserError(
            f"{source}: the training began with pretrained={config.pretrained}, which would be downloaded. A card "
            "reaches no network: train it again with sct.train and the command on the card, and compare the scores."
        )
    torch.set_num_threads(threads_of(training, source=source))
    config.data.cache_dir = str(folder.parent / "cache")
    may_write: tuple[str, ...] = ("cache_dir",)
    if str(config.data.get("_target_")).startswith(DRAWN) and not Path(config.data.root).exists():
        # drawn anew, and equal to those of the training
        config.data.root = str(folder.parent / "data")
        may_write = WRITTEN
    train(config, overrides=training["command"][3:], trust=trust, may_write=may_write)
    if recorded.get("postprocessing"):
        write_choice(folder, {"steps": recorded["postprocessing"]})
    if recorded.get("look"):
        write_look(folder, recorded["look"])


def rescored(recorded: Mapping[str, Any], run: Path, folder: Path, *, plugins: list[str]) -> dict[str, Any]:
    """Evaluates a run again with the settings of a card; returns the new card."""
    settings: Any = {
        # cards of earlier versions do not have them
        "postprocess": "none",
        "first_look": "none",
        **{name: value for name, value in recorded["evaluation"].items() if name in REPEATED},
        "ckpt": str(run),
        "output": str(folder),
        "plugins": plugins,
    }
    cfg = OmegaConf.merge(OmegaConf.structured(EvalConfig), settings, {"save_predictions": False, "figures": 0})
    assert isinstance(cfg, DictConfig)
    evaluate(cfg, may_write=())
    return card.read_card(folder)


def compare(recorded: Mapping[str, Any], repeated: Mapping[str, Any], *, tolerance: float) -> list[str]:
    """Differences in data, weights and scores, one line each; scores within `tolerance` are equal."""
    faults = []
    for split in SPLITS:
        now, then = set(repeated["split"][split]), set(recorded["split"][split])
        if now != then:
            difference = shortened(sorted(now ^ then))
            faults.append(f"cases of split {split}: {len(now)}, on the card {len(then)}; they differ in {difference}")
    if not faults and repeated["split"]["files"] != recorded["split"]["files"]:
        faults.append("files of the same cases have other sizes than on the card")
    first, first_on_card = ((of["training"] or {}).get("first_weights") or {} for of in (repeated, recorded))
    # cards of earlier versions do not have them
    if first and first_on_card:
        faults += [f"first weights, {difference}" for difference in card.differences(first, first_on_card)]
    used = [{name: of.get(name, {}) for name in ("postprocessing", "look")} for of in (repeated, recorded)]
    faults += card.differences(*used)
    if repeated["weights"] != recorded["weights"]:
        faults.append(f"weights: {repeated['weights'][:12]}..., on the card {recorded['weights'][:12]}...")
    known = dict(numbers(recorded["scores"]))
    for name, value in numbers(on_card(repeated["scores"], recorded=recorded["scores"])):
        other = known.pop(name, math.nan)
        if not abs(value - other) <= tolerance:
            faults.append(f"{name}: {value}, on the card {other}")
    return faults + [f"{name}: missing, on the card {value}" for name, value in known.items()]


def on_card(scores: Mapping[str, Any], *, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The scores without the measures and settings that an older card does not have."""
    meta = {name: value for name, value in scores["meta"].items() if name in recorded["meta"]}
    return {name: value for name, value in {**scores, "meta": meta}.items() if name in recorded}


def numbers(node: Mapping[str, Any], *, key: str = "") -> list[tuple[str, float]]:
    """All numbers of a summary with their dotted keys."""
    pairs: list[tuple[str, float]] = []
    for name, value in node.items():
        if isinstance(value, Mapping):
            pairs += numbers(value, key=f"{key}{name}.")
        elif isinstance(value, int | float):
            pairs.append((f"{key}{name}", float(value)))
    return pairs
