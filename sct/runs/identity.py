"""Whether two configs are of one run, and what differs between them."""

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf

from sct.config.schema import Config
from sct.config.signatures import initialisers

# keys that may differ between two starts of the same run
NOT_IDENTITY = ("resume", "run_dir", "ckpt", "profile", "plugins", "found")
# settings of the data that only scores depend on
SCORING = ("tolerance",)


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The resolved config without the keys that may differ between two starts of one run; the name is only a label."""
    kept = {key: value for key, value in config.items() if key not in (*NOT_IDENTITY, "name")}
    data = kept.get("data")
    return {**kept, "data": {key: data[key] for key in data if key not in SCORING}} if data else kept


def differing(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The sorted keys in which the config of a run differs from that of a command, which is checked already.

    A setting that the saved config lacks, since the version that wrote it did not have it, counts with its default.
    """
    schema = OmegaConf.to_container(OmegaConf.structured(Config))
    before, now = identity(saved), identity(current)
    return sorted(changed_keys(completed(before, now, schema=schema), now))


def completed(saved: Any, current: Any, *, schema: Any = None) -> Any:
    """`saved` with the defaults of settings that `current` has and it lacks, those of nodes within it too.

    They come from the class that a node names, else from `schema`, the same place in the schema.
    """
    if not isinstance(saved, dict) or not isinstance(current, dict):
        return saved
    defaults: Mapping[str, Any] = schema if isinstance(schema, dict) else {}
    if saved.get("_target_") == current.get("_target_") is not None:
        defaults = default_settings(current["_target_"])
    result = dict(saved)
    for key, value in current.items():
        if key in saved:
            result[key] = completed(saved[key], value, schema=defaults.get(key))
        elif key in defaults:
            result[key] = defaults[key]
    return result


@cache  # a sweep compares each of its jobs with all its runs
def default_settings(path: str) -> Mapping[str, Any]:
    """The defaults of what the class or function of a dotted path takes."""
    target = get_object(path)
    functions: Iterable[Any] = initialisers(target) if inspect.isclass(target) else [target]
    found: dict[str, Any] = {}
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty:
                value = parameter.default
                found.setdefault(name, list(value) if isinstance(value, tuple) else value)
    return found


def changed_like(saved: dict[str, Any], *, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`saved` with all differences between `old` and `new` applied."""
    result = {key: value for key, value in saved.items() if key in new or key not in old}
    for key, value in new.items():
        if key in old and old[key] == value:
            continue
        nested = all(isinstance(node.get(key), dict) for node in (saved, old, new))
        result[key] = changed_like(saved[key], old=old[key], new=value) if nested else value
    return result


def changed_keys(old: Any, new: Any, *, key: str = "") -> set[str]:
    """Dotted keys at which two containers differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (changed_keys(old.get(k), new.get(k), key=f"{key}.{k}" if key else k) for k in {**old, **new})
        return set().union(*parts)
    return set() if old == new else {key}
