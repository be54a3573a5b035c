"""The check of bf16 on a GPU: layers of the shipped networks agree with float32 on what a real window gives them."""

import pytest
import torch

from sct.config.check import build
from sct.config.command import compose_config
from sct.models.selfcheck import TOLERANCE, choose_precision, probes_of, worst_layer
from sct.runs.build import build_segmenter
from sct.runtime.precision import has_bf16

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["btcv_fast_stp", "btcv_dense_unetr"])
def network(request, gpu):
    if not has_bf16(gpu):
        pytest.skip(f"this {gpu.type} has no instructions for bf16")
    cfg = compose_config("train", overrides=[f"+experiment={request.param}"])
    torch.manual_seed(0)
    return build_segmenter(cfg, data=build(cfg.data, key="data")).to(gpu).eval()


def test_layers_agree_in_bf16(network, gpu):
    probes = probes_of(network, device=gpu)
    assert any(probe.shape[-3:] == (96, 96, 96) for probe in probes), "as large as a window"
    name, error = worst_layer(probes, device=gpu, learns=True)
    assert 0 < error < TOLERANCE, name


def test_bf16_is_chosen(network, gpu):
    chosen = choose_precision("auto", network=network, device=gpu)
    assert chosen.name == "bf16", chosen.reason
