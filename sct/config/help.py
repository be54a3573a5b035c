"""The page that `--help` of a command prints: groups and experiments to choose, then keys with value and meaning."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from sct.config.folders import options
from sct.config.meanings import Key, description, keys_of

WIDTH, MEANING_AT = 120, 46


@dataclass(frozen=True)
class Page:
    """What the help of a command is made of.

    about: the docstring of the command's module
    keys: keys and sections that it lists; none given: all
    groups: folders of configs/ whose files can be chosen with GROUP=NAME
    appended: the same with +GROUP=NAME
    notes: what is told at the end
    """

    about: str | None
    keys: Sequence[str] = ()
    groups: Sequence[str] = ()
    appended: Sequence[str] = ()
    notes: str = ""


def help_text(page: Page, cfg: DictConfig) -> str:
    """The page; cfg is what the command line asks for, so that the values are those of its experiment."""
    parts = [(page.about or "").strip()]
    if page.groups or page.appended:
        parts.append("\n".join(choices(page)))
    keys = [key for key in keys_of(cfg) if not page.keys or any(f"{key.name}.".startswith(f"{k}.") for k in page.keys)]
    parts.append("Keys: change with KEY=VALUE; ??? must be given.\n" + "\n".join(key_lines(keys)))
    if page.notes:
        parts.append(page.notes.strip())
    return "\n\n".join(parts) + "\n"


def choices(page: Page) -> Iterator[str]:
    """The files of every group, each with its description."""
    for group, sign in (*((group, "") for group in page.groups), *((group, "+") for group in page.appended)):
        yield f"{sign}{group}=NAME"
        for name in options(group):
            yield from entry(f"  {name}", description(group, name), at=28)


def key_lines(keys: Sequence[Key]) -> Iterator[str]:
    """A line or more for every key; an empty line before every section of the config."""
    section = ""
    for key in keys:
        first = key.name.partition(".")[0]
        if (section and first != section) or (key.is_section and not section):
            yield ""
        section = first if key.is_section or section == first else ""
        # what a section is, is chosen by its group's name and not by that of the class
        yield from entry(f"  {key.name}" + ("" if key.is_section else f"={key.value}"), key.meaning, at=MEANING_AT)


def entry(left: str, right: str, *, at: int) -> Iterator[str]:
    """Two columns: the right one begins at `at`, below the left one where that is longer."""
    lines = textwrap.wrap(right, width=WIDTH - at, break_long_words=False, break_on_hyphens=False) or [""]
    if len(left) > at - 2:
        yield left
    else:
        yield f"{left:{at}}{lines.pop(0)}".rstrip()
    yield from (" " * at + line for line in lines)
