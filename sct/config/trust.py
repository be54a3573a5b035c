"""What the `_target_`s of a config may name.

The command line of the user and the config files that the command reads are trusted: they may name any package. A
config that is saved in a run (config.yaml, checkpoint, card, manifest of an export) may come from a stranger. It may
name the parts of `sct.config.parts`, and what the user names on the command line at hand: `plugins=[mypkg]` for all of
a package of the user, `plugins=[monai.networks.nets.HighResNet]` for one more class of MONAI or torch.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sct.config.parts import LISTED, OWN_PATH
from sct.errors import UserError

OWN = "sct"
LIBRARIES = ("torch", "monai")
SHIPPED = (OWN, *LIBRARIES)


@dataclass(frozen=True)
class Trust:
    """The packages that a config may take its parts from.

    plugins: top-level packages, and single classes of torch and MONAI, that the command trusts in saved configs too
    saved_in: the file or folder that the config was read from; None for the config of the command itself
    option: how `plugins` is given, for messages
    """

    plugins: tuple[str, ...] = ()
    saved_in: str | None = None
    option: str = "plugins=[{}]"

    @classmethod
    def of_command(cls, cfg: Any) -> "Trust":
        """What a command trusts in its own config `cfg`, which names the `plugins`."""
        return cls(tuple(cfg.plugins))

    def saved(self, place: str | Path) -> "Trust":
        """What the same command trusts in a config that was read from `place`."""
        return replace(self, saved_in=str(place))

    def allows(self, package: str) -> bool:
        """Whether parts may come from a top-level package."""
        if package in SHIPPED:
            return True
        return is_plugin(package) and (self.saved_in is None or package in self.plugins)

    def refusal(self, path: str, *, package: str, key: str) -> str:
        """Why a target at `key`, which is of `package`, is not allowed, and what to do."""
        if not is_plugin(package):
            return (
                f"{key}._target_={path} is not allowed: it is of {package or 'no package'}, which belongs to Python. "
                "Name a class of sct, torch, monai or your own package."
            )
        return (
            f"{key}._target_={path} is not allowed: {self.saved_in} uses it, and it is of the package {package}. "
            f"Add {self.wanted(package)} to the command if you trust that package."
        )

    def wanted(self, name: str) -> str:
        """The option of the command that also trusts `name`."""
        return self.option.format(",".join((*self.plugins, name)))

    def check_path(self, path: str, *, key: str) -> None:
        """UserError for a target at `key` that this config may not name; nothing is imported.

        Whether a class of this project is a part, only the class itself says, see `check_part`.
        """
        package = path.split(".")[0]
        if not self.allows(package):
            raise UserError(self.refusal(path, package=package, key=key))
        if self.saved_in is None:
            return
        if package in LIBRARIES and path not in LISTED and path not in self.plugins:
            raise UserError(
                f"{key}._target_={path} is not allowed: {self.saved_in} uses it, and of {package} a saved config may "
                f"name the classes listed in sct/config/parts.py. Add {self.wanted(path)} to the command if you know "
                "this class and trust it with the settings in that config."
            )
        if package == OWN and not OWN_PATH.fullmatch(path):
            raise UserError(self.no_part(path, key=key))

    def no_part(self, path: str, *, key: str) -> str:
        """Why something of this project that is no part is not allowed."""
        return (
            f"{key}._target_={path} is not allowed: {self.saved_in} uses it, and it is no part that a saved config may "
            "build. The file was changed, or is of another version of sct: take the original. (A class of your own "
            "checkout is declared by @part of sct/config/parts.py.)"
        )


# for what a caller passes on without a word about where it is from
SHIPPED_ALONE = Trust(saved_in="this config")


def is_plugin(package: str) -> bool:
    """Whether a top-level name can be the package of a user: neither shipped nor Python's own."""
    return package != "" and package not in SHIPPED and package not in sys.stdlib_module_names


def check_plugins(names: Iterable[str]) -> None:
    """UserError for what can't be the package of a user, and is no class of torch or MONAI by its full name."""
    for name in names:
        package, *parts = name.split(".")
        is_class = package in LIBRARIES and len(parts) > 1 and all(part.isidentifier() for part in parts)
        if not is_class and not (name.isidentifier() and is_plugin(name)):
            raise UserError(
                f"plugins: {name!r} is no package of your own. Give the part before the first dot of a _target_, such "
                f"as plugins=[mypkg] for mypkg.reducers.MyReducer; {', '.join(SHIPPED)} need not be named."
            )


def trust_working_directory() -> None:
    """Lets the console scripts find packages in the working directory, as `python -m` does.

    Only once a package of the user is asked for: MONAI and others look for dozens of packages that need not be
    installed, and a file of such a name, in a folder that a stranger has sent, would run. The directory comes last, so
    that a file in it never takes the place of an installed package. Python's option -P and PYTHONSAFEPATH switch that
    off.
    """
    here = str(Path.cwd())
    if not sys.flags.safe_path and "" not in sys.path and here not in sys.path:
        sys.path.append(here)
