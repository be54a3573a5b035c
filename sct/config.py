"""The schema of a run's config, its key check, and the one place that turns config nodes into objects."""

import difflib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from sct.errors import UserError
from sct.profiling import ProfileSettings

PACKAGE = Path(__file__).parent
# a wheel carries the configs inside the package, a checkout beside it
CONFIG_DIR = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
ALLOWED_PACKAGES = ("sct", "torch", "monai")
GROUPS = ("data", "encoder", "completion", "decoder", "loss", "optimizer", "schedule", "inferer")
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}


@dataclass
class PathsConfig:
    data: str = "data"
    outputs: str = "outputs"
    cache: str = "${paths.outputs}/cache"


@dataclass
class PruningConfig:
    """What every pruning method shares, so that swapping the encoder keeps places and ratio."""

    blocks: list[int] = field(default_factory=lambda: [3, 6, 9])
    ratio: float = 0.9


@dataclass
class TrainerConfig:
    """How a run is trained. Steps are the clock: one step is one optimizer update."""

    max_steps: int = 1000
    device: str = "auto"
    precision: str = "fp32"
    accumulate: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    compile: bool = False
    deterministic: bool = True
    log_every: int = 10
    validate_every: int = 100
    save_every: int = 100
    best_metric: str = "val/dice/mean"
    tensorboard: bool = True


@dataclass
class Config:
    """Root of `train` and `profile`: every group of `configs/` is one key."""

    name: str = MISSING
    seed: int = 0
    resume: str | None = None
    run_dir: str | None = None
    ckpt: str | None = None
    data: dict[str, Any] = MISSING
    encoder: dict[str, Any] = MISSING
    completion: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    inferer: dict[str, Any] = MISSING
    pruning: PruningConfig = field(default_factory=PruningConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class InferenceConfig:
    """What evaluation and prediction share; `null` keeps what the run was trained with."""

    ckpt: str = MISSING
    weights: str = "best"
    device: str = "auto"
    precision: str | None = None
    inferer: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvalConfig(InferenceConfig):
    split: str = "test"
    output: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    save_predictions: bool = True
    figures: int = 3


@dataclass
class PredictConfig(InferenceConfig):
    input: str = MISSING
    output: str = MISSING


def register_schemas() -> None:
    """Makes the schemas known to Hydra; the root configs name them in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=Config)
    store.store(name="eval_schema", node=EvalConfig)
    store.store(name="predict_schema", node=PredictConfig)


def build(node: DictConfig, *, key: str, **runtime: Any) -> Any:
    """The object that a `_target_` node describes; `runtime` arguments are not in the config.

    `key` is the node's place in the config, for messages. UserError for a target outside `ALLOWED_PACKAGES`,
    an unknown or missing setting, or what the object itself refuses.
    """
    check_node(node, key=key)
    try:
        return instantiate(node, _convert_="all", **runtime)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from error
        raise
    except MissingMandatoryValue as error:
        raise UserError(f"{str(error).splitlines()[0]} Set it on the command line.") from error


def check_config(cfg: DictConfig) -> None:
    """UserError at the first unknown key, missing value or dangling interpolation in any group of a run's config."""
    for group in GROUPS:
        if group in cfg:
            check_node(cfg[group], key=group)


def check_node(node: DictConfig, *, key: str) -> None:
    """Checks target, keys and values of a `_target_` node and of all nodes in it."""
    target = resolve_target(node, key=key)
    known = [name for name in inspect.signature(target).parameters if name not in ("self", "args", "kwargs")]
    for name in map(str, node):
        if name not in HYDRA_KEYS and name not in known:
            raise UserError(f"Unknown key {key}.{name}: {target.__name__} has no such setting. {nearest(name, known)}")
    for name in map(str, node):
        try:
            child = node[name]
        except MissingMandatoryValue as error:
            raise UserError(f"{key}.{name} is not set; give it on the command line: {key}.{name}=VALUE.") from error
        except InterpolationKeyError as error:
            raise UserError(f"{key}.{name}: {str(error).splitlines()[0]}") from error
        for path, inner in target_nodes(child, key=f"{key}.{name}"):
            check_node(inner, key=path)


def target_nodes(node: Any, *, key: str) -> Iterator[tuple[str, DictConfig]]:
    """The outermost `_target_` nodes at or below a node, with their keys."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield key, node
    elif isinstance(node, DictConfig):
        for name in node:
            yield from target_nodes(node[name], key=f"{key}.{name!s}")
    elif isinstance(node, ListConfig):
        for i, item in enumerate(node):
            yield from target_nodes(item, key=f"{key}.{i}")


def resolve_target(node: DictConfig, *, key: str) -> Any:
    """The object behind `_target_`, only from the allowed packages, judged by where it really comes from."""
    if "_target_" not in node:
        raise UserError(f"{key} has no _target_: choose one with {key}=NAME ({options_text(key)}).")
    path = node["_target_"]
    try:
        target = get_object(path)
    except Exception as error:
        raise UserError(f"{key}._target_={path} can't be imported: {error}") from error
    home = getattr(target, "__module__", None) or ""
    if home.split(".")[0] not in ALLOWED_PACKAGES:
        raise UserError(
            f"{key}._target_={path} comes from {home or 'nowhere'}; only {', '.join(ALLOWED_PACKAGES)} are allowed."
        )
    return target


def to_dict(cfg: Any) -> dict[str, Any]:
    """A config as plain, resolved containers."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def options_text(group: str) -> str:
    names = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    return "one of " + ", ".join(names) if names else "see configs/"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {match[0]!r}?" if match else f"Known: {', '.join(known)}."
