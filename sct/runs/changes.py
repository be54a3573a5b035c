"""Settings that a trained run is opened with, instead of those of its training: above all of the pruning method."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sct.config.check import nearest, resolve_target
from sct.config.trust import Trust
from sct.errors import UserError

logger = logging.getLogger(__name__)

# in a run's folder; has one folder for each set of changed settings, with `eval` and profile.json as a run has them
FOLDER = "changed"
KEY = "encoder.reducer"
# characters of a value that the name of a folder should not have
UNTIDY = r"[^\w.+-]+"


def changed_settings(config: DictConfig, asked: Mapping[str, Any], *, trust: Trust) -> dict[str, Any]:
    """The settings of the run's pruning method that `asked`, single settings of `encoder`, changes; those equal to
    the run's are left out.

    UserError for a setting that a trained network cannot change: a reducer names the others in `changeable`, and in
    `training_only` those that have no effect any more.
    """
    if others := [name for name in asked if name != "reducer"]:
        raise UserError(
            f"encoder.{others[0]} belongs to the weights of the run and can't be changed after training. Of the "
            f"encoder, single settings of {KEY} can be. Leave it out, or train another run."
        )
    if not isinstance(asked["reducer"], Mapping):
        raise UserError(f"{KEY}={asked['reducer']}: of a trained run, change single settings: {KEY}.KEY=VALUE.")
    reducer = config.encoder.get("reducer") if config.get("model") is None else None
    if reducer is None:
        raise UserError(f"{KEY}: this run has no pruning method, so it has no setting to change. Leave {KEY} out.")
    method = resolve_target(str(reducer["_target_"]), key=KEY, trust=trust)
    known = tuple(getattr(method, "changeable", ())) + tuple(getattr(method, "training_only", ()))
    changes = {}
    for name, value in dict(asked["reducer"]).items():
        if name not in known:
            raise UserError(
                f"{KEY}.{name} of a trained {method.__name__} can't be changed: it belongs to its weights or to the "
                f"places where it prunes. {nearest(name, known) if known else 'It has no setting that can be.'} "
                "Otherwise train another run."
            )
        before = reducer.get(name)
        if before == value:
            continue
        if name in method.training_only:
            logger.warning("%s.%s=%s has no effect on a trained run: it acts in training alone", KEY, name, value)
        logger.info("%s.%s=%s, in training %s", KEY, name, value, "its default" if before is None else before)
        changes[name] = value
    return changes


def folder_of(run: Path, *, changed: Mapping[str, Any]) -> Path:
    """The folder for evaluation and profile of a run: the run's own, or one below it for changed settings."""
    return run / FOLDER / label(changed) if changed else run


def label(changes: Mapping[str, Any]) -> str:
    """Changed settings as the name of a folder and in tables: p0=0.9,k=3."""
    return ",".join(f"{name}={re.sub(UNTIDY, '-', str(value))}" for name, value in sorted(changes.items()))


def resolved(settings: dict[str, Any], *, of: dict[str, Any]) -> dict[str, Any]:
    """The values in a config `of` a run that single settings of a command have become."""
    return {
        key: resolved(value, of=of[key]) if isinstance(value, dict) and "_target_" not in value else of[key]
        for key, value in settings.items()
    }


def plain(settings: Any) -> Any:
    """Settings of a command as plain containers."""
    return OmegaConf.to_container(settings) if isinstance(settings, DictConfig) else settings
