"""Number formats of the forward pass."""

from contextlib import AbstractContextManager

import torch

from sct.errors import UserError

SPEEDS = ("safe", "fast")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_dtype(name: str, *, key: str = "trainer.precision") -> torch.dtype:
    """fp32, bf16 or fp16 as a type."""
    if name not in PRECISIONS:
        raise UserError(f"{key}={name} must be one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision in `dtype`; float32 switches it off."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def check_speed(speed: str, *, key: str = "trainer.speed") -> None:
    """UserError for what is neither safe nor fast."""
    if speed not in SPEEDS:
        raise UserError(f"{key}={speed} must be safe or fast.")
