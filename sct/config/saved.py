"""What a run folder may say of the command that made it: overrides, which are data and no more than settings."""

import logging
import re
from dataclasses import fields
from pathlib import Path

from sct.config.check import GROUPS
from sct.config.paths import text_overrides, unquoted
from sct.config.schema import Config
from sct.errors import UserError
from sct.runtime.migration import overrides_of_today
from sct.runtime.plain import KEY_ALONE, LOOKUP, clipped, read_json

logger = logging.getLogger(__name__)

# folders of configs/ that are no key of a config but whole sets of settings
APPENDED = ("experiment", "recipe", "variant", "sweep", "debug")
# first parts of the keys that may stand in the overrides of a run folder
SAVED = {field.name for field in fields(Config)} - {"plugins", "resume", "run_dir", "ckpt", "found"} | set(APPENDED)
# keys of these, or first parts of keys, that say where files are written
PLACES = ("data.cache_dir", "paths")


def key_of(override: str) -> str:
    """The key that an override is about."""
    return override.split("=")[0].lstrip("+~")


def saved_overrides(folder: Path) -> list[str]:
    """What the command line of a run folder asked for, of the settings of a config alone.

    What no run saves (see `is_saved`) is left out; UserError where the file is no list of overrides.
    """
    file = folder / "overrides.json"
    try:
        content = read_json(file, remedy="Restore it, or start a new run.")
    except UserError:  # the card tells them, too
        content = read_again(file, card=folder / "card.json")
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise UserError(f"{file} is no list of overrides KEY=VALUE. Restore it, or start a new run.")
    overrides = overrides_of_today(content)
    kept = [override for override in overrides if is_saved(override)]
    if left_out := [override for override in overrides if override not in kept]:
        logger.warning("%s: left out %s; give it on the command line", file, ", ".join(map(clipped, left_out)))
    return kept


def read_again(path: Path, *, card: Path) -> list[str]:
    """The overrides of a damaged file as the card of the run tells them; UserError if that is damaged, too."""
    try:
        overrides = list(read_json(card, remedy="")["command"][3:])
    except (UserError, TypeError, KeyError) as error:
        raise UserError(f"{path} and {card} are damaged. Restore one of them, or start a new run.") from error
    logger.warning("%s is damaged: it is made again from %s", path, card)
    return overrides


def is_saved(override: str) -> bool:
    """Whether an override may stand in a run folder: a setting of the config, or a group's file by its name alone.

    An option of Hydra, a file outside the config folders and `plugins` would run code that the command does not name;
    `${oc.env:NAME}` would take the environment of the user into the files of the run.
    """
    parts = re.fullmatch(r"[+~]{0,2}(\w+)((?:\.[^=/@:]+)?)(?:=(.*))?", override, flags=re.DOTALL)
    if parts is None or parts[1] not in SAVED or (parts[3] is None and not override.startswith("~")):
        return False
    value = parts[3] or ""
    is_choice = not parts[2] and parts[1] in (*GROUPS, *APPENDED)
    return LOOKUP.search(KEY_ALONE.sub("", value)) is None and (
        not is_choice or value.startswith("{") or not (".." in value or re.search(r"^[/\\]|:", value))
    )


def names_a_place(override: str) -> bool:
    """Whether an override says where files are written: a saved one does not, for the command at hand."""
    key = key_of(override)
    return key in PLACES or key.split(".")[0] in PLACES


def resumed_arguments(arguments: list[str]) -> list[str]:
    """A command line behind the overrides of the run that its `resume=PATH` means: their keys are then known."""
    arguments = text_overrides(arguments)
    resumed = next((a.removeprefix("resume=") for a in arguments if a.startswith("resume=")), "")
    folder = Path(unquoted(resumed) or resumed)
    if not (folder / "overrides.json").exists():
        return arguments
    given = {key_of(argument) for argument in arguments}
    saved = [override for override in saved_overrides(folder) if not names_a_place(override)]
    before = [override for override in saved if key_of(override) not in given]
    # of a sweep it is one job alone that goes on
    alone = ["hydra.mode=RUN"] if any(key_of(override) == "sweep" for override in before) else []
    return before + alone + arguments
