"""Writes docs/reference/config.md: all keys of all commands and groups, with value and meaning.

    python scripts/write_reference.py

The meanings are read from the docstrings, as for `--help`. A test checks that the page is up to date.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sct.config.check import GROUPS
from sct.config.command import compose_config
from sct.config.folders import options
from sct.config.meanings import Key, description, keys_of
from sct.config.saved import APPENDED

PAGE = Path(__file__).parents[1] / "docs/reference/config.md"
# root config -> what is called
COMMANDS = {name: f"python -m sct.{name}" for name in ("eval", "predict", "export", "report", "verify")}
COMMANDS["plan"] = "sct.data plan"
HEAD = """# Config keys

Written by `python scripts/write_reference.py` from the docstrings of the code; do not edit it by hand.
`python -m sct.train encoder=dtop --help` prints the same on the terminal, with the values of what you choose.

- A group is chosen with `GROUP=NAME`: `encoder=dense`. A set of settings is added with `+experiment=NAME`.
- A key is changed with `KEY=VALUE`: `encoder.dim=384`. Lists are quoted: `'pruning.blocks=[2,4]'`.
- `???` must be given. `${...}` is the value of another key.
- "by file": the files of a group have different values; see `configs/GROUP/NAME.yaml`.
"""


def page() -> str:
    train = list(keys_of(compose_config("train", overrides=[])))
    shared = [key for key in train if key.name.split(".")[0] not in GROUPS]
    parts = [HEAD, "## `python -m sct.train` and `sct.profile`\n", table(shared)]
    for root, command in COMMANDS.items():
        parts += [f"## `{command}`\n", table(list(keys_of(compose_config(root, overrides=[]))))]
    for group in GROUPS:
        parts += [f"## {group}\n", files(group), *group_tables(group)]
    for group in APPENDED:
        parts += [f"## +{group}\n", files(group)]
    return "\n".join(parts)


def files(group: str) -> str:
    """The files of a group with their descriptions."""
    rows = [f"| `{name}` | {cell(description(group, name))} |" for name in options(group)]
    return "\n".join(["| file | what |", "|---|---|", *rows]) + "\n"


def group_tables(group: str) -> Iterator[str]:
    """One table for each class or function that documents keys of a group, for all files of the group."""
    by_owner: dict[tuple[str, str], dict[str, list[Key]]] = {}
    used: dict[tuple[str, str], list[str]] = {}
    for name in options(group):
        for key in keys_of(compose_config(f"{group}/{name}", overrides=[])[group], prefix=f"{group}."):
            place = key.name.rpartition(".")[0], key.owner
            by_owner.setdefault(place, {}).setdefault(key.name, []).append(key)
            if name not in used.setdefault(place, []):
                used[place].append(name)
    for place, keys in sorted(by_owner.items()):
        yield f"### `{place[0]}`: {place[1]}\n"
        yield f"In {', '.join(f'`{name}`' for name in used[place])}.\n"
        yield table([common(versions) for versions in keys.values()])


def common(versions: Sequence[Key]) -> Key:
    """One key for several files; its value is empty if the files have different values."""
    first = versions[0]
    values = {version.value for version in versions}
    return first if len(values) == 1 else Key(first.name, "", first.meaning, first.owner, first.is_section)


def table(keys: Sequence[Key]) -> str:
    rows = []
    for key in keys:
        value = f"`{cell(key.value)}`" if key.value else "by file"
        rows.append(f"| `{key.name}` | {'' if key.is_section else value} | {cell(key.meaning)} |")
    return "\n".join(["| key | value | meaning |", "|---|---|---|", *rows]) + "\n"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
    print(PAGE)


if __name__ == "__main__":
    main()
