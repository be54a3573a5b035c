"""Cropr: scores by hand, what its heads learn from and teach, tokens that re-enter, and the statistics of tokens."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from little_models import CLASSES, Combination, little_batch, little_config, little_criterion, little_network
from stp_by_hand import spec_of

from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.errors import UserError
from sct.evaluation.tokens import token_statistics
from sct.models.blocks.layers import AttentionStats
from sct.models.encoder import ViTEncoder
from sct.models.grid import pruning_depth
from sct.models.reducers.cropr import Cropr
from sct.models.tokens import FeatureSpec, Tokens, gather_tokens
from sct.profiling.segmenter import tokens_alive

WHICH = Combination("cropr", "scatter", "fcn", 2)
OUTPUTS = Classes(LabelMap(("background", *(f"class {number}" for number in range(1, CLASSES)))))
SPEC = FeatureSpec((6,), 1, (1,), 4, 2, depth=3, num_classes=2)


def random_tokens():
    return Tokens(torch.randn(2, 6, 4), torch.arange(6).expand(2, -1))


def test_the_queries_sum_scores_and_the_best_stay():
    cropr, tokens = Cropr(spec=SPEC, blocks=(1,), ratio=0.5).eval(), random_tokens()
    reduction = cropr(tokens, stage=0, stats=AttentionStats())
    products = torch.einsum("bnc,mc->bnm", tokens.x, cropr.heads[0].queries).sum(dim=2)
    expected = products.topk(3, dim=1).indices.sort(dim=1).values
    assert torch.equal(reduction.live.index, expected)
    assert reduction.auxiliary is None, "heads are of training alone"
    # mean of scaled products: 6 queries of width 4
    torch.testing.assert_close(reduction.aux["score_1"], products.detach() / 6 / 2)


def test_a_head_reads_the_tokens_by_the_softmax_of_products():
    cropr, tokens = Cropr(spec=SPEC, blocks=(1,), ratio=0.5), random_tokens()
    head = cropr.heads[0]
    weights = (torch.einsum("mc,bnc->bmn", head.queries, tokens.x) / 2).softmax(dim=2)
    context = weights @ tokens.x
    hidden = head.mlp.fc2(torch.nn.functional.gelu(head.mlp.fc1(head.norm(context))))
    expected = head.classify(context + hidden).transpose(1, 2)
    torch.testing.assert_close(cropr(tokens, stage=0, stats=AttentionStats()).auxiliary.masks, expected)


def gradients(weight):
    """The loss and gradients of a training step with this weight of the auxiliary heads, and the network."""
    network = little_network(WHICH).train()
    criterion = little_criterion(little_config(WHICH))
    criterion.auxiliary_weight = weight
    image, label = little_batch(WHICH)
    losses = criterion(network(image), label, image=image)
    losses["loss"].backward()
    return losses, {name: p.grad for name, p in network.named_parameters() if p.requires_grad}


def test_heads_learn_by_their_loss_and_the_encoder_does_not():
    losses, ours = gradients(1.0)
    torch.testing.assert_close(losses["loss"], losses["dice"] + losses["ce"] + losses["auxiliary"])
    weighted, double = gradients(2.0)
    torch.testing.assert_close(weighted["loss"] - losses["loss"], losses["auxiliary"])
    for name, gradient in ours.items():
        factor = 2 if name.startswith("encoder.reducer.") else 1
        torch.testing.assert_close(double[name], factor * gradient, rtol=1e-5, atol=1e-8)
        assert gradient.any() or name == "encoder.class_token", name


@torch.no_grad()
def test_dropped_tokens_re_enter_as_they_were_and_count_as_alive():
    network = little_network(WHICH)
    encoder, reductions, entered = network.encoder, [], []
    encoder.reducer.register_forward_hook(lambda module, inputs, output: reductions.append(output))
    encoder.blocks[2].norm1.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    encoded = encoder(little_batch(WHICH)[0])
    first, second = reductions
    (x,) = entered
    assert x.shape == (2, 17, 24)
    for tokens in (first.dropped, second.dropped):
        assert torch.equal(gather_tokens(x[:, 1:], tokens.index), tokens.x)
    assert encoded.dropped == []
    assert torch.equal(encoded.final.index, torch.arange(16).expand(2, -1))
    assert [alive.tolist() for alive in encoded.alive] == [[8, 8], [4, 4], [16, 16]]
    assert tokens_alive(encoder, encoded).tolist() == [[8, 8], [4, 4], [16, 16]]
    depth = pruning_depth(encoded)
    assert torch.equal(depth.flatten(1).gather(1, first.dropped.index), torch.zeros(2, 8, dtype=torch.long))
    assert torch.equal(depth.flatten(1).gather(1, second.live.index), torch.full((2, 4), 2))
    prediction = network.predict(little_batch(WHICH)[0])
    row = token_statistics(prediction, little_batch(WHICH)[1], patch_size=(4, 4), outputs=OUTPUTS)
    alive = {name: value for name, value in row.items() if name.startswith("tokens/alive")}
    assert alive == {"tokens/alive_1": 8, "tokens/alive_2": 4, "tokens/alive_reentered": 16}
    fewest = {name: value for name, value in row.items() if name.startswith("tokens/fewest")}
    assert fewest == {"tokens/fewest_1": 8, "tokens/fewest_2": 4}, "stages alone"


@torch.no_grad()
def test_without_fusion_the_completion_gets_them():
    network = little_network(WHICH, "encoder.reducer.fusion=false")
    encoded = network.encoder(little_batch(WHICH)[0])
    assert [tokens.x.shape[1] for tokens in encoded.sets] == [8, 4, 4]
    assert len(network.completion.norms.norms) == 2


@torch.no_grad()
def test_packed_and_masked_sets_re_enter_too():
    """Any reducer may let its tokens re-enter, whatever kind of sets it makes."""
    for name, training in (("asvit", False), ("dynamicvit", True), ("evit", False)):
        which = WHICH._replace(encoder=name)
        fused = ("encoder.reducer.fuse=true",) if name == "evit" else ()
        encoder = little_network(which, *fused).encoder.train(training)
        image, _ = little_batch(which)
        torch.manual_seed(0)
        expected = pruning_depth(encoder(image))
        assert set(expected.unique().tolist()) == {0, 1, 2}
        encoder.reducer.reenter_before, encoder.spec = 3, replace(encoder.spec, restored=True)
        torch.manual_seed(0)
        encoded = encoder(image)
        assert encoded.final.x.shape == (2, 16, 24)
        assert encoded.alive[-1].tolist() == [16, 16]
        assert torch.equal(pruning_depth(encoded), expected)


@pytest.mark.parametrize(("blocks", "message"), [((1, 3), r"fusion=false"), ((2,), None)])
def test_the_last_block_sees_all(blocks, message):
    if message is None:
        assert Cropr(spec=SPEC, blocks=blocks).reenter_before == 3
        return
    with pytest.raises(UserError, match=message):
        Cropr(spec=SPEC, blocks=blocks)
    assert Cropr(spec=SPEC, blocks=blocks, fusion=False).reenter_before is None


def test_a_block_for_the_return_that_does_not_exist_is_refused():
    class Late(Cropr):
        def __init__(self, *, spec, **settings):
            super().__init__(spec=spec, **settings)
            self.reenter_before = 1

    sizes = {"image_size": (8, 8), "in_channels": 1, "patch_size": 4, "dim": 8, "depth": 3, "num_heads": 2}
    with pytest.raises(UserError, match=r"re-enter before block 1 .*blocks=\[1\]"):
        ViTEncoder(**sizes, num_classes=CLASSES, reducer=partial(Late, blocks=(1,)))


def test_it_asks_for_classes():
    with pytest.raises(UserError, match="num_classes"):
        Cropr(spec=spec_of(6, dim=4), blocks=(1,))


@torch.no_grad()
def test_under_mixed_precision_scores_are_those_of_float32():
    cropr = Cropr(spec=SPEC, blocks=(1,), ratio=0.5).eval()
    tokens = random_tokens()
    exact = cropr(tokens, stage=0, stats=AttentionStats()).aux["score_1"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cropr(tokens, stage=0, stats=AttentionStats()).aux["score_1"], exact)
