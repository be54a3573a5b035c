"""The folders that configs are read from: the shipped one, and those of the user.

A user's own are `--config-dir PATH` and `configs/` in the working directory. A name that the shipped folder has too
means the shipped file: the published experiments are the same in every directory.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

PACKAGE = Path(__file__).parents[1]
# a wheel carries the configs inside the package, a checkout beside it
CONFIG_DIR = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
# in the working directory
OWN = "configs"
# Hydra's two spellings of one option
OPTIONS = ("--config-dir", "-cd")


def own_folders() -> list[Path]:
    """The config folders of the user, those that come first are searched first."""
    found = [path.resolve() for path in (*given_folders(sys.argv[1:]), Path(OWN)) if path.is_dir()]
    # in a checkout, configs/ is the shipped folder
    return [path for path in dict.fromkeys(found) if path != CONFIG_DIR.resolve()]


def given_folders(arguments: list[str]) -> Iterator[Path]:
    """What a command line gives with --config-dir."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in OPTIONS and (equals or i + 1 < len(arguments)):
            yield Path(value if equals else arguments[i + 1])


def options(group: str) -> list[str]:
    """The names that a group can take, own ones included."""
    folders = (CONFIG_DIR, *own_folders())
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def find_file(group: str, name: str) -> Path | None:
    """The config file of a choice; None where there is none."""
    shipped = CONFIG_DIR / group / f"{name}.yaml"
    if shipped.is_file():  # as most are: own folders need not be looked for
        return shipped
    places = [folder / group / f"{name}.yaml" for folder in own_folders()]
    return next((place for place in places if place.is_file()), None)


def options_text(group: str) -> str:
    return "one of " + ", ".join(options(group)) if options(group) else "see configs/"


def hidden_files() -> list[tuple[Path, Path]]:
    """Own config files that are not read, each with the file of the same name but other content that is."""
    folders = [CONFIG_DIR, *own_folders()]
    found = []
    for i, folder in enumerate(folders):
        for path in sorted(folder.rglob("*.yaml")) if i else ():
            places = [other / path.relative_to(folder) for other in folders[:i]]
            first = next((place for place in places if place.is_file()), None)
            if first is not None and first.read_bytes() != path.read_bytes():
                found.append((path, first))
    return found


class OwnFolders(SearchPathPlugin):
    """Makes Hydra search the user's folders behind the shipped one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in own_folders():
            search_path.append(provider="sct", path=f"file://{folder}")


def register_folders() -> None:
    """Makes the user's folders known to Hydra."""
    Plugins.instance().register(OwnFolders)
