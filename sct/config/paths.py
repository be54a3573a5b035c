"""Values on the command line that are text, such as paths: taken as the shell gives them, whatever is in them.

Hydra has a grammar of its own for values, in which `,` `=` `(` `#` `'` and letters such as ü mean something or are not
allowed. The value of a key of this file is a path or a name: it is quoted for Hydra where that grammar would read
something else, so that the user quotes it for the shell alone.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

# keys whose value is a path, or a list of paths in brackets
PATHS = (
    *("input", "output", "ckpt", "run_dir", "resume", "init", "pretrained", "card", "papers", "runs"),
    *("data.root", "data.cache_dir", "data.split", "loss.teacher", "paths.data", "paths.outputs", "paths.cache"),
)
# keys whose value is another text, or a list of such
TEXTS = ("name", "authors", "baseline", "data.patient_pattern", "data.exclude")
# keys that take a list in brackets, so that a text that begins with a bracket is none
LISTS = ("runs", "data.exclude")


def text_overrides(arguments: Sequence[str]) -> list[str]:
    """A command line in which the values of all keys of this file are read as text, and `~` as the home folder.

    In a sweep (-m) a comma parts the values of jobs as it does for every other key; a path with a comma then has a
    pair of quotes of its own.
    """
    swept = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments)
    return [text_override(argument, swept=bool(swept)) for argument in arguments]


def text_override(argument: str, *, swept: bool) -> str:
    """One argument of a command line; what is no override of such a key is left alone."""
    match = re.fullmatch(r"(\+{0,2})([\w.]+)=(.+)", argument, flags=re.DOTALL)
    if match is None or match[2] not in (*PATHS, *TEXTS):
        return argument
    sign, key, value = match.groups()
    is_path = key in PATHS
    if key in LISTS and re.fullmatch(r"\[.*\]", value, flags=re.DOTALL):
        if "],[" in value:  # lists of several jobs
            return argument
        items = [as_text(item, is_path=is_path) for item in parted(value[1:-1])]
        return f"{sign}{key}=[{','.join(items)}]"
    if swept:
        # also what Hydra calls a sweep, such as glob(*) for names of a group
        if is_function(value):
            return argument
        return f"{sign}{key}={','.join(as_text(item, is_path=is_path) for item in parted(value))}"
    return f"{sign}{key}={as_text(value, is_path=is_path)}"


def as_text(value: str, *, is_path: bool) -> str:
    """A value as Hydra must be given it, so that it reads this text; null and ??? keep their meaning."""
    if value in ("null", "???", ""):
        return value
    text = unquoted(value)
    quotes = text is not None
    text = value if text is None else text
    if is_path and text.startswith("~"):
        text = home_in(text)
    plain = read(text)
    if isinstance(plain, str) and plain == text and not (quotes and text in ("null", "???")):
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """A text in the quotes that Hydra takes around any text."""
    return QuotedString(text=text, quote=Quote.single).with_quotes()


def home_in(text: str) -> str:
    """A path with the home folder for `~` or `~user`; unchanged where there is no such user."""
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        return text


def unquoted(value: str) -> str | None:
    """What is within the quotes that a user gave for Hydra; None for a value without them."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return None
    found = read(value)
    return found.text if isinstance(found, QuotedString) else None


def read(value: str) -> Any:
    """What Hydra reads in a value, with quotes around it where there are such; None where that is not its grammar."""
    try:
        return OverridesParser.create().parse_rule(value, "element")
    except HydraException:
        return None


def is_function(value: str) -> bool:
    """Whether a value is one of Hydra's sweeps with a name: glob(*), choice(a,b), range(1,3), ..."""
    return re.fullmatch(r"(choice|range|glob|interval|shuffle|sort|tag|extend_list)\(.*\)", value) is not None


def parted(text: str) -> Iterator[str]:
    """The parts of a text between commas that are in no quotes, without spaces around them."""
    part, quote = "", ""
    for letter in text:
        if letter == "," and not quote:
            yield part.strip()
            part = ""
            continue
        if letter in "'\"":
            quote = "" if letter == quote else quote or letter
        part += letter
    if part.strip():
        yield part.strip()


def whole_nodes(arguments: Iterable[str]) -> list[str]:
    """A command line in which a dict for a key takes the place of all that is there, where merging can't be meant.

    Hydra merges a dict into the one of the config: of a dict with a `_target_` the settings of the old target would
    stay, and an empty one would change nothing.
    """
    rewritten = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and re.fullmatch(r"\w+(\.\w+)+", key) and value.startswith("{") and is_whole(argument):
            rewritten += [f"{key}=null", f"++{argument}"]
        else:
            rewritten.append(argument)
    return rewritten


def is_whole(argument: str) -> bool:
    """Whether an override gives a dict that is empty or has a target."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False  # Hydra says what is wrong
    value = None if override.is_sweep_override() else override.value()
    return isinstance(value, dict) and (not value or "_target_" in value)
