"""Number formats of the forward pass, and mixed precision in one of them."""

import functools
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from sct.runtime.processor import multiplies_bf16

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class NumberFormat:
    """Number format of a network (fp32, bf16 or fp16) and the reason for it; `doubtful`: the user should check it."""

    name: str
    reason: str
    doubtful: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    def log(self) -> None:
        """Logs the format and its reason; a doubtful one as a warning, once in a process."""
        if self.doubtful:
            warn_once(f"computing in {self}")
        else:
            logger.info("computing in %s", self)


@functools.cache
def warn_once(message: str) -> None:
    logger.warning("%s", message)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; without them it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and multiplies_bf16()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision in `dtype`; float32 switches it off."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def full_precision(device_type: str) -> AbstractContextManager:
    """Switches mixed precision off: in half precision the scores of many tokens are equal."""
    mixed = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if mixed else nullcontext()


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """x in float32, or in float64 where it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
