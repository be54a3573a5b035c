"""Memory against time: intermediate results that are computed twice instead of being kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs), where nothing is random; the backward pass computes again what it makes on the way."""
    if not torch.is_grad_enabled():
        # nothing to keep, and the first `checkpoint` of a process loads torch's compiler, more than a second
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
