"""OpenVINO: a graph for Intel's runtime, which uses the matrix units of Intel's processors.

Letters: B batch, C channels, Q channels of the logits, S size of the window (2 or 3 dims).
"""

import logging
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from sct.errors import UserError
from sct.exporting.base import INPUT, OUTPUT, Format, Source, in_batches, quiet
from sct.exporting.torch import program_of
from sct.inference import Model

logger = logging.getLogger(__name__)

FILE = "model.xml"
# what the intermediate representation begins with
XML = b"<?xml "
HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino(Format):
    """The intermediate representation: model.xml and model.bin; computed on the CPU, in bf16 with precision=bf16."""

    name = "openvino"
    packages = ("openvino",)
    files = (FILE, "model.bin")
    precisions = tuple(HINTS)
    holds_half = True

    def package(self, name: str) -> ModuleType:
        """Imports OpenVINO without its telemetry, which reports the import and every conversion to Google Analytics."""
        # None in sys.modules makes the import of telemetry fail, and OpenVINO then works without it
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        return super().package(name)

    def write(self, folder: Path, *, source: Source) -> None:
        openvino = self.package("openvino")
        shape = openvino.PartialShape([source.batch or -1, *source.window])
        with quiet():
            model = openvino.convert_model(program_of(source), input=[shape])
        model.input().set_names({INPUT})
        model.output().set_names({OUTPUT})
        openvino.save_model(model, folder / FILE, compress_to_fp16=source.half)

    def load(self, folder: Path, *, device: torch.device, precision: str, batch: int | None) -> Model:
        openvino = self.package("openvino")
        if device.type != "cpu":
            logger.warning("device=%s is ignored: openvino computes on the CPU here", device)
        # without a hint OpenVINO chooses bf16 on a processor that supports it
        check_xml(folder / FILE)
        settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(folder / FILE, "CPU", settings)

        def run(windows: Tensor) -> Tensor:
            logits = compiled({INPUT: windows.float().contiguous().cpu().numpy()})[OUTPUT]
            return torch.from_numpy(logits).to(windows.device)

        return in_batches(run, batch=batch)


def check_xml(path: Path) -> None:
    """UserError where a file is no XML: OpenVINO would read it as a file of another program, such as an ONNX graph.

    Those may name files elsewhere, which the intermediate representation can't.
    """
    with path.open("rb") as file:
        if file.read(len(XML)) != XML:
            raise UserError(f"{path} is no graph of OpenVINO. Export the run again.")
