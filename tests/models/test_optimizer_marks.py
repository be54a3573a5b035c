"""What the shipped parts tell the optimizer: which are scorers, what gets no weight decay."""

import pytest
from little_models import Combination, little_network

from sct.training.optim import adamw, marked_parameters


@pytest.mark.parametrize(
    ("encoder", "small"), [("stp", True), ("dynamicvit", True), ("asvit", True), ("dtop", False), ("cropr", False)]
)
def test_the_small_epsilon_reaches_scorers_and_thresholds_alone(encoder, small):
    network = little_network(Combination(encoder, "scatter", "fcn", 2))
    optimizer = adamw(network, lr=1e-3)
    parts = {id(p) for p in network.encoder.reducer.parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["eps"] == (1e-16 if small and id(p) in parts else 1e-8)


@pytest.mark.parametrize(
    ("which", "names"),
    [
        (Combination("cropr", "mim", "atm", 2), {"encoder.reducer.heads.0.queries", "completion.mask_token"}),
        (Combination("cropr", "mim", "atm", 2), {"decoder.head.class_tokens.weight", "encoder.position"}),
        (Combination("apformer", "scatter", "unet", 2), {"encoder.blocks.0.attn.positions.position_table"}),
    ],
)
def test_learned_positions_tokens_and_queries_do_not_decay(which, names):
    network = little_network(which)
    _, spared = marked_parameters(network)
    assert names <= spared
    assert not any(name.endswith(("fc1.weight", "proj.weight", "classify.weight")) for name in spared)
