"""A plan as two config files: every line with its reason as a comment."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sct.config.folders import CONFIG_DIR, OWN
from sct.errors import UserError
from sct.planning.plan import Plan
from sct.runtime.files import write_text

WIDTH = 120
# what the first line of a planned file begins with: only such files are written over
MARK = "Planned by sct.data plan"
DATA = "data"

STYLE: dict[str, Any] = {"width": 10_000, "allow_unicode": True}


class Plain(yaml.SafeDumper):
    """YAML without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def data_text(plan: Plan, *, about: str, base: str, node: Mapping[str, Any]) -> str:
    """The file of the data set: planned settings first, then those of `node`, the config that the plan began with.

    base: name of that config
    """
    planned = {choice.key: choice for choice in plan.data}
    first = {key: node[key] for key in ("_target_", "root") if key in node}
    rest = {key: value for key, value in node.items() if key not in planned and key not in first}
    lines = [*comment(f"{MARK}, {about}."), *mapping(first)]
    for choice in plan.data:
        lines += setting(choice.key, choice.value, reason=choice.reason)
    lines += [*comment(f"All that follows is as in data={base}, or was read from the files."), *mapping(rest)]
    return "\n".join(lines) + "\n"


def experiment_text(plan: Plan, *, about: str, name: str) -> str:
    """The file of the experiment."""
    lines = [
        "# @package _global_",
        *comment(f"{MARK}, {about}."),
        f"# Command:  python -m sct.train +experiment={name}",
    ]
    lines += ["defaults:", f"  - override /{DATA}: {name}"]
    for choice in plan.groups:
        lines += [f"  {line}" for line in setting(f"- override /{choice.key}", choice.value, reason=choice.reason)]
    lines += ["", f"name: {name}"]
    section = ""
    for choice in plan.settings:
        parent, _, key = choice.key.rpartition(".")
        if parent != section:
            lines.append(f"{parent}:")
            section = parent
        lines += [f"  {line}" for line in setting(key, choice.value, reason=choice.reason)]
    return "\n".join(lines) + "\n"


def setting(key: str, value: Any, *, reason: str) -> list[str]:
    """A key with its reason: behind it where there is room, else above."""
    if not isinstance(value, dict):
        line = f"{key}: {flow(value)}"
        beside = f"{line}  # {reason}"
        return [beside] if len(beside) <= WIDTH - 2 else [*comment(reason), line]
    return [*comment(reason), *mapping({key: value})]


def mapping(values: Mapping[str, Any]) -> list[str]:
    """Keys and values: nested keys on lines of their own, lists and plain mappings on one line."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            text = yaml.dump({key: value}, Dumper=Plain, sort_keys=False, default_flow_style=None, **STYLE)
            lines += text.splitlines()
        else:
            lines.append(f"{key}: {flow(value)}")
    return lines


def flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.dump(value, Dumper=Plain, default_flow_style=True, **STYLE)
    return text.removesuffix("\n").removesuffix("\n...")


def comment(text: str) -> Iterator[str]:
    """Lines of a comment; a text that comes from a user stays within it."""
    yield from (f"# {line}" for line in textwrap.wrap(" ".join(text.split()), width=WIDTH - 4))


def planned_files(name: str, *, folder: Path, overwrite: bool) -> tuple[Path, Path]:
    """Where data set and experiment of a name are written; UserError where a file may not be written there."""
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name) or not isinstance(yaml.safe_load(name), str):
        raise UserError(f"name={name} can't be the name of config files: take letters, digits, - and _, such as mine.")
    files = folder / DATA / f"{name}.yaml", folder / "experiment" / f"{name}.yaml"
    for path in files:
        shipped = CONFIG_DIR / path.parent.name / path.name
        if shipped.is_file() and shipped.resolve() != path.resolve():
            raise UserError(
                f"name={name}: {shipped} is a shipped file, and a shipped name always means the shipped file. Give the "
                "plan another name, name=my_plan."
            )
        if not path.exists():
            continue
        if not is_planned(path):
            raise UserError(f"{path} exists, and no plan wrote it: give the plan another name, name=my_plan.")
        if not overwrite:
            raise UserError(f"{path} exists. Give the plan another name, name=my_plan, or replace it: overwrite=true.")
    return files


def is_planned(path: Path) -> bool:
    """Whether a plan wrote a file."""
    head = path.read_text(encoding="utf-8", errors="replace").splitlines()[:2]
    return any(line.startswith(f"# {MARK}") for line in head)


def write_plan(files: Sequence[Path], texts: Sequence[str]) -> None:
    for path, text in zip(files, texts, strict=True):
        write_text(path, text)


def own_folder() -> Path:
    """Where configs of the user are searched."""
    return Path.cwd() / OWN
