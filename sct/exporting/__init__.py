"""Trained networks in formats that run elsewhere: torch.export, ONNX, OpenVINO, MONAI Bundle."""

from sct.exporting.base import Format, Source
from sct.exporting.bundle import Bundle
from sct.exporting.onnx import Onnx
from sct.exporting.openvino import OpenVino
from sct.exporting.torch import TorchExport

FORMATS: dict[str, Format] = {form.name: form for form in (TorchExport(), Onnx(), OpenVino(), Bundle())}

__all__ = ["FORMATS", "Format", "Source"]
