"""What speed=fast chooses, and that broken kernels are found."""

import logging

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from sct import speed
from sct.errors import UserError
from sct.models import attention, convolutions
from sct.models.convolutions import FoldedConv, PatchEmbedding2d
from sct.models.layers import Attention
from sct.precision import check_speed
from sct.schema import PredictConfig
from sct.speed import bf16_error, choose_dtype, inference_dtype, worst_layer

CPU = torch.device("cpu")


class Broken(nn.Linear):
    """Exact in float32, wrong in bf16 by `wrong` times its output."""

    wrong = 0.0

    def forward(self, x):
        right = super().forward(x)
        return right * (1 + self.wrong * torch.is_autocast_enabled("cpu"))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3), nn.ConvTranspose2d(3, 2, 2), Attention(8, num_heads=2), Broken(8, 8))


def choose(net, name="fast", precision="fp32"):
    return choose_dtype(name, precision=precision, network=net, device=CPU)


def test_safe_is_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(speed, "has_bf16", lambda device: True)
    assert choose(network(), "safe") == torch.float32
    assert choose(network(), "safe", "fp16") == torch.float16


def test_fast_is_bf16_where_the_machine_has_it(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(speed, "has_bf16", lambda device: False)
    assert choose(network()) == torch.float32
    assert choose(network(), precision="bf16") == torch.float32
    assert choose(network(), precision="fp16") == torch.float16
    assert "does not compute in bf16" in caplog.text
    monkeypatch.setattr(speed, "has_bf16", lambda device: True)
    assert choose(network()) == torch.bfloat16
    assert "agree with fp32 within" in caplog.text


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
    worst, error = worst_layer(nn.Sequential(net), device=CPU)
    assert worst == "0"
    assert error == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("part", ["conv_relu", "embedded"])
def test_what_inference_computes_otherwise_is_tried_as_it_does(monkeypatch, part):
    original = getattr(convolutions, part)

    def broken(x, *rest, **more):
        return original(x, *rest, **more) * (1 + 0.1 * torch.is_autocast_enabled("cpu"))

    monkeypatch.setattr(convolutions, part, broken)
    layer = FoldedConv(1, 4, kernel_size=[3, 3]) if part == "conv_relu" else PatchEmbedding2d(1, 4, 4, 4, bias=False)
    worst, error = worst_layer(nn.Sequential(layer).eval(), device=CPU)
    assert worst == "0"
    assert error == pytest.approx(0.1, abs=0.02)


def test_a_layer_learns_nothing_from_the_check():
    layer = FoldedConv(1, 4, kernel_size=[3, 3])
    worst, _ = worst_layer(nn.Sequential(layer), device=CPU)
    assert worst in ("0.convolution", "0.middle")
    assert not layer.norm.running_mean.any()


@pytest.mark.parametrize("wrong", [0.1, float("nan")])
def test_a_kernel_that_is_off_is_found_and_named(monkeypatch, caplog, wrong):
    monkeypatch.setattr(speed, "has_bf16", lambda device: True)
    net = network()
    net[3].wrong = wrong
    assert worst_layer(net, device=CPU)[0] == "3"
    assert choose(net) == torch.float32
    assert "3 is" in caplog.text


def test_the_error_by_hand():
    """bf16 keeps 8 bits: 1 + 2^-9 becomes 1."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    assert bf16_error(layer, torch.tensor([[1 + 2.0**-9]])) == pytest.approx(2.0**-9, rel=0.01)
    assert bf16_error(layer, torch.tensor([[1.0]])) == 0


def test_layers_of_one_kind_and_size_are_computed_once(monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "bf16_error", lambda layer, x: seen.append(x.shape) or 0.0)
    worst_layer(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 3), nn.LayerNorm(3)), device=CPU)
    assert [tuple(shape) for shape in seen] == [(64, 3), (64, 4)]
    assert worst_layer(nn.LayerNorm(3), device=CPU) == ("", 0.0)


@pytest.mark.parametrize(
    ("settings", "trained", "expected"),
    [
        ({}, {"precision": "fp16"}, torch.float16),
        ({}, {"precision": "fp32", "speed": "fast"}, torch.bfloat16),
        ({"speed": "safe"}, {"precision": "fp32", "speed": "fast"}, torch.float32),
        ({"speed": "fast"}, {"precision": "fp32"}, torch.bfloat16),
        ({"speed": "fast", "precision": "fp32"}, {"precision": "bf16"}, torch.float32),
    ],
)
def test_what_evaluation_and_prediction_compute_in(monkeypatch, settings, trained, expected):
    monkeypatch.setattr(speed, "has_bf16", lambda device: True)
    cfg, run_cfg = OmegaConf.structured(PredictConfig(**settings)), OmegaConf.create({"trainer": trained})
    assert inference_dtype(cfg, run_cfg, network=network(), device=CPU) == expected


def test_a_misspelt_speed():
    with pytest.raises(UserError, match=r"trainer\.speed=faster must be safe or fast"):
        check_speed("faster")
