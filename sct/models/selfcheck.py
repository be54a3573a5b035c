"""Choice of the number format of a network, and a check of bf16 on the machine at hand.

Letters: B batch, L sequence length, C channels or width, S spatial size (2 or 3 dims).
"""

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sct.config.schema import check_precision
from sct.models.blocks.attention import LONG
from sct.models.blocks.convolutions import FoldedConv
from sct.models.blocks.layers import Attention, Layout
from sct.models.segmenter import Segmenter
from sct.runtime.precision import NumberFormat, autocast, has_bf16

logger = logging.getLogger(__name__)

# bf16 rounds to 8 bits: correct sums of many products are within 1 %, wrong kernels are far off
TOLERANCE = 0.03
# sizes of the inputs of the check on processors: places along each axis, and tokens
PLACES, TOKENS = 8, 64
# oneDNN has separate kernels for maps that are this thin along an axis; in torch 2.13 these kernels have faults, mostly
# in gradients
THIN = 2
# assumed number of halvings of the image in a network whose maps are not known
HALVINGS = 5

# layers of a folded convolution
FOLDED = ("convolution", "middle")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def choose_precision(
    precision: str,
    *,
    network: Segmenter,
    device: torch.device,
    key: str = "trainer.precision",
    remedy: str | None = "set trainer.precision=auto",
    learns: bool = False,
) -> NumberFormat:
    """The number format of the forward pass: `precision`; for auto, bf16 where it is fast and correct, else fp32.

    bf16 is fast where the device has instructions for it. It is correct where every kind of layer of `network` agrees
    with float32 on this device, with `learns` also in its gradients.
    key: the config key of `precision`. remedy: what the user can do where bf16 was set on a device without instructions
    for it; None where the command has no setting for it.
    """
    check_precision(precision, key=key)
    if precision != "auto":
        reason = f"set by {key}={precision}"
        if precision != "bf16" or has_bf16(device):
            return NumberFormat(precision, reason)
        advice = f"; {remedy}" if remedy else ""
        return NumberFormat(
            precision,
            f"{reason}, though this {device.type} has no instructions for it, and fp32 is faster{advice}",
            True,
        )
    if not has_bf16(device):
        return NumberFormat("fp32", f"this {device.type} has no instructions for bf16")
    name, error = worst_layer(probes_of(network, device=device), device=device, learns=learns)
    if error > TOLERANCE:
        reason = f"in bf16 {name} is {100 * error:.1f} % off on this machine ({100 * TOLERANCE:.0f} % are allowed)"
        return NumberFormat("fp32", reason, True)
    return NumberFormat("bf16", f"layers agree with fp32 within {100 * error:.2f} % on this machine")


def inference_precision(
    precision: str | None, *, trained: str, network: Segmenter, device: torch.device
) -> NumberFormat:
    """The number format of an evaluation or prediction: `precision`, or if None the training's setting `trained`."""
    pinned = precision is not None
    return choose_precision(
        precision if precision is not None else trained,
        network=network,
        device=device,
        key="precision" if pinned else "trainer.precision of the run",
        remedy="give precision=auto to sct.eval or sct.predict",
    )


@dataclass(frozen=True)
class Probe:
    """A layer and the random input of its check: `shape`, and for packed attention the `lengths` of the images."""

    name: str
    layer: nn.Module
    shape: tuple[int, ...]
    lengths: tuple[int, ...] | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Probes of equal kind run the same kernels."""
        settings = [getattr(self.layer, key, None) for key in ("num_heads", "stride", "padding", "groups", "dilation")]
        weights = [tuple(weight.shape) for weight in self.layer.parameters()]
        return type(self.layer), self.shape, self.lengths, *settings, *weights


def probes_of(network: Segmenter, *, device: torch.device) -> list[Probe]:
    """The probes of a network: on a GPU the inputs that its layers have in a window, on a processor small inputs.

    Known faults of cuDNN (9.8 to 9.10) occur only in convolutions of large inputs. On a processor a window would take
    as long as a prediction.
    """
    spec = network.encoder.spec
    if device.type != "cuda":
        return list(small_probes(network, thinnest=thinnest_map(network)))
    image = torch.randn(1, spec.in_channels, *spec.image_size, generator=torch.Generator().manual_seed(0))
    return real_probes(network, image.to(device))


def thinnest_map(network: Segmenter) -> tuple[int, ...]:
    """Size of the smallest feature map: the token grid; without tokens, the least size along each axis.

    It is estimated where a network must know the numbers in its maps to go on.
    """
    spec = network.encoder.spec
    if spec.dim:
        return spec.grid
    try:
        sizes = map_sizes(network)
    except Exception:  # whatever a network of a user needs numbers for
        logger.debug("the sizes of the network's maps are estimated", exc_info=True)
        sizes = []
    sizes = sizes or [tuple(-(-size // 2**HALVINGS) for size in spec.image_size)]
    return tuple(min(along) for along in zip(*sizes, strict=True))


@torch.no_grad()
def map_sizes(network: Segmenter) -> list[tuple[int, ...]]:
    """Sizes of the inputs of all convolutions in a window, without computing them: by a copy on torch's meta device."""
    spec, sizes = network.encoder.spec, list[tuple[int, ...]]()

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = tuple(inputs[0].shape[2:])
        if len(size) == len(spec.image_size):  # a network may also convolve sequences
            sizes.append(size)

    parameters = {id(tensor): nn.Parameter(tensor.to("meta")) for tensor in network.parameters()}
    buffers = {id(tensor): tensor.to("meta") for tensor in network.buffers()}
    outline = copy.deepcopy(network, {**parameters, **buffers}).eval()  # no number is copied
    for layer in outline.modules():
        if isinstance(layer, CONVOLUTIONS):
            layer.register_forward_pre_hook(record)
    outline(torch.empty(1, spec.in_channels, *spec.image_size, device="meta"))
    return sizes


def small_probes(network: nn.Module, *, thinnest: Sequence[int]) -> Iterator[Probe]:
    """Small inputs for every layer; where the `thinnest` map is thin, convolutions also get a map as thin as that."""
    for name, layer in network.named_modules():
        match layer:
            case nn.Linear():
                yield Probe(name, layer, (TOKENS, layer.in_features))
            case Attention():
                # short and long sequences run different kernels
                for length in (TOKENS, LONG):
                    yield Probe(name, layer, (1, length, layer.proj.in_features))
            case FoldedConv():
                # computes at the resolution of the image, so its maps are never thin
                yield Probe(name, layer, (1, layer.convolution.in_channels, *[PLACES] * len(layer.size)))
            case nn.Module() if isinstance(layer, CONVOLUTIONS):
                least = smallest_input(layer)
                yield Probe(name, layer, (1, layer.in_channels, *(max(PLACES, edge) for edge in least)))
                if min(thinnest) <= THIN:
                    edges = (max(min(PLACES, size), edge) for size, edge in zip(thinnest, least, strict=False))
                    yield Probe(name, layer, (1, layer.in_channels, *edges))


def smallest_input(layer: nn.Module) -> list[int]:
    """The smallest extent along each axis that a convolution can take."""
    assert isinstance(layer, CONVOLUTIONS)
    if layer.transposed or isinstance(layer.padding, str):
        return [1] * len(layer.kernel_size)
    sizes = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    return [max(1, dilation * (edge - 1) + 1 - 2 * int(padding)) for edge, dilation, padding in sizes]


@torch.no_grad()
def real_probes(network: nn.Module, image: Tensor) -> list[Probe]:
    """The inputs of all layers, in order, when a network evaluates an image (B, C, *S)."""
    probes: list[Probe] = []

    def record(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        layout = inputs[1] if len(inputs) > 1 else None
        lengths = layout.lengths if isinstance(layout, Layout) else None
        probes.append(Probe(name, layer, tuple(inputs[0].shape), lengths))
        if isinstance(layer, FoldedConv):
            # these layers compute only in training
            probes.extend(Probe(f"{name}.{part}", getattr(layer, part), probes[-1].shape) for part in FOLDED)

    def hook(name: str) -> Any:
        return lambda layer, inputs: record(name, layer, inputs)

    kinds = (nn.Linear, Attention, FoldedConv, *CONVOLUTIONS)
    handles = [
        layer.register_forward_pre_hook(hook(name))
        for name, layer in network.named_modules()
        if isinstance(layer, kinds)
    ]
    try:
        with mode(network, training=False):
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return probes


def worst_layer(probes: Iterable[Probe], *, device: torch.device, learns: bool = False) -> tuple[str, float]:
    """Name and relative error of the layer with the largest error in bf16; ("", 0) without any layer.

    Inputs are the same in every call. Only the first probe of each kind is computed.
    """
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, float] = {}
    seen = set()
    for probe in probes:
        if probe.kind in seen:
            continue
        seen.add(probe.kind)
        x = torch.randn(probe.shape, generator=generator).to(device)
        error = bf16_error(probe.layer, x, lengths=probe.lengths, learns=learns)
        errors[probe.name] = max(error, errors.get(probe.name, 0.0))
    worst = max(errors, key=lambda name: errors[name], default="")
    return worst, errors.get(worst, 0.0)


def bf16_error(layer: nn.Module, x: Tensor, *, lengths: tuple[int, ...] | None = None, learns: bool = False) -> float:
    """Largest relative error (Euclidean norm) of a layer's results in bf16; inf where a result is not finite.

    The results are the output in evaluation, and with `learns` also the output and the gradients in training.
    """
    layout = () if lengths is None else (Layout(lengths=lengths),)
    errors = []
    # a folded convolution trains its parts, which have probes themselves
    for compute in (output_of, gradients_of) if learns and not isinstance(layer, FoldedConv) else (output_of,):
        exact, rounded = (compute(layer, x, *layout, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
        errors += [relative_error(bf16, fp32) for bf16, fp32 in zip(rounded, exact, strict=True)]
    return max(errors)


def relative_error(rounded: Tensor, exact: Tensor) -> float:
    if not rounded.isfinite().all():
        return float("inf")
    return ((rounded - exact).norm() / exact.norm().clamp_min(1e-12)).item()


@torch.no_grad()
def output_of(layer: nn.Module, x: Tensor, *layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    """The output in evaluation, in a list."""
    return [forward(layer, x, *layout, dtype=dtype, training=False)]


@torch.enable_grad()
def gradients_of(layer: nn.Module, x: Tensor, *layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    """The output in training, and the gradients of input and weights for a random gradient of the output."""
    x = x.detach().requires_grad_()
    weights = [weight for weight in layer.parameters() if weight.requires_grad and weight.ndim > 1]
    output = forward(layer, x, *layout, dtype=dtype, training=True)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    gradients = torch.autograd.grad(output, [x, *weights], direction)
    return [output.detach(), *gradients]


def forward(layer: nn.Module, x: Tensor, *layout: Layout, dtype: torch.dtype, training: bool) -> Tensor:
    with mode(layer, training=training), autocast(x.device, dtype):
        output = layer(x, *layout)
    return (output[0] if isinstance(output, tuple) else output).float()


@contextmanager
def mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Puts a module into training or evaluation mode, and restores its mode at the end."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)
