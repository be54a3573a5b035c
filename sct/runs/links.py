"""Links in a run folder: a run that is copied with its links would have a command write where they lead."""

import os
from pathlib import Path

from sct.errors import UserError


def check_links(folder: Path) -> None:
    """UserError where a link in a run folder leads out of it; to be called before anything is written into the folder.

    A run may come from a stranger: a link called `eval` or `train.log` would have files of the user written over,
    lengthened or removed. The folder itself, and those above it, may be links: these are of the user.
    """
    root = os.path.realpath(folder)
    for place, folders, names in os.walk(folder):
        for path in (Path(place) / name for name in (*folders, *names)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                raise UserError(
                    f"{path} is a link to {path.readlink()}, outside of the run folder that this command writes to. "
                    "Put what is there in place of the link if it is yours; else remove the link."
                )
