"""AS-ViT: an image is the same alone, in any batch, and in masked training; packed sets cost what they should."""

import pytest
import torch
from asvit_by_hand import four_images, reducer, stats_of, tokens_of
from little_models import COMBINATIONS, Combination, little_batch, little_network

from sct.profiling.macs import count_macs

COMPLETED = [which for which in COMBINATIONS if which.encoder == "asvit" and which.decoder == "unetr"]


def parts_of(encoded):
    """Places and features of every set of every image, one list an image."""
    sets = [zip(s.per_image(s.index), s.per_image(s.x), strict=True) for s in encoded.sets]
    return list(zip(*sets, strict=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_packed_blocks_are_counted(dims):
    which = Combination("asvit", "scatter", "unetr", dims)
    network = little_network(which)
    image = four_images(which, network)
    encoded = network.encoder(image)
    n, C = network.encoder.spec.num_tokens, network.encoder.spec.dim
    seen = torch.stack([torch.full((4,), float(n)), encoded.aux["tokens_1"], encoded.aux["tokens_2"]]) + 1
    assert len(seen[1].unique()) > 1, "not the same number of every image"
    macs = encoded.aux["macs_share"] * network.encoder.reducer.dense_macs
    # two norms a block and the last one, and the class token's query at the two blocks that prune
    macs = macs + 5 * C * (2 * seen.sum(dim=0) + seen[2]) + C * seen[:2].sum(dim=0)
    # the norms of heads are not products: fvcore counts none
    assert count_macs(network, image)["encoder"] == pytest.approx(macs.mean().item(), rel=1e-6)


@torch.no_grad()
def test_both_batch_rules_agree_on_one_image():
    which = Combination("asvit", "mta", "unetr", 2)
    network = little_network(which)
    image = four_images(which, network)
    exact = [network(one) for one in image.split(1)]
    network.encoder.reducer.batch_rule = "mean"
    for one, expected in zip(image.split(1), exact, strict=True):
        torch.testing.assert_close(network(one), expected)
    assert not torch.allclose(network(image), torch.cat(exact), atol=1e-3)


@pytest.mark.parametrize("which", COMPLETED, ids=str)
@torch.no_grad()
def test_an_image_is_the_same_alone_and_in_any_batch(which):
    network = little_network(which)
    image = four_images(which, network)
    alone = [network.encoder(one) for one in image.split(1)]
    kept = torch.stack([torch.cat([one.aux["tokens_1"], one.aux["tokens_2"]]) for one in alone])
    assert len(kept.unique(dim=0)) == 4, "four different images"
    logits = [network(one) for one in image.split(1)]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 2, 0, 1], [1, 3]):
        encoded = network.encoder(image[order])
        dense, together = network.completion(encoded), network(image[order])
        for row, number in enumerate(order):
            for ours, theirs in zip(parts_of(encoded)[row], parts_of(alone[number])[0], strict=True):
                # decisions to the bit; features to rounding: matrix products add up differently with more rows
                assert torch.equal(ours[0], theirs[0])
                torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-6)
            x = network.completion(alone[number]).x
            torch.testing.assert_close(dense.x[row : row + 1], x, rtol=0, atol=1e-6 * x.abs().max().item())
            # convolutions too round differently in another batch, whatever the encoder is
            expected = logits[number]
            close = 2e-6 * together.abs().max().item()
            torch.testing.assert_close(together[row : row + 1], expected, rtol=0, atol=close)


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_images_that_lose_all_but_one_token_or_none(dims):
    which = Combination("asvit", "mta", "unetr", dims)
    network = little_network(which)
    image, n = little_batch(which)[0], network.encoder.spec.num_tokens
    thresholds = network.encoder.reducer.thresholds
    for first, second, counts in ((1e3, 1e3, (1, 1)), (-1.0, 1e3, (n, 1)), (-1.0, -1.0, (n, n)), (1e3, -1.0, (1, 1))):
        thresholds.copy_(torch.tensor([first, second]))
        encoded = network.encoder(image)
        assert [encoded.aux[f"tokens_{j}"].tolist() for j in (1, 2)] == [[count] * 2 for count in counts]
        alone = torch.cat([network(one) for one in image.split(1)])
        torch.testing.assert_close(network(image), alone, rtol=1e-6, atol=1e-6 * alone.abs().max().item())


@torch.no_grad()
def test_one_image_keeps_everything_beside_one_that_keeps_a_token():
    method = reducer(2, 2, thresholds=[0.2 * 4 / 196] * 2).eval()
    scores = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.15, 0.19, 0.0]])
    reduction = method(tokens_of(scores), stage=0, stats=stats_of(scores))
    assert reduction.live.lengths == (4, 1)
    assert reduction.live.index.tolist() == [[0, 1, 2, 3, 2]]
    assert reduction.dropped.lengths == (0, 3)
    assert reduction.dropped.index.tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("which", COMPLETED, ids=str)
@torch.no_grad()
def test_masked_training_equals_packed_evaluation(which):
    network = little_network(which).double()
    image = four_images(which, network.float()).double()
    network.double()
    dropped = network(image)
    masked = network.train()(image)
    assert (masked.encoded.final.mask == 0).any(), "something is masked"
    torch.testing.assert_close(masked.logits, dropped, rtol=0, atol=1e-6)


@torch.no_grad()
def test_activation_masking_leaves_attention_alone():
    which = Combination("asvit", "scatter", "unetr", 2)
    network = little_network(which)
    image = four_images(which, network)
    seen = {}
    for masking in ("attention", "activation"):
        network.encoder.reducer.masks = masking
        seen[masking] = network.train().encoder(image)
    # what the first stage dropped is seen by the class token at the second
    first = seen["activation"].dropped[0].mask > 0
    assert (seen["activation"].aux["score_2"][first] > 0).all()
    assert not seen["attention"].aux["score_2"][first].any()
    assert (seen["activation"].final.mask[first] == 0).all()
