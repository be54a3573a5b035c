"""What comes from outside is data: plain containers of a bounded size, read without running or looking up anything.

Configs of runs, cards, manifests and descriptions of data sets pass here. OmegaConf gets nothing else: it would look up
`${...}`, also in the environment of the user.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sct.errors import UserError

MOST_BYTES = 64 * 2**20  # of a text file; cards of the largest data sets have 1 MB
MOST_VALUES = 100_000  # of a config
MOST_LEVELS = 32
MOST_LETTERS = 2**16  # of one text in a config
MOST_BITS = 63  # of a whole number
# a text in which OmegaConf looks something up, and one that has the path of another key in it and no resolver
LOOKUP = re.compile(r"\$\{")
KEY_ALONE = re.compile(r"\$\{[\w.]+\}")
CLIPPED = 60


def plain_config(config: Any, *, place: str | Path) -> dict[str, Any]:
    """A saved config as new plain containers; UserError for anything else than texts, numbers, lists and mappings.

    place: the file or folder that it was read from, for messages
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{place}: its config is no mapping of settings. Take the original file.")
    count = 0

    def copied(value: Any, key: str, level: int) -> Any:
        nonlocal count
        count += 1
        if count > MOST_VALUES or level > MOST_LEVELS:
            raise UserError(f"{place}: its config has over {MOST_VALUES} values or {MOST_LEVELS} levels: no run's has.")
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            if value.bit_length() > MOST_BITS:
                raise UserError(f"{place}: {key or 'its config'} holds a number of {value.bit_length()} bits.")
            return value
        if isinstance(value, str):
            check_text(value, key=key, place=place)
            return value
        if isinstance(value, list | tuple):
            return [copied(item, f"{key}.{number}", level + 1) for number, item in enumerate(value)]
        if isinstance(value, Mapping):
            names = [str(name) for name in value]
            # of two keys that look alike, only one would be checked
            if len(set(names)) < len(names) or not all(isinstance(name, str | int) for name in value):
                raise UserError(f"{place}: the keys of {key or 'its config'} are no different texts or numbers.")
            inner = f"{key}." if key else ""
            for name in value:
                copied(name, f"{inner}{clipped(name)}", level + 1)
            return {name: copied(item, f"{inner}{clipped(name)}", level + 1) for name, item in value.items()}
        raise UserError(
            f"{place}: {key} is a {type(value).__name__}. A saved config holds texts, numbers, lists and mappings."
        )

    return copied(config, "", 0)


def check_text(text: str, *, key: str, place: str | Path) -> None:
    """UserError for a text that OmegaConf or the system would read as something else than this text."""
    if LOOKUP.search(text):
        raise UserError(
            f"{place}: {key}={clipped(text)} refers to something else by ${{...}}, and a run saves plain values. "
            "Write the value itself there, if the file is yours."
        )
    if "\0" in text or len(text) > MOST_LETTERS:
        raise UserError(f"{place}: {key} is a text of {len(text)} letters, or holds one that no text has.")


def clipped(text: object) -> str:
    """The beginning of a text, for messages."""
    shown = str(text)
    return shown if len(shown) <= CLIPPED else f"{shown[:CLIPPED]}..."


def read_text(path: Path) -> str:
    """A text file (UTF-8, also with a byte-order mark) of a bounded size; UserError where it is none."""
    try:
        if not path.is_file():
            raise UserError(f"{path} is no file.")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path} has {path.stat().st_size / 1e6:.0f} MB, which no such file of a run or data set has."
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}).") from error


def read_json(path: Path, *, remedy: str, constants: bool = True) -> Any:
    """The content of a JSON file of a bounded size and depth; UserError that ends with `remedy` where it is none.

    A key that an object has twice, of which one value would be lost, is refused.
    constants: allow NaN and Infinity, which JSON does not have, but scores do
    """
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=_without_twice, parse_constant=None if constants else _no_constant)
        json.dumps(content, ensure_ascii=False).encode()  # half of a pair of surrogates is no text
        return content
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise UserError(f"{path} can't be read, it is not JSON ({type(error).__name__}: {error}). {remedy}") from error


def _without_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} is there twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def read_yaml_config(path: Path) -> dict[str, Any]:
    """A saved config in YAML, see `plain_config`; anchors are refused, since a few of them can mean endless content."""
    text = read_text(path)
    try:
        content = yaml.load(text, Loader=PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).replace("\n", " ")
        raise UserError(f"{path} is no config that a run saves ({type(error).__name__}: {reason}).") from error
    return plain_config(content, place=path)


class PlainLoader(yaml.SafeLoader):
    """YAML as OmegaConf writes it: without anchors and dates; 1e-5 is a number."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "it refers to an anchor", self.peek_event().start_mark)
        return super().compose_node(parent, index)


PlainLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?)$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
