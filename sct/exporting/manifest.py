"""The file `export.json` beside every exported network: how to run it, its origin, and how it was checked."""

import json
import logging
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sct.errors import UserError
from sct.runtime.files import file_digest, json_digest, write_text
from sct.runtime.migration import config_of_today
from sct.runtime.plain import clipped, plain_config, read_json

logger = logging.getLogger(__name__)

FILE = "export.json"
LAYOUT = 1


@dataclass(frozen=True)
class Manifest:
    """The content of export.json.

    format: torch, onnx, openvino or bundle; roi_size, channels: size and channels of a window; batch: windows in one
    call, None for any number; precision: number format of its runtime; inputs, outputs: shapes by name, None for any
    size; labels: names of the values of a label map; channels_out: names of the channels of the logits; overlapping:
    the channels are regions that may overlap (sigmoid), not classes (softmax).
    config: the run's config, with the preprocessing in its section `data`; weights: digest of the exported weights;
    checkpoint, step: their file and training step; card: the run's card; versions: packages that wrote the export.
    check: agreement with the original network, and whether it was enough (`passed`).
    postprocessing: steps for label maps that the run has chosen, by class; empty in exports of earlier versions.
    files: SHA-256 of every exported file, by its path below the folder; empty in exports of earlier versions.
    """

    format: str
    roi_size: list[int]
    channels: int
    batch: int | None
    precision: str
    inputs: dict[str, list[int | None]]
    outputs: dict[str, list[int | None]]
    labels: list[str]
    channels_out: list[str]
    overlapping: bool
    config: dict[str, Any]
    weights: str
    checkpoint: str
    step: int
    card: dict[str, Any] | None
    versions: dict[str, str]
    check: dict[str, Any]
    layout: int = LAYOUT
    postprocessing: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes the manifest with a digest of its own."""
        content = asdict(self)
        write_text(folder / FILE, json.dumps({**content, "digest": json_digest(content)}, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; UserError if it can't be read, is damaged or has another layout."""
    path, again = folder / FILE, "Export the run again with sct.export."
    content = read_json(path, remedy=again)
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise UserError(f"{path} does not have layout {LAYOUT}. {again}")
    digest = content.pop("digest", None)  # those of earlier versions have none
    if digest not in (None, json_digest(content)):
        raise UserError(
            f"{path} is not as it was written. If you have changed it yourself, take the entry `digest` out; else "
            "export the run again with sct.export."
        )
    known = {entry.name: entry for entry in fields(Manifest)}
    required = {name for name, entry in known.items() if entry.default is entry.default_factory is MISSING}
    if odd := sorted(required - content.keys() | content.keys() - known.keys()):
        raise UserError(f"{path} lacks or adds {clipped(', '.join(odd))}. {again}")
    hints = get_type_hints(Manifest)
    if wrong := [name for name in content if not isinstance(content[name], kinds(hints[name]))]:
        raise UserError(f"{path}: {', '.join(wrong)} is of another type than sct.export writes. {again}")
    return Manifest(**{**content, "config": config_of_today(plain_config(content["config"], place=path))})


def kinds(hint: Any) -> tuple[type, ...]:
    """The types that a type hint names, without what is in them."""
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(get_origin(choice) or choice for choice in choices)


def check_files(manifest: Manifest, *, folder: Path, needed: Sequence[str]) -> None:
    """UserError where a file that is loaded is not the one that was exported, by the digests of the manifest."""
    if not manifest.files:
        logger.warning("%s is of an earlier version and has no digests of its files: they are not compared", folder)
        return
    for name in needed:
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} does not exist. Export the run again, or copy the whole folder.")
        if file_digest(file) != manifest.files.get(name):
            raise UserError(
                f"{file} is not the file that was exported: its digest is not that in {FILE}. It is damaged or was "
                "changed: copy the whole folder again, or export the run again."
            )
