"""Which number format a network computes in here, and the check that bf16 can be trusted on this machine.

Letters: B batch, L sequence length, C channels or width, S spatial size (2 or 3 dims).
"""

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
from sct.models.tokens import FeatureSpec
from sct.runtime.precision import NumberFormat, autocast, has_bf16

# bf16 rounds to 8 bits: sums of many products end within 1 %, broken kernels far from it
TOLERANCE = 0.03
# places along each axis, and tokens, that processors are checked on
PLACES, TOKENS = 8, 64
# maps this thin along an axis have kernels, and faults, of their own (oneDNN of torch 2.13, in gradients above all)
THIN = 2
# a network without tokens halves the image at most this often
HALVINGS = 5

# of a folded convolution
FOLDED = ("convolution", "middle")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def choose_precision(
    asked: str,
    *,
    network: Segmenter,
    device: torch.device,
    key: str = "trainer.precision",
    remedy: str | None = "set trainer.precision=auto",
    learns: bool = False,
) -> NumberFormat:
    """The number format of the forward pass: `asked`, or with auto bf16 where it pays and can be trusted, else fp32.

    It pays where the device has instructions for it, and can be trusted where every kind of layer of `network` agrees
    with float32 there; `learns`: in its gradients too. key: where `asked` is set; remedy: what the user can do about a
    pinned bf16 that does not pay, None where the command has no setting for it.
    """
    check_precision(asked, key=key)
    if asked != "auto":
        reason = f"as {key}={asked} says"
        if asked != "bf16" or has_bf16(device):
            return NumberFormat(asked, reason)
        advice = f"; {remedy}" if remedy else ""
        return NumberFormat(
            asked, f"{reason}, though this {device.type} has no instructions for it, and fp32 is faster{advice}", True
        )
    if not has_bf16(device):
        return NumberFormat("fp32", f"this {device.type} has no instructions for bf16")
    name, error = worst_layer(probes_of(network, device=device), device=device, learns=learns)
    if error > TOLERANCE:
        found = f"in bf16 {name} is {100 * error:.1f} % off on this machine ({100 * TOLERANCE:.0f} % are allowed)"
        return NumberFormat("fp32", found, True)
    return NumberFormat("bf16", f"layers agree with fp32 within {100 * error:.2f} % on this machine")


def inference_precision(
    precision: str | None, *, trained: str, network: Segmenter, device: torch.device
) -> NumberFormat:
    """The number format of an evaluation or prediction: its own `precision`, or that of the training, `trained`."""
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
    """A layer and what it is tried on: random values of `shape`; of packed attention, `lengths` of the images in it."""

    name: str
    layer: nn.Module
    shape: tuple[int, ...]
    lengths: tuple[int, ...] | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal where the same kernels compute."""
        settings = [getattr(self.layer, key, None) for key in ("num_heads", "stride", "padding", "groups", "dilation")]
        weights = [tuple(weight.shape) for weight in self.layer.parameters()]
        return type(self.layer), self.shape, self.lengths, *settings, *weights


def probes_of(network: Segmenter, *, device: torch.device) -> list[Probe]:
    """What a network is checked on: on a GPU the inputs of its layers in a window, on a processor small ones.

    Known faults of cuDNN (9.8 to 9.10) are in convolutions of large inputs alone. On a processor a whole window would
    take as long as a prediction.
    """
    spec = network.encoder.spec
    if device.type != "cuda":
        return list(small_probes(network, thinnest=thinnest_map(spec)))
    image = torch.randn(1, spec.in_channels, *spec.image_size, generator=torch.Generator().manual_seed(0))
    return real_probes(network, image.to(device))


def thinnest_map(spec: FeatureSpec) -> tuple[int, ...]:
    """The smallest map of features: the token grid, and an estimate for a network without tokens."""
    return spec.grid if spec.dim else tuple(-(-size // 2**HALVINGS) for size in spec.image_size)


def small_probes(network: nn.Module, *, thinnest: Sequence[int]) -> Iterator[Probe]:
    """Small inputs of every layer; of convolutions also maps as thin as the `thinnest`, where that is thin."""
    for name, layer in network.named_modules():
        match layer:
            case nn.Linear():
                yield Probe(name, layer, (TOKENS, layer.in_features))
            case Attention():
                # short and long sequences have kernels of their own
                for length in (TOKENS, LONG):
                    yield Probe(name, layer, (1, length, layer.proj.in_features))
            case FoldedConv():
                # of the image's own resolution: never thin
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
    """The inputs that the layers of a network have in evaluation of an image (B, C, *S), in order."""
    probes: list[Probe] = []

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        layout = inputs[1] if len(inputs) > 1 else None
        lengths = layout.lengths if isinstance(layout, Layout) else None
        probes.append(Probe(name, layer, tuple(inputs[0].shape), lengths))
        if isinstance(layer, FoldedConv):
            # what it computes with in training alone
            probes.extend(Probe(f"{name}.{part}", getattr(layer, part), probes[-1].shape) for part in FOLDED)

    def hook(name: str) -> Any:
        return lambda layer, inputs: note(name, layer, inputs)

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
    """Name and relative error of the layer whose bf16 results are furthest from float32; ("", 0) without any layer.

    Inputs are the same in every call. Of probes of one kind the first is computed.
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
    """How far bf16 takes a layer's results, relative to their length; inf where they are not finite.

    They are the output in evaluation, and with `learns` also that in training and its gradients.
    """
    layout = () if lengths is None else (Layout(lengths=lengths),)
    errors = []
    # a folded convolution's parts learn, and have their own probes
    for compute in (output_of, gradients_of) if learns and not isinstance(layer, FoldedConv) else (output_of,):
        exact, rounded = (compute(layer, x, *layout, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
        errors += [relative_error(one, other) for one, other in zip(rounded, exact, strict=True)]
    return max(errors)


def relative_error(rounded: Tensor, exact: Tensor) -> float:
    if not rounded.isfinite().all():
        return float("inf")
    return ((rounded - exact).norm() / exact.norm().clamp_min(1e-12)).item()


@torch.no_grad()
def output_of(layer: nn.Module, x: Tensor, *layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    """The output in evaluation."""
    return [forward(layer, x, *layout, dtype=dtype, training=False)]


@torch.enable_grad()
def gradients_of(layer: nn.Module, x: Tensor, *layout: Layout, dtype: torch.dtype) -> list[Tensor]:
    """The output in training, and the gradients of input and weights for a random one of the output."""
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
    """A module in training or in evaluation, and then as it was."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)
