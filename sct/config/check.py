"""The checks of a config, and the one place that turns config nodes into objects."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from sct.config.folders import options_text
from sct.config.hints import fits, in_words
from sct.config.parts import check_library_settings, is_part
from sct.config.requests import PlanConfig
from sct.config.schema import Config
from sct.config.signatures import Signature, from_source, object_signature
from sct.config.trust import LIBRARIES, OWN, SHIPPED_ALONE, Trust, is_plugin, trust_working_directory
from sct.errors import UserError
from sct.runtime.imports import IMPORTING
from sct.runtime.plain import clipped

GROUPS = ("data", "encoder", "completion", "decoder", "look", "model", "loss", "optimizer", "schedule", "inferer")
# what Hydra itself reads in a node, with the values that each may have
HYDRA_KEYS: dict[str, tuple[Any, ...] | None] = {
    "_target_": None,
    "_partial_": (True, False),
    "_recursive_": (True, False),
    "_convert_": ("none", "partial", "object", "all"),
}

# how OmegaConf is asked for a variable of the environment
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w*)")

# gives the signature of a target from its dotted path, its node's key and the trust; None where it can't be told
SignatureReader = Callable[[str, str, Trust], Signature | None]


def build(node: DictConfig, *, key: str, trust: Trust = SHIPPED_ALONE, **runtime: Any) -> Any:
    """The object that a `_target_` node describes; `runtime` arguments are not in the config.

    `key` is the node's place in the config, for messages; `trust` says which packages its targets may be of.
    UserError for a target of another package, an unknown or missing setting, or what the object itself refuses.
    """
    check_node(node, key=key, read=read_object, trust=trust)
    try:
        # runtime arguments are handed over by a call: through Hydra a dataclass would become a config
        made = instantiate(node, _convert_="all", **({"_partial_": True} if runtime else {}))
        return made(**runtime) if runtime else made
    except UserError:
        raise
    except (InstantiationException, TypeError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        # how torch and MONAI refuse a setting
        if isinstance(cause, TypeError | ValueError):
            hint = " A part that is built later needs _partial_: true." if "required keyword-only" in str(cause) else ""
            raise UserError(f"{key} ({node['_target_']}) refuses its settings: {cause}{hint}") from error
        raise cause from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError) as error:
        if trust.saved_in is None:
            raise
        # settings that no training had: sizes that do not fit into memory, empty lists, ...
        raise UserError(
            f"{key} ({node['_target_']}) can't be built with its settings in {trust.saved_in} "
            f"({type(error).__name__}: {clipped(error)}). Take the original file."
        ) from error


def read_source(path: str, key: str, trust: Trust) -> Signature | None:
    """What a target of this project takes, without importing it."""
    return from_source(path)


def read_object(path: str, key: str, trust: Trust) -> Signature:
    """What a target takes, imported; UserError where that is not allowed."""
    return object_signature(resolve_target(path, key=key, trust=trust))


def check_composed(cfg: DictConfig) -> None:
    """UserError at the first mistake in a command's config that is found without importing torch or what it names.

    What this can't find, `check_config` and the objects themselves do once they are imported.
    """
    check_section(cfg)
    check_environment(cfg)
    if OmegaConf.get_type(cfg) is Config and trains_anew(cfg):
        check_config(cfg, read=read_source, trust=Trust())
    if OmegaConf.get_type(cfg) is PlanConfig:
        check_node(cfg.data, key="data", read=read_source, trust=Trust())
    # the sections of the schema refuse values of their own
    OmegaConf.to_object(cfg)


def check_environment(cfg: DictConfig) -> None:
    """UserError where a config takes a value from the environment: it would stand in files that are passed on."""
    for key, text in texts(OmegaConf.to_container(cfg)):
        if (found := ENVIRONMENT.search(text)) is not None:
            raise UserError(
                f"{key}={text} takes a value from the environment, and what a run saves is passed on to others. Give "
                f'the value itself; on a command line the shell fills it in, as in {key}="${found[1]}".'
            )


def texts(node: Any, *, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in plain containers, with their keys."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from texts(child, key=f"{key}.{name}" if key else str(name))


def trains_anew(cfg: DictConfig) -> bool:
    """Whether the groups of a config are what runs; else those of a finished run are, and of this one single keys."""
    return cfg.ckpt is None and cfg.resume in (None, "auto", "once")


def check_config(cfg: DictConfig, *, read: SignatureReader = read_object, trust: Trust = SHIPPED_ALONE) -> None:
    """UserError at the first unknown key, bad or missing value or dangling reference in any group of a run's config.

    `read` finds out what a target takes; the default imports it. `trust` says which packages targets may be of.
    """
    unused: tuple[str, ...] = ("model",) if cfg.get("model") is None else ("encoder", "completion", "decoder")
    if cfg.get("look") is None:
        unused += ("look",)
    for group in GROUPS:
        if group not in unused:
            check_node(cfg[group], key=group, read=read, trust=trust)


def check_section(node: DictConfig, *, key: str = "") -> None:
    """The same for a node with a schema and the sections in it: what `+key=value` adds passes Hydra unseen."""
    known = list(get_type_hints(OmegaConf.get_type(node)))
    for name in map(str, node):
        if name not in known:
            raise UserError(f"Unknown key {key}{name}. {nearest(name, known)}")
        child = value_of(node, name, key=f"{key}{name}")
        if isinstance(child, DictConfig) and OmegaConf.get_type(child) is not dict:
            check_section(child, key=f"{key}{name}.")


def check_node(node: Any, *, key: str, read: SignatureReader, trust: Trust) -> None:
    """Checks target, keys and values of a `_target_` node and of all nodes in it."""
    path = target_path(node, key=key, trust=trust)
    signature = read(path, key, trust)
    if signature is not None:
        check_names(node, key=key, signature=signature, target=path.rpartition(".")[2])
    hints = {} if signature is None else signature.hints
    if trust.saved_in is not None and path.split(".")[0] in LIBRARIES:
        check_library_settings(node, key=key)
    for name in node:
        child = value_of(node, name, key=f"{key}.{name}")
        if name in hints and not fits(child, hints[name]):
            raise UserError(f"{key}.{name}={child} must be {in_words(hints[name])}.")
        for inner_key, inner in target_nodes(child, key=f"{key}.{name}"):
            check_node(inner, key=inner_key, read=read, trust=trust)


def check_names(node: DictConfig, *, key: str, signature: Signature, target: str) -> None:
    """UserError for a key of a node that its target does not take, or that the program gives to it."""
    for name in map(str, node):
        allowed = HYDRA_KEYS.get(name)
        if allowed is not None and (type(node[name]) is not type(allowed[0]) or node[name] not in allowed):
            raise UserError(f"{key}.{name}={node[name]} must be one of {', '.join(map(str, allowed))}.")
        if name in signature.handed_over:
            raise UserError(
                f"{key}.{name} can't be set: {target} is given it by the program, from the data set and the other "
                "parts of the network. Leave it out."
            )
        if name not in HYDRA_KEYS and name not in signature.names:
            hint = nearest(name, signature.names)
            # an experiment's settings of one choice of a group stay when another is chosen
            stays = "" if hint.startswith("Did") else f" Where an experiment sets it, take it out: '~{key}.{name}'."
            raise UserError(
                f"Unknown key {key}.{name} in a config file or on the command line: {target} has no such "
                f"setting. {hint}{stays}"
            )


def value_of(node: DictConfig, name: Any, *, key: str) -> Any:
    """The value at a key; UserError where it is mandatory and missing, or refers to nothing."""
    try:
        return node[name]
    except MissingMandatoryValue as error:
        raise UserError(f"{key} is not set; give it on the command line: {key}=VALUE.") from error
    except InterpolationResolutionError as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}. Correct the reference.") from error


def target_nodes(node: Any, *, key: str) -> Iterator[tuple[str, DictConfig]]:
    """The outermost `_target_` nodes at or below a node, with their keys."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield key, node
    elif isinstance(node, DictConfig):
        for name in node:  # as it is, which may be a number
            inner = f"{key}.{name!s}"
            yield from target_nodes(value_of(node, name, key=inner), key=inner)
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from target_nodes(item, key=f"{key}.{i}")


def target_path(node: Any, *, key: str, trust: Trust) -> str:
    """The dotted path of a node's target; UserError where it has none, or one that the config may not name."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{key} has no _target_: choose one with {key}=NAME ({options_text(key)}).")
    path = node["_target_"]
    if not isinstance(path, str):
        raise UserError(f"{key}._target_={path} must be the name of a class.")
    trust.check_path(path, key=key)
    return path


def resolve_target(path: str, *, key: str, trust: Trust) -> Any:
    """The class or function of a dotted path; UserError where the config may not name it.

    Of torch and MONAI classes only: some of their functions run commands, or download and run code.
    """
    trust.check_path(path, key=key)
    if is_plugin(path.split(".")[0]):
        trust_working_directory()
    try:
        with IMPORTING:
            target = get_object(path)
    except Exception as error:
        raise UserError(
            f"{key}._target_={path} can't be imported: {error} Correct the name. A package of your own must be "
            "installed, or lie in the working directory."
        ) from error
    # modules that an allowed package has imported are reached through it
    home = (getattr(target, "__module__", None) or "").split(".")[0]
    if not trust.allows(home):
        raise UserError(trust.refusal(path, package=home, key=key))
    if home in LIBRARIES and not inspect.isclass(target):
        raise UserError(f"{key}._target_={path} is not allowed: of {home}, a class can be named, but no function.")
    if trust.saved_in is not None:
        check_found(target, path=path, home=home, key=key, trust=trust)
    return target


def check_found(target: Any, *, path: str, home: str, key: str, trust: Trust) -> None:
    """UserError where a saved config names, by whatever path, something of a shipped package that is no part."""
    if home == OWN:
        module, _, name = path.rpartition(".")
        # by its module, and not by what that happens to import from elsewhere
        is_direct = not path.startswith(f"{OWN}.") or getattr(sys.modules.get(module), name, None) is target
        if not (is_part(target) and is_direct):
            raise UserError(trust.no_part(path, key=key))
    if home in LIBRARIES:
        # a plugin does not open what it has imported
        trust.check_path(path if path.split(".")[0] in LIBRARIES else f"{target.__module__}.{target.__name__}", key=key)


def to_dict(cfg: Any) -> dict[str, Any]:
    """A config as plain, resolved containers."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {match[0]!r}?" if match else f"Known: {', '.join(known)}."
