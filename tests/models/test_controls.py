"""The controls: random tokens, and those with the least attention of the class token."""

import pytest
import torch
from little_models import Combination, little_batch, little_network
from stp_by_hand import random_tokens, spec_of

from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.reducers.controls import MinScore, Random
from sct.models.tokens import gather_tokens


def random_reducer(N=16, *, training=False, **settings):
    return Random(spec=spec_of(N, dim=8), blocks=(1, 2), **settings).train(training)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_random_counts_as_stp_does(training):
    tokens, found = random_tokens(B=1, N=1728), []
    for stage in range(3):
        reduction = random_reducer(1728, training=training)(tokens, stage=stage, stats=None)
        tokens = reduction.live
        found.append(tokens.x.shape[1])
    assert found == [173, 17, 2]


def test_random_in_evaluation_is_one_order_for_all_images_and_stages():
    reducer, tokens = random_reducer(ratio=0.5), random_tokens(B=3)
    torch.manual_seed(0)
    one = reducer(tokens, stage=0, stats=None)
    torch.manual_seed(1)
    again = random_reducer(ratio=0.5)(random_tokens(B=1), stage=0, stats=None)
    assert torch.equal(one.live.index, again.live.index.expand(3, -1))
    two = reducer(one.live, stage=1, stats=None)
    ranking = reducer.order.argsort(descending=True)
    for reduction, k in ((one, 8), (two, 4)):
        assert reduction.live.index[0].tolist() == sorted(ranking[:k].tolist())
    assert torch.equal(two.live.x, gather_tokens(tokens.x, two.live.index))
    assert torch.equal(two.dropped.x, gather_tokens(tokens.x, two.dropped.index))
    assert not reducer.state_dict(), "the seed in the config says it"


def test_random_seeds_choose_every_place_alike():
    tokens, draws = random_tokens(B=1), 400
    kept = torch.zeros(16)
    for seed in range(draws):
        kept[random_reducer(ratio=0.75, seed=seed)(tokens, stage=0, stats=None).live.index[0]] += 1
    assert ((kept / draws - 0.25).abs() < 4 * (0.25 * 0.75 / draws) ** 0.5).all()


def test_random_in_training_draws_afresh_for_every_image_and_step():
    torch.manual_seed(0)
    reducer, draws = random_reducer(ratio=0.75, training=True), 4000
    index = reducer(random_tokens(B=draws), stage=0, stats=None).live.index
    assert (index.diff(dim=1) > 0).all(), "spatial order"
    share = torch.zeros(draws, 16).scatter(1, index, 1.0).mean(dim=0)
    assert ((share - 0.25).abs() < 4 * (0.25 * 0.75 / draws) ** 0.5).all()
    assert len(set(map(tuple, index.tolist()))) > 1000
    assert not torch.equal(reducer(random_tokens(B=draws), stage=0, stats=None).live.index, index)


def test_minscore_keeps_what_gets_least_attention():
    torch.manual_seed(0)
    attention, tokens = torch.rand(2, 10, 3), random_tokens(N=10)
    minscore = MinScore(spec=spec_of(10, dim=8), blocks=(1,), ratio=0.75)
    reduction = minscore(tokens, stage=0, stats=AttentionStats(attention, attention))
    for b in range(2):
        score = attention[b].mean(dim=1).tolist()
        # 2.5 tokens: halves upwards
        least = sorted(sorted(range(10), key=lambda i: score[i])[:3])
        assert reduction.live.index[b].tolist() == least
        assert reduction.dropped.index[b].tolist() == sorted(set(range(10)) - set(least))
    assert torch.equal(reduction.live.x, gather_tokens(tokens.x, reduction.live.index))


@torch.no_grad()
def test_minscore_keeps_what_evit_drops():
    which = Combination("minscore", "mta", "unetr", 2)
    network, image = little_network(which), little_batch(which)[0]
    opposite = little_network(which._replace(encoder="evit"))
    opposite.load_state_dict(network.state_dict())
    ours, theirs = network.encoder(image), opposite.encoder(image)
    kept = torch.cat([ours.dropped[1].index, ours.final.index], dim=1).sort(dim=1).values
    assert torch.equal(kept, theirs.dropped[0].index), "half of 16, which both round alike"


@pytest.mark.parametrize("reducer", [Random, MinScore])
def test_a_ratio_that_leaves_nothing(reducer):
    with pytest.raises(UserError, match=r"encoder\.reducer\.ratio=1\.0"):
        reducer(spec=spec_of(16, dim=8), ratio=1.0)
