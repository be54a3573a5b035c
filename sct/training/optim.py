"""Optimizer groups, the learning-rate schedule and the average of weights, as functions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sct.config.parts import part
from sct.errors import UserError
from sct.models.segmenter import Segmenter


@part
def adamw(
    segmenter: Segmenter,
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    eps: float = 1e-8,
    reducer_eps: float = 1e-16,
) -> torch.optim.AdamW:
    """AdamW with parameter groups that have `lr_scale`, their factor of the scheduled learning rate.

    Layer i of L in the encoder gets lr * layer_decay^(L + 1 - i), all parts after the encoder the full rate. Vectors
    (biases, norms) get no weight decay, nor do the parameters that a module names in `no_weight_decay` (positions,
    learned tokens). Modules with `small_gradients` get `reducer_eps`: gradients of STP's scorers are near 1e-12, and
    an eps of 1e-8 would suppress their updates.

    lr: largest learning rate
    betas: AdamW's decay of the means of gradients and of their squares
    weight_decay: weight decay of matrices
    layer_decay: factor of the learning rate from one layer of the encoder to the one below; 1: none
    eps: AdamW's epsilon
    reducer_eps: AdamW's epsilon for scorers of the pruning method, whose gradients may be tiny
    """
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    small, spared = marked_parameters(segmenter)
    for name, parameter in segmenter.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = lr_scale(segmenter, name, layer_decay=layer_decay)
        decay = weight_decay if parameter.ndim > 1 and name not in spared else 0.0
        groups.setdefault((scale, decay, reducer_eps if name in small else eps), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr_scale": scale, "lr": lr * scale, "weight_decay": decay, "eps": group_eps}
            for (scale, decay, group_eps), parameters in groups.items()
        ],
        lr=lr,
        betas=(betas[0], betas[1]),
        fused=True,
    )


@part
def adam(
    segmenter: Segmenter,
    *,
    lr: float,
    betas: Sequence[float] = (0.9, 0.999),
    weight_decay: float = 1e-5,
    layer_decay: float = 1.0,
    eps: float = 1e-8,
) -> torch.optim.Adam:
    """Adam as in APFormer's program: the decay is a part of the gradient (L2), of every parameter alike.

    Biases, norms, positions, learned tokens and single numbers decay, too. A parameter whose gradient is 0 moves by
    about `lr` a step towards 0, whatever the decay is; with AdamW it moves by lr * weight_decay of its value, that is
    not at all.

    lr: largest learning rate
    betas: Adam's decay of the means of gradients and of their squares
    weight_decay: factor of a parameter that is added to its gradient
    layer_decay: factor of the learning rate from one layer of the encoder to the one below; 1: none
    eps: Adam's epsilon
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(lr_scale(segmenter, name, layer_decay=layer_decay), []).append(parameter)
    return torch.optim.Adam(
        [{"params": parameters, "lr_scale": scale, "lr": lr * scale} for scale, parameters in groups.items()],
        lr=lr,
        betas=(betas[0], betas[1]),
        eps=eps,
        weight_decay=weight_decay,
        fused=True,
    )


def lr_scale(segmenter: Segmenter, name: str, *, layer_decay: float) -> float:
    """Factor of a parameter's learning rate: layer_decay^(L + 1 - i) in layer i of L of the encoder, else 1."""
    if not name.startswith("encoder.") or name.startswith("encoder.reducer."):
        return 1.0
    encoder = segmenter.encoder
    return layer_decay ** (encoder.depth + 1 - encoder.layer_of(name.removeprefix("encoder.")))


def marked_parameters(network: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the parameters with small gradients, and of the parameters without weight decay.

    A module marks them by attributes: `small_gradients = True` marks all parameters of the module; `no_weight_decay`
    lists names of its parameters or of its parts.
    """
    small, spared = set(), set()
    for prefix, module in network.named_modules():
        start = f"{prefix}." if prefix else ""
        listed = tuple(getattr(module, "no_weight_decay", ()))
        for name, _ in module.named_parameters():
            if getattr(module, "small_gradients", False):
                small.add(start + name)
            if any(name == part or name.startswith(f"{part}.") for part in listed):
                spared.add(start + name)
    return small, spared


@part
def warmup_cosine(step: int, *, max_steps: int, warmup_steps: int, min_factor: float = 0.0) -> float:
    """Factor of the learning rate at a step (from 0): linear warm-up, then half a cosine to `min_factor`.

    The warm-up takes at most half of the training, see `shortened_warmup`.

    warmup_steps: steps of the linear warm-up
    min_factor: factor of the learning rate at the last step, 0 to 1
    """
    if warmup_steps < 0:
        raise UserError(f"schedule.warmup_steps={warmup_steps} must be 0 or more.")
    warmup_steps = shortened_warmup(warmup_steps, max_steps=max_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (max_steps - warmup_steps)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def shortened_warmup(warmup_steps: int, *, max_steps: int) -> int:
    """The warm-up steps in a training of `max_steps`: at most half of them, so a short trial needs no other setting."""
    return min(warmup_steps, max_steps // 2)


def warmup_notice(settings: Mapping[str, Any], *, max_steps: int) -> str | None:
    """A message for the user if the warm-up in the `schedule` section is over half of the training; else None."""
    configured = settings.get("warmup_steps", 0)
    used = shortened_warmup(configured, max_steps=max_steps)
    if used == configured:
        return None
    return (
        f"schedule.warmup_steps={configured} is over half of trainer.max_steps={max_steps}: "
        f"the warm-up takes {used} steps"
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, *, lr: float) -> None:
    """Sets the learning rate of every group to `lr` times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def warmed_decay(decay: float, *, step: int) -> float:
    """The decay of an average of weights after `step` steps: at most (1 + step) / (10 + step).

    Without it the average of a short training holds the random first weights: of decay 0.999, 37 % after 1000 steps.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """Updates the exponential moving average of the weights in place; buffers are copied."""
    for mean, new in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(new, 1 - decay)
    for mean_buffer, buffer in zip(average.buffers(), network.buffers(), strict=True):
        mean_buffer.copy_(buffer)


def gradient_norms(network: nn.Module) -> dict[str, Tensor]:
    """Norm of all gradients, and the norm of the reducer's gradients if there are any."""
    reducers, all_gradients = [], []
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        all_gradients.append(parameter.grad)
        if name.startswith("encoder.reducer."):
            reducers.append(parameter.grad)
    norms = {"grad_norm": get_total_norm(all_gradients)}
    if reducers:
        norms["grad_norm_reducer"] = get_total_norm(reducers)
    return norms
