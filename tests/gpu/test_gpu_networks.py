"""Every encoder on a GPU: what the processor says in float32, near it under autocast, and a training step."""

import copy

import pytest
import torch
from little_models import Combination, little_batch, little_config, little_criterion, little_network, options
from test_contract import KEEP_ALL, KEEP_ALL_DEFAULT

from sct.runtime.precision import autocast

# in 3-D; a pyramid of features has a decoder of its own
PYRAMIDS = {"apformer": "unet"}
WHICH = [Combination(name, "mta", PYRAMIDS.get(name, "unetr"), 3) for name in options("encoder")]
# logits of a whole network in bfloat16, which rounds to 8 bits in every layer
BF16 = 0.06


def error_of(ours, exact):
    return ((ours.float().cpu() - exact.cpu()).norm() / exact.cpu().norm()).item()


@pytest.mark.gpu
@pytest.mark.parametrize("which", WHICH, ids=str)
@torch.no_grad()
def test_the_processors_logits(which, gpu):
    image, _ = little_batch(which)
    network = little_network(which)
    exact = network(image)
    found = network.to(gpu)(image.to(gpu))
    assert found.device.type == gpu.type
    torch.testing.assert_close(found.cpu(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("which", WHICH, ids=str)
@torch.no_grad()
def test_an_image_is_the_same_alone_and_in_a_batch(which, gpu):
    image = little_batch(which)[0].to(gpu)
    network = little_network(which).to(gpu)
    alone = torch.cat([network(image[:1]), network(image[1:])])
    torch.testing.assert_close(network(image), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", WHICH, ids=str)
@torch.no_grad()
def test_autocast_stays_near_float32(which, device):
    # nothing is pruned: a score that rounding moves past another would change the tokens
    network = little_network(which, KEEP_ALL.get(which.encoder, KEEP_ALL_DEFAULT)).to(device)
    image = little_batch(which)[0].to(device)
    exact = network(image)
    with autocast(device, torch.bfloat16):
        found = network(image)
    assert 0 < error_of(found, exact) < BF16


@pytest.mark.gpu
@pytest.mark.parametrize("which", WHICH, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_step_has_finite_gradients(which, dtype, gpu):
    network = copy.deepcopy(little_network(which)).train().to(gpu)
    image, label = (tensor.to(gpu) for tensor in little_batch(which))
    criterion = little_criterion(little_config(which)).to(gpu)
    with autocast(gpu, dtype):
        prediction = network(image)
    criterion(prediction, label, image=image)["loss"].backward()
    trained = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()] == []
