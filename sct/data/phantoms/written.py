"""Sets of files that are made once from parameters, and used again only by the same parameters."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from sct.errors import UserError
from sct.runtime.aside import aside
from sct.runtime.plain import read_json

logger = logging.getLogger(__name__)

RECORD = "phantom.json"

Spec = TypeVar("Spec")


def taken_from(settings: object, *, kind: type[Spec]) -> Spec:
    """A dataclass `kind`, each field of which is the attribute of that name of `settings`."""
    return kind(**{field.name: getattr(settings, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def check_root(root: Path, *, folders: Sequence[str]) -> None:
    """UserError where a folder that is to hold these folders of phantoms holds anything else: it is somebody's data."""
    others = [path.name for path in root.glob("*") if path.name not in folders and not path.name.startswith(".")]
    if others:
        raise UserError(
            f"data.root={root} holds other files ({', '.join(sorted(others)[:4])}), and phantoms are only written into "
            "folders of their own. Leave data.root out, or name a folder that does not exist."
        )


def check_may_draw(folder: Path, *, may_write: Sequence[str]) -> None:
    """UserError where phantoms would have to be drawn into a folder that a saved config names, and not the command."""
    if not folder.exists() and "root" not in may_write:
        raise UserError(
            f"{folder} does not exist, and phantoms are only drawn into a folder that the command names, not one that "
            "a saved run names. Give data.root=FOLDER; for a command without it draw them first, as the training did."
        )


def write_once(folder: Path, *, record: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Let `write` fill the folder (built aside, then renamed), or reuse one with an equal record.

    record: what decides the content, JSON values; kept in phantom.json. Raises `UserError` when `folder` holds a
    set of another record, or something else.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        logger.info("writing phantoms to %s", folder)
        with aside(folder.parent) as temporary:
            built = temporary / folder.name
            built.mkdir()
            write(built)
            (built / RECORD).write_text(json.dumps(record, indent=2))
            # Where another process was first, whether it wrote the same is checked below.
            with suppress(OSError):
                built.rename(folder)
    _check_same(folder, wanted=json.loads(json.dumps(record)))


def _check_same(folder: Path, *, wanted: Mapping[str, Any]) -> None:
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder} exists but holds no phantoms (no {RECORD}). Leave data.root out, or give another.")
    stored = read_json(path, remedy="Delete the folder: the phantoms are drawn again.")
    differing = sorted(key for key in wanted.keys() | stored.keys() if wanted.get(key) != stored.get(key))
    if differing:
        differences = ", ".join(f"data.{key} is {wanted.get(key)}, there {stored.get(key)}" for key in differing)
        raise UserError(
            f"{folder} holds phantoms of other parameters: {differences}. Set data.root to another folder, delete "
            "this one, or use its parameters."
        )
