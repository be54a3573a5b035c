"""Less memory for more time: activations are computed again in the backward pass instead of being kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """function(*inputs) without keeping activations; the backward pass calls it again, so it must not be random."""
    if not torch.is_grad_enabled():
        # no activations are kept anyway, and the first call of `checkpoint` takes a second to load torch's compiler
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
