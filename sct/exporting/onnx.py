"""ONNX: a graph for onnxruntime and other programs that read the format.

Letters: B batch, C channels, Q channels of the logits, S size of the window (2 or 3 dims).
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sct.errors import UserError
from sct.exporting.base import INPUT, OUTPUT, Format, Source, in_batches, quiet
from sct.exporting.torch import program_of
from sct.inference import Model
from sct.runtime.plain import clipped

logger = logging.getLogger(__name__)

FILE, WEIGHTS = "model.onnx", "model.onnx.data"


class Onnx(Format):
    """A graph and a file with its weights; run by onnxruntime, on CUDA if onnxruntime was built for CUDA."""

    name = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    files = (FILE, WEIGHTS)

    def write(self, folder: Path, *, source: Source) -> None:
        # these loggers report rewritten nodes and a missing torchvision
        with quiet("onnxscript", "onnx_ir", "torch.onnx"):
            program = torch.onnx.export(
                program_of(source), (), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
            )
        assert program is not None
        # a single file is limited to 2 GB
        program.save(folder / FILE, external_data=True)

    def load(self, folder: Path, *, device: torch.device, precision: str, batch: int | None) -> Model:
        runtime = self.package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        check_weights(self.package("onnx"), folder / FILE)
        session = runtime.InferenceSession(folder / FILE, options, providers=providers(runtime, device=device))

        def run(windows: Tensor) -> Tensor:
            (logits,) = session.run([OUTPUT], {INPUT: windows.float().contiguous().cpu().numpy()})
            return torch.from_numpy(logits).to(windows.device)

        return in_batches(run, batch=batch)


def check_weights(onnx: ModuleType, path: Path) -> None:
    """UserError where a graph takes weights from another file than the one that is exported beside it."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of protobuf, which is not a dependency of its own
        raise UserError(f"{path} is no ONNX graph ({clipped(error)}). Export the run again.") from error
    places = {entry.value for tensor in tensors(model) for entry in tensor.external_data if entry.key == "location"}
    if others := places - {WEIGHTS}:
        raise UserError(f"{path} takes weights from {clipped(min(others))}, not from {WEIGHTS}. Export the run again.")


def tensors(message: Any) -> Iterator[Any]:
    """All tensors in a model of ONNX, wherever they are: also in sparse ones, inner graphs, functions and training."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from tensors(inner)


def providers(runtime: Any, *, device: torch.device) -> list[Any]:
    """The execution providers for onnxruntime, which uses the first one it can."""
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device.type != "cuda":
        return [cpu]
    if cuda not in runtime.get_available_providers():
        logger.warning("onnxruntime has no CUDA here and computes on the CPU; install onnxruntime-gpu for CUDA")
        return [cpu]
    return [(cuda, {"device_id": device.index or 0}), cpu]
