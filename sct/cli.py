"""Entry points: Hydra around a task, and every mistake of the user as one message.

Hydra's own run folders and logging are switched off in `configs/hydra`: a run's folder is ours (`sct.run`).
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sct.config import CONFIG_DIR, nearest, register_schemas
from sct.errors import UserError


def run(task: Callable[[DictConfig], Any], *, config_name: str) -> None:
    """Composes the config from the command line and runs the task; exits with 1 after a user's mistake."""
    # Hydra then raises instead of printing its own reports and exiting
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register_schemas()

    def guarded(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("Interrupted. A run goes on where it stopped with resume=auto.", status=130)

    try:
        hydra.main(config_path=str(CONFIG_DIR), config_name=config_name, version_base="1.3")(guarded)()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error, config_name=config_name))


def fail(message: str, *, status: int = 1) -> None:
    sys.stderr.write(f"Error: {message}\n")
    sys.exit(status)


def explain(error: Exception, *, config_name: str) -> str:
    """Hydra's message about a config, with the nearest valid key where a key is unknown."""
    lines = [line for cause in causes(error) for line in str(cause).splitlines() if line.strip()]
    text = "\n".join(dict.fromkeys(lines))
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        return f"Unknown key {key} on the command line. {nearest(key, known_keys(config_name, without=key))}"
    in_file = re.search(r"Key '([^']+)' not in '([^']+)'", text)
    if in_file:
        name = in_file.group(1)
        place = re.search(r"full_key: (\S+)", text)
        key = place.group(1) if place else name
        return (
            f"Unknown key {key} in a config file (or an experiment file that does not begin with "
            f"'# @package _global_'). {nearest(key, known_keys(config_name))}"
        )
    option = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    if option:
        group, name = option.groups()
        names = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
        return f"There is no {group}={name}. {nearest(name, names)} Choices: {', '.join(names)}."
    return text


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def known_keys(config_name: str, *, without: str = "") -> list[str]:
    """Every valid key of the config that the command line asks for, leaving out its broken overrides."""
    choices = [arg for arg in sys.argv[1:] if "=" in arg and "." not in arg.split("=")[0] and not arg.startswith("-")]
    choices = [arg for arg in choices if arg.split("=")[0].lstrip("+~") != without]
    for overrides in (choices, []):
        try:
            return list(all_keys(OmegaConf.to_container(compose_config(config_name, overrides=overrides))))
        except (HydraException, OmegaConfBaseException):
            continue
    return []


def all_keys(node: Any, *, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all nodes, inner ones included."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield f"{prefix}{name}"
            yield from all_keys(child, prefix=f"{prefix}{name}.")


def compose_config(config_name: str, *, overrides: list[str]) -> DictConfig:
    """The config of a command line, without running anything."""
    register_schemas()
    if GlobalHydra.instance().is_initialized():  # inside a running task
        return compose(config_name=config_name, overrides=overrides)
    with initialize_config_dir(config_dir=str(CONFIG_DIR), version_base="1.3"):
        return compose(config_name=config_name, overrides=overrides)
