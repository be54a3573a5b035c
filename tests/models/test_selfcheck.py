"""Which number format is chosen, on what layers are checked, and that broken kernels are found."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sct.errors import UserError
from sct.models import selfcheck
from sct.models.base import ImageOnly
from sct.models.blocks import attention, convolutions, sliced
from sct.models.blocks.convolutions import FoldedConv, PatchEmbedding2d
from sct.models.blocks.layers import Attention
from sct.models.blocks.sliced import SAME_CONV
from sct.models.completion.scatter import Scatter
from sct.models.decoders.base import Decoder
from sct.models.decoders.thin import Thin
from sct.models.encoder import ViTEncoder
from sct.models.heads import FCNHead
from sct.models.reducers.dtop import DToP
from sct.models.segmenter import Segmenter
from sct.models.selfcheck import (
    Probe,
    bf16_error,
    choose_precision,
    inference_precision,
    probes_of,
    real_probes,
    small_probes,
    thinnest_map,
    worst_layer,
)
from sct.models.tokens import Decoded
from sct.runtime.precision import NumberFormat

CPU = torch.device("cpu")


def wrong_in_bf16(original, *, by: float):
    """A function that is off by a share of its result under autocast."""
    return lambda *inputs, **more: original(*inputs, **more) * (1 + by * torch.is_autocast_enabled("cpu"))


def network(*, image_size=(16, 16, 8), **encoder) -> Segmenter:
    """A grid of 2 x 2 x 1 patches where nothing else is said; small in all else."""
    torch.manual_seed(0)
    sizes = {"image_size": image_size, "in_channels": 1, "patch_size": 8, "dim": 24, "num_heads": 2, "depth": 3}
    return Segmenter(
        encoder=ViTEncoder(**sizes, **encoder),
        completion=Scatter,
        decoder=partial(Thin, width=4, voxels=2),
        num_classes=3,
    )


@pytest.fixture
def bf16(monkeypatch):
    """A machine that has instructions for bf16, and kernels that are right."""
    monkeypatch.setattr(selfcheck, "has_bf16", lambda device: True)
    monkeypatch.setattr(selfcheck, "worst_layer", lambda probes, **more: ("", 0.0042))


@pytest.fixture
def no_bf16(monkeypatch):
    monkeypatch.setattr(selfcheck, "has_bf16", lambda device: False)


def choose(asked="auto", *, image_size=(16, 16, 8), **more):
    return choose_precision(asked, network=network(image_size=image_size), device=CPU, **more)


def test_auto_is_bf16_where_the_machine_has_it_and_layers_agree(bf16):
    chosen = choose()
    assert chosen == NumberFormat("bf16", "layers agree with fp32 within 0.42 % on this machine")
    assert chosen.dtype == torch.bfloat16


def test_real_layers_agree_and_the_check_repeats_itself(monkeypatch):
    """A run that goes on has to decide as before. Maps of 2 x 2 places are left out: there oneDNN's gradients of
    weights in bf16 read memory that nobody wrote, on processors with AVX512-BF16 (torch 2.13)."""
    monkeypatch.setattr(selfcheck, "has_bf16", lambda device: True)
    chosen = choose(learns=True, image_size=(32, 32, 32))
    assert "layers agree with fp32 within 0." in chosen.reason
    torch.rand(3)
    assert choose(learns=True, image_size=(32, 32, 32)) == chosen


def test_auto_is_fp32_without_instructions_and_checks_nothing(no_bf16, monkeypatch):
    monkeypatch.setattr(selfcheck, "worst_layer", None)
    assert choose() == NumberFormat("fp32", "this cpu has no instructions for bf16")


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_auto_is_fp32_where_a_layer_is_off(monkeypatch, wrong):
    monkeypatch.setattr(selfcheck, "has_bf16", lambda device: True)
    monkeypatch.setattr(F, "linear", wrong_in_bf16(F.linear, by=wrong))
    chosen = choose()
    assert chosen.name == "fp32"
    assert chosen.doubtful
    assert "% off on this machine (3 % are allowed)" in chosen.reason


@pytest.mark.parametrize("asked", ["fp32", "fp16"])
def test_what_is_pinned_stays(no_bf16, asked):
    assert choose(asked) == NumberFormat(asked, f"set by trainer.precision={asked}")


def test_pinned_bf16_without_instructions_is_doubtful(no_bf16):
    chosen = choose("bf16")
    assert chosen.name == "bf16"
    assert chosen.doubtful
    assert "this cpu has no instructions for it, and fp32 is faster; set trainer.precision=auto" in chosen.reason
    assert choose("bf16", remedy=None).reason.endswith("fp32 is faster")


def test_pinned_bf16_with_instructions_is_not(bf16):
    assert choose("bf16") == NumberFormat("bf16", "set by trainer.precision=bf16")


def test_a_misspelt_format():
    with pytest.raises(UserError, match=r"trainer\.precision=fp8 must be one of auto, fp32, bf16, fp16"):
        choose("fp8")


@pytest.mark.parametrize(
    ("own", "trained", "expected", "reason"),
    [
        (None, "fp16", "fp16", "set by trainer.precision of the run=fp16"),
        (None, "auto", "bf16", "layers agree"),
        ("fp32", "auto", "fp32", "set by precision=fp32"),
        ("auto", "fp32", "bf16", "layers agree"),
    ],
)
def test_what_evaluation_and_prediction_compute_in(bf16, own, trained, expected, reason):
    chosen = inference_precision(own, trained=trained, network=network(), device=CPU)
    assert chosen.name == expected
    assert reason in chosen.reason


def test_the_remedy_in_prediction_is_a_setting_of_prediction(no_bf16):
    reason = inference_precision(None, trained="bf16", network=network(), device=CPU).reason
    assert "give precision=auto to sct.eval or sct.predict" in reason
    assert "set trainer.precision" not in reason


@pytest.mark.parametrize("name", ["fused", "by head"])
def test_both_kernels_of_attention_are_tried(monkeypatch, name):
    """Short sequences have the fused kernel, long ones products by head: a network may meet either."""

    def broken(original):
        return lambda q, *rest, **more: original(q, *rest, **more) * (1 + 0.1 * (q.dtype == torch.bfloat16))

    if name == "fused":
        monkeypatch.setattr(F, "scaled_dot_product_attention", broken(F.scaled_dot_product_attention))
    else:
        monkeypatch.setattr(attention, "has_tiles", lambda: False)
        monkeypatch.setattr(attention, "attention_by_head", broken(attention.attention_by_head))
    net = Attention(64, num_heads=2)
    nn.init.zeros_(net.proj.bias)
    worst, error = worst_layer(small_probes(nn.Sequential(net), thinnest=[8]), device=CPU)
    assert worst == "0"
    assert error == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("part", ["conv_relu", "embedded"])
def test_what_inference_computes_otherwise_is_tried_as_it_does(monkeypatch, part):
    monkeypatch.setattr(convolutions, part, wrong_in_bf16(getattr(convolutions, part), by=0.1))
    layer = FoldedConv(1, 4, kernel_size=[3, 3]) if part == "conv_relu" else PatchEmbedding2d(1, 4, 4, 4, bias=False)
    # in training too: its validations are inference
    worst, error = worst_layer(small_probes(nn.Sequential(layer), thinnest=[8]), device=CPU)
    assert worst == "0"
    assert error == pytest.approx(0.1, abs=0.02)


def test_a_layer_learns_nothing_from_the_check():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert net.training
    worst_layer(probes_of(net, device=CPU), device=CPU, learns=True)
    real_probes(net, torch.randn(1, 1, 16, 16, 8))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_are_tried_where_the_network_learns(monkeypatch):
    """oneDNN's faults on thin maps are in gradients."""

    def broken(grad, x, weight):
        return original(grad, x, weight) * (1 + 0.1 * (grad.dtype == torch.bfloat16))

    original = sliced.weight_gradient
    monkeypatch.setattr(sliced, "weight_gradient", broken)
    net = nn.Sequential(SAME_CONV[3](3, 2, kernel_size=3, padding=1))
    assert worst_layer(small_probes(net, thinnest=[8] * 3), device=CPU)[1] < 0.02
    worst, error = worst_layer(small_probes(net, thinnest=[8] * 3), device=CPU, learns=True)
    assert worst == "0"
    assert error == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("thinnest", "found"), [([2, 8, 8], True), ([1, 1, 1], True), ([3, 3, 3], False)])
def test_thin_maps_are_tried_where_the_network_has_them(monkeypatch, thinnest, found):
    def broken(x, *rest, **more):
        is_thin = torch.is_autocast_enabled("cpu") and min(x.shape[2:]) <= 2
        return original(x, *rest, **more) * (1 + 0.1 * is_thin)

    original = F.conv3d
    monkeypatch.setattr(F, "conv3d", broken)
    net = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1))
    assert (worst_layer(small_probes(net, thinnest=thinnest), device=CPU)[1] > 0.05) is found


def test_the_inputs_of_convolutions():
    layers = [
        nn.Conv3d(1, 2, 4, stride=4),
        nn.Conv3d(1, 2, 3, padding=1),
        nn.Conv3d(1, 2, 3, padding="same", dilation=2),
        nn.ConvTranspose3d(1, 2, 2, stride=2),
        nn.Conv3d(1, 2, 16, stride=16),
    ]
    probes = list(small_probes(nn.Sequential(*layers), thinnest=[1, 9, 2]))
    shapes = [[probe.shape[2:] for probe in probes if probe.layer is layer] for layer in layers]
    assert shapes == [
        [(8, 8, 8), (4, 8, 4)], [(8, 8, 8), (1, 8, 2)], [(8, 8, 8), (1, 8, 2)], [(8, 8, 8), (1, 8, 2)],
        [(16, 16, 16), (16, 16, 16)],
    ]  # fmt: skip
    for probe in probes:
        probe.layer(torch.zeros(probe.shape))


class Steps(Decoder):
    """A network without tokens: convolutions with these strides; may look at the numbers of its maps."""

    def __init__(self, *, spec, num_classes, strides, looks=False):
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv3d(1, 1, 3, stride=stride, padding=1) for stride in strides)
        self.along = nn.Conv1d(1, 1, 1)
        self.looks = looks

    def forward(self, image, dense):
        x = image
        for step in self.steps:
            x = step(x)
        x = self.along(x.flatten(2)).reshape(x.shape)
        if self.looks:
            x.mean().item()
        return Decoded(F.interpolate(x, image.shape[2:]).repeat(1, 3, 1, 1, 1))


@pytest.mark.parametrize(
    ("strides", "looks", "thinnest"),
    [([2, 2, 1], False, (24, 16, 4)), ([2, (4, 1, 1), 1], False, (12, 32, 8)), ([2, 2, 1], True, (3, 2, 1))],
)
def test_the_thinnest_map_of_a_network_without_tokens(strides, looks, thinnest):
    """Where it can't be known, as of a U-Net with five steps."""
    encoder = ImageOnly(image_size=(96, 64, 16), in_channels=1)
    decoder = partial(Steps, strides=strides, looks=looks)
    net = Segmenter(encoder=encoder, completion=Scatter, decoder=decoder, num_classes=3)
    assert thinnest_map(net) == thinnest
    assert not any(layer._forward_pre_hooks for layer in net.modules())
    assert net.training


def test_the_thinnest_map_of_a_network_with_tokens():
    assert thinnest_map(network()) == (2, 2, 1)


def test_on_a_gpu_layers_are_tried_on_what_they_see_in_a_window():
    net, image = network(), torch.randn(1, 1, 16, 16, 8)
    probes = {probe.name: probe.shape for probe in real_probes(net, image)}
    assert probes["encoder.patch_embed"] == (1, 1, 16, 16, 8)
    assert probes["encoder.blocks.0.attn"] == (1, 1 + 4, 24)
    assert probes["decoder.whole.join.1"] == (1, 2, 16, 16, 8)
    # what folded convolutions learn with
    assert probes["decoder.whole.join.1.convolution"] == (1, 2, 16, 16, 8)
    assert not net.encoder.patch_embed._forward_pre_hooks
    worst, error = worst_layer(real_probes(net, image), device=CPU, learns=True)
    assert 0 < error < 0.02, worst


def test_packed_attention_is_tried_on_the_lengths_it_sees(monkeypatch):
    dtop = partial(DToP, blocks=(1, 2), head="fcn", fcn=partial(FCNHead, hidden=8), p0=0.4, k=1)
    net = network(num_classes=3, reducer=dtop)
    probes = [probe for probe in real_probes(net, torch.randn(1, 1, 16, 16, 8)) if probe.lengths]
    assert {probe.name for probe in probes} == {"encoder.blocks.1.attn", "encoder.blocks.2.attn"}
    assert all(sum(probe.lengths) == probe.shape[1] for probe in probes)
    seen = []

    def watched(q, k, v, *, lengths, bias):
        seen.append(lengths)
        return attention.packed_attention(q, k, v, lengths=lengths, bias=bias)

    monkeypatch.setattr("sct.models.blocks.layers.packed_attention", watched)
    worst_layer(probes[:1], device=CPU)
    assert seen == [probes[0].lengths] * 2


def test_a_gpu_is_checked_on_a_window_and_a_processor_on_little(monkeypatch):
    seen, net = [], network()
    small = probes_of(net, device=CPU)
    assert {max(probe.shape[2:]) for probe in small if len(probe.shape) == 5} == {2, 8}
    monkeypatch.setattr(selfcheck, "real_probes", lambda net, image: seen.append(image.shape) or [])
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert probes_of(net, device=torch.device("cuda")) == []
    assert seen == [(1, 1, 16, 16, 8)]


def test_the_error_by_hand():
    """bf16 keeps 8 bits: 1 + 2^-9 becomes 1."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    assert bf16_error(layer, torch.tensor([[1 + 2.0**-9]])) == pytest.approx(2.0**-9, rel=0.01)
    assert bf16_error(layer, torch.tensor([[1.0]])) == 0
    # of the weight's gradient, which is the input times a random number
    assert bf16_error(layer, torch.tensor([[1.0]]), learns=True) < 2.0**-7


def test_layers_of_one_kind_and_size_are_computed_once(monkeypatch):
    seen = []
    monkeypatch.setattr(selfcheck, "bf16_error", lambda layer, x, **more: seen.append(x.shape) or 0.0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    worst_layer(small_probes(net, thinnest=[8]), device=CPU)
    assert [tuple(shape) for shape in seen] == [(64, 3), (64, 4)]
    assert worst_layer(small_probes(nn.LayerNorm(3), thinnest=[8]), device=CPU) == ("", 0.0)
    one = nn.Linear(3, 4)
    assert Probe("a", one, (1, 3)).kind != Probe("a", one, (2, 3)).kind
