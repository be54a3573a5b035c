"""APFormer as a whole network: schedules, half precision, and its parts switched off."""

import pytest
import torch
from little_models import Combination, little_batch, little_config, little_network

from sct.config.check import build
from sct.data.outputs import numbered
from sct.models.adaptive.dependencies import AdaptiveThreshold

APFORMER = Combination("apformer", "scatter", "unet", 2)


def test_progress_reaches_every_threshold():
    network = little_network(APFORMER)
    thresholds = [module for module in network.modules() if isinstance(module, AdaptiveThreshold)]
    assert len(thresholds) == network.encoder.depth
    network.set_progress(0.2)
    assert {module.progress for module in thresholds} == {0.2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_training_step_in_half_precision(dtype):
    network = little_network(APFORMER).train()
    image, label = little_batch(APFORMER)
    criterion = build(little_config(APFORMER).loss, key="loss", outputs=numbered(3))
    with torch.autocast("cpu", dtype=dtype):
        prediction = network(image)
    losses = criterion(prediction, label, image=image)
    losses["loss"].backward()
    assert {"gate", "attention"} <= set(losses)
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_gate_is_judged_by_any_foreground_in_the_patch():
    network = little_network(APFORMER).train()
    image, label = little_batch(APFORMER)
    label.zero_()
    label[0, 0, 15] = 2  # one voxel: the last patch of the first row
    criterion = build(little_config(APFORMER).loss, key="loss", outputs=numbered(3))
    prediction = network(image)
    found = criterion(prediction, label, image=image)["gate"].item()
    log_probability = prediction.encoded.gate.log_softmax(dim=1)
    expected = -(log_probability[:, 0].sum() - log_probability[0, 0, 0, 3] + log_probability[0, 1, 0, 3]) / 32
    assert found == pytest.approx(expected.item(), rel=1e-5)


@torch.no_grad()
def test_without_blocks_nothing_is_pruned(caplog):
    network = little_network(APFORMER, "encoder.transformer=false")
    encoded = network.encoder(little_batch(APFORMER)[0])
    assert encoded.gate is None
    assert encoded.aux == {}
    assert network.encoder.spec.num_depths == 0
    assert "the encoder has no transformer block" in caplog.text


def test_the_self_supervised_loss_is_the_mean_over_the_blocks():
    network = little_network(APFORMER).train()
    found = []
    for block in network.encoder.blocks:
        block.attn.register_forward_hook(lambda module, args, out: found.append(out[1].loss))
    encoded = network.encoder(little_batch(APFORMER)[0])
    assert len(found) == network.encoder.depth > 1
    torch.testing.assert_close(encoded.losses["attention"], torch.stack(found).mean())
