"""The keys of a config with their meanings: what `--help` and docs/reference/config.md list.

A meaning is a line `key: meaning` in the docstring of what the config builds, or of the schema. It goes on to the next
such line or to the next empty one. It is read from the source without importing it, as signatures are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from sct.config.check import HYDRA_KEYS
from sct.config.folders import find_file
from sct.config.signatures import from_source
from sct.config.source import PACKAGE, find, written

# lines of a config's first comment that say how it is called and what to expect, and not what it is
NOTES = ("@package", "Command:", "Cost:", "Runs:", "Expect:")


@dataclass(frozen=True)
class Key:
    """A key of a config: its dotted name, its value as YAML, what it means ("" where nobody wrote it), its owner.

    owner: name of the class or function that takes the key; of a class, the base that says what it means
    is_section: whether it has keys of its own
    """

    name: str
    value: str
    meaning: str
    owner: str
    is_section: bool = False


def keys_of(node: DictConfig, *, prefix: str = "") -> Iterator[Key]:
    """All keys of a composed config that has a schema or a target, and of the nodes in it that have one of sct."""
    owner = owner_of(node)
    known = meanings(owner)
    for name in map(str, node):
        if name in HYDRA_KEYS:
            continue
        # what refers to another key is shown as it is written
        child = node._get_node(name)
        is_section = bool(owner_of(child))
        meaning, home = known.get(name, ("", owner.rpartition(".")[2]))
        yield Key(f"{prefix}{name}", value_text(child), meaning, home, is_section)
        if isinstance(child, DictConfig) and is_section:
            yield from keys_of(child, prefix=f"{prefix}{name}.")


def owner_of(node: Any) -> str:
    """The dotted path of what takes the keys of a node; "" for other projects' targets, plain mappings and null."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return ""
    kind = OmegaConf.get_type(node)
    if kind is not None and kind is not dict:
        return f"{kind.__module__}.{kind.__name__}"
    target = str(node.get("_target_", ""))
    return target if target.split(".")[0] == PACKAGE.name else ""


def value_text(node: Any) -> str:
    """A value as YAML on one line; of a node with a target the target's name, of several such nodes their keys."""
    if node is None or node._is_none():
        return "null"
    if node._is_missing():
        return "???"
    value = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()
    if isinstance(value, dict) and "_target_" in value:
        return str(value["_target_"]).rpartition(".")[2]
    if isinstance(value, dict) and any(isinstance(part, dict) and "_target_" in part for part in value.values()):
        return "{" + ", ".join(map(str, value)) + "}"
    if isinstance(value, str) and value.startswith("${"):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def meanings(path: str) -> dict[str, tuple[str, str]]:
    """Of all keys that a dotted path of this project takes: the meaning, and where it is written."""
    definition = find(path) if path else None
    signature = from_source(path) if path else None
    if definition is None or signature is None:
        return {}
    return written(definition, known=set(signature.names))


def description(group: str, name: str) -> str:
    """The first sentence of a config file's first comment."""
    file = find_file(group, name)
    words: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file is not None else []:
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or (words and text.startswith(NOTES)):
            break
        # a note goes on in lines that are set in
        if not text.startswith(NOTES) and not line.startswith("#  "):
            words.append(text)
    return re.split(r"(?<=\.)\s", " ".join(words), maxsplit=1)[0]
