"""The check of bf16 on a GPU: layers of the shipped networks agree with float32."""

import pytest
import torch

from sct.cli import compose_config
from sct.config import build
from sct.factory import build_segmenter
from sct.speed import TOLERANCE, has_bf16, worst_layer


@pytest.mark.gpu
@pytest.mark.parametrize("experiment", ["btcv_fast_stp", "btcv_dense_unetr"])
def test_layers_agree_in_bf16(experiment, gpu):
    if not has_bf16(gpu):
        pytest.skip("no bf16 here")
    cfg = compose_config("train", overrides=[f"+experiment={experiment}"])
    torch.manual_seed(0)
    network = build_segmenter(cfg, data=build(cfg.data, key="data")).to(gpu).eval()
    name, error = worst_layer(network, device=gpu)
    assert 0 < error < TOLERANCE, name
