"""The file `export.json` beside every exported network: how to run it, its origin, and how it was checked."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sct.errors import UserError
from sct.runtime.files import write_text
from sct.runtime.migration import config_of_today

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

    def write(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; UserError if it can't be read or has another layout."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}). Export the run again with sct.export.") from error
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise UserError(f"{path} does not have layout {LAYOUT}. Export the run again with sct.export.")
    return Manifest(**{**content, "config": config_of_today(content["config"])})
