"""What `speed=fast` chooses on the machine at hand, and the check that its numbers can be trusted there."""

import logging

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sct.models.attention import LONG
from sct.models.convolutions import FoldedConv
from sct.models.layers import Attention
from sct.precision import autocast, precision_dtype
from sct.processor import processor_features

logger = logging.getLogger(__name__)

# bf16 rounds to 8 bits: sums of many products end within 1 %, broken kernels far from it
TOLERANCE = 0.03
# places along each axis, and tokens, that the check computes on
PLACES, TOKENS = 8, 64


def choose_dtype(speed: str, *, precision: str, network: nn.Module, device: torch.device) -> torch.dtype:
    """The number format of the forward pass: `precision` where speed is safe; with fast, bf16 where it pays.

    It pays where the device computes in it natively and every kind of layer of `network` agrees there with float32.
    What was chosen, and why, is logged.
    """
    asked = precision_dtype(precision)
    if speed == "safe":
        return asked
    # bf16 without instructions for it is slower than fp32
    other = torch.float32 if asked == torch.bfloat16 else asked
    if not has_bf16(device):
        logger.info("speed=fast: %s, since this %s does not compute in bf16", other, device.type)
        return other
    name, error = worst_layer(network, device=device)
    if error > TOLERANCE:
        logger.warning(
            "speed=fast: %s and not bf16, in which %s is %.1f %% off on this machine (%.0f %% are allowed)",
            other, name, 100 * error, 100 * TOLERANCE,
        )  # fmt: skip
        return other
    logger.info("speed=fast: bf16; layers agree with fp32 within %.2f %% on this machine", 100 * error)
    return torch.bfloat16


def inference_dtype(cfg: DictConfig, run_cfg: DictConfig, *, network: nn.Module, device: torch.device) -> torch.dtype:
    """The number format for evaluation and prediction: as their own `precision` or `speed` say, else as in training."""
    if cfg.precision is not None:
        if cfg.speed == "fast":
            logger.warning("speed=fast is ignored: precision=%s is given", cfg.precision)
        return precision_dtype(cfg.precision, key="precision")
    trained = run_cfg.trainer
    speed = cfg.speed or trained.get("speed", "safe")  # runs of before know no speed
    return choose_dtype(speed, precision=trained.precision, network=network, device=device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; without them it is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & processor_features())


@torch.no_grad()
def worst_layer(network: nn.Module, *, device: torch.device) -> tuple[str, float]:
    """Name and relative error of the layer whose bf16 output is furthest from float32; ("", 0) without any layer.

    Every kind and size of linear, convolution and plain attention of the network computes small random inputs both
    ways; attention a short and a long sequence, which have kernels of their own, and folded convolutions as they are
    in evaluation, where the network is.
    """
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, float] = {}
    seen = set()
    for name, layer in network.named_modules():
        shapes = input_shapes(layer)
        settings = [getattr(layer, key, None) for key in ("num_heads", "stride", "groups", "dilation")]
        kind = (type(layer), shapes, *settings, *(tuple(weight.shape) for weight in layer.parameters()))
        if not shapes or kind in seen:
            continue
        seen.add(kind)
        inputs = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        errors[name] = max(bf16_error(layer, x) for x in inputs)
    worst = max(errors, key=lambda name: errors[name], default="")
    return worst, errors.get(worst, 0.0)


def input_shapes(layer: nn.Module) -> tuple[tuple[int, ...], ...]:
    """Small inputs that a layer can take; none for layers that are not checked."""
    match layer:
        case nn.Linear():
            return ((TOKENS, layer.in_features),)
        case Attention():
            return tuple((1, length, layer.proj.in_features) for length in (TOKENS, LONG))
        # in training it would learn from this, and is no more than its convolutions
        case FoldedConv() if not layer.training:
            return ((1, layer.convolution.in_channels, *[PLACES] * len(layer.size)),)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            return ((1, layer.in_channels, *[max(PLACES, edge) for edge in layer.kernel_size]),)
    return ()


def bf16_error(layer: nn.Module, x: Tensor) -> float:
    """How far bf16 takes a layer's output, relative to the output's length; inf where it is not finite."""
    exact, rounded = output_of(layer, x, dtype=torch.float32), output_of(layer, x, dtype=torch.bfloat16)
    if not rounded.isfinite().all():
        return float("inf")
    return ((rounded - exact).norm() / exact.norm().clamp_min(1e-12)).item()


def output_of(layer: nn.Module, x: Tensor, *, dtype: torch.dtype) -> Tensor:
    with autocast(x.device, dtype):
        output = layer(x)
    return (output[0] if isinstance(output, tuple) else output).float()
