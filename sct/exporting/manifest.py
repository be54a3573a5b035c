"""The note that lies beside every exported network: what it takes to run it, where it is from, how it was checked."""

import json
from dataclasses import asdict, dataclass
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

    format: torch, onnx, openvino or bundle; roi_size and channels: of a window; batch: windows in one call, None for
    any number; precision: what its runtime computes in; inputs and outputs: shapes by name, None for any size;
    labels: what the values of a label map mean; channels_out: what every channel of the logits is; overlapping: these
    are regions that a voxel may be in several of (sigmoid), not classes (softmax).
    config: the run's, with the preprocessing in its data; weights: digest of those that were exported; step: of the
    training; checkpoint: their file; card: the run's; versions: of the packages that wrote it.
    check: agreement with the original network, and whether that was enough (`passed`).
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

    def write(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder; UserError where it is none of this layout."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}). Export the run again with sct.export.") from error
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise UserError(f"{path} is no export of layout {LAYOUT}. Export the run again with sct.export.")
    return Manifest(**{**content, "config": config_of_today(content["config"])})
