"""Whether a value from a config fits the type hint of the argument it is meant for, and hints in words."""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}


def fits(value: Any, hint: Any) -> bool:
    """False where `value` surely has another type than `hint`; hints that this file doesn't know accept all."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin in WORDS:
        return type(value) is origin
    if origin in (list, Sequence):
        return isinstance(value, ListConfig) and all(fits(item, argument) for item in value for argument in arguments)
    if origin in (dict, Mapping):
        return isinstance(value, DictConfig)
    return True


def in_words(hint: Any) -> str:
    """A hint as a user reads it: `int | None` is "a whole number or null"."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(in_words(choice) for choice in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (list, Sequence):
        return "a list" + "".join(f", each item {in_words(argument)}" for argument in arguments)
    if origin in (dict, Mapping):
        return "a mapping"
    return WORDS.get(origin, str(origin))
