"""A method's own loss terms are part of the loss of a training step, and its parameters learn from them."""

import pytest
import torch
from little_models import Combination, little_batch, little_config, little_criterion, little_network

# encoder -> the method's own terms, and a parameter that learns from them
OWN_TERMS = {
    "asvit": ({"budget"}, "encoder.reducer.thresholds"),
    "dynamicvit": ({"ratio"}, "encoder.reducer.scorers.0.score.4.weight"),
    "apformer": ({"attention"}, "encoder.blocks.0.attn.qkv.weight"),
}


@pytest.mark.parametrize("encoder", OWN_TERMS)
def test_a_methods_own_terms_reach_the_loss_and_its_parameters(encoder):
    which = Combination(encoder, "scatter", "unet" if encoder == "apformer" else "unetr", 2)
    network = little_network(which).train()
    image, label = little_batch(which)
    names, parameter = OWN_TERMS[encoder]
    parts = little_criterion(little_config(which))(network(image), label, image=image)
    others = parts["pixel"] + 0.1 * parts.get("gate", torch.tensor(0.0))
    assert parts["loss"].item() == pytest.approx((others + sum(parts[name] for name in names)).item(), rel=1e-6)
    with_own, without = (
        torch.autograd.grad(total, network.get_parameter(parameter), retain_graph=True)[0]
        for total in (parts["loss"], others)
    )
    assert not torch.allclose(with_own, without, rtol=1e-3, atol=0)
