"""Dynamic Token Pruning: who exits, what they leave behind, and that nothing else changes."""

import pytest
import torch
from dtop_by_hand import TOKENS, Q, given_dtop, images, little_dtop
from omegaconf import OmegaConf

from sct.config.check import build
from sct.config.command import compose_config
from sct.errors import UserError
from sct.models.grid import presence, pruning_depth
from sct.models.reducers.dtop import CONTEXTS, DToP, append_means, rank_in_group
from sct.models.tokens import FeatureSpec, Tokens
from sct.profiling.macs import count_macs

RAGGED = tuple(context for context in CONTEXTS if context != "top_share")


# who exits


@pytest.mark.parametrize("context", RAGGED)
def test_who_exits_by_brute_force(context):
    torch.manual_seed(0)
    logits, k = torch.randn(2, 3, 20, Q) * 2, 2
    dtop, tokens = given_dtop(*logits, p0=0.7, k=k, context=context)
    everyone = [set(range(20)) for _ in range(3)]
    for stage in range(2):
        probability = logits[stage].softmax(dim=-1)
        reduction = dtop(tokens, stage=stage, stats=None)
        for b, alive in enumerate(everyone):
            confident = [i for i in alive if probability[b, i].max() >= 0.7]
            kept = set()
            for c in range(Q) if "topk" in context else ():
                class_signature = [i for i in alive if probability[b, i].argmax() == c]
                best = sorted(class_signature, key=lambda i: -probability[b, i].max())[:k]
                # the paper counts among the confident ones: the same, as those come first
                assert set(best) & set(confident) == set(
                    sorted(set(confident) & set(class_signature), key=lambda i: -probability[b, i].max())[:k]
                )
                kept |= set(best)
            exits = set(confident) - kept
            live, dropped = (part.per_image(part.index)[b].tolist() for part in (reduction.live, reduction.dropped))
            assert dropped == sorted(exits)
            assert [i for i in live if i < 20] == sorted(alive - exits)
            everyone[b] = alive - exits
        assert reduction.dropped.x.shape[1] > 0
        tokens = reduction.live


def test_the_most_confident_share_exits_whatever_the_threshold():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 20, Q)
    dtop, tokens = given_dtop(*logits, p0=1.0, context="top_share")
    reduction = dtop(tokens, stage=0, stats=None)
    confidence = logits[0].softmax(dim=-1).amax(dim=-1)
    for b in range(2):
        best = sorted(range(20), key=lambda i: -confidence[b, i])[:7]
        assert reduction.dropped.index[b].tolist() == sorted(best)
    assert reduction.live.lengths is None, "the same number of every image: no packing"


@pytest.mark.parametrize("context", ["average", "average_topk"])
def test_means_of_the_exited_tokens_stay_as_context(context):
    torch.manual_seed(0)
    logits, N = torch.randn(1, 3, 20, Q) * 2, 20
    dtop, tokens = given_dtop(*logits, p0=0.7, k=2, context=context)
    reduction = dtop(tokens, stage=0, stats=None)
    live, dropped = reduction.live, reduction.dropped
    for b in range(3):
        gone = dropped.per_image(dropped.index)[b]
        predicted = logits[0, b, gone].argmax(dim=-1)
        means = [tokens.x[b, gone[predicted == c]].mean(dim=0) for c in range(Q) if (predicted == c).any()]
        places = live.per_image(live.index)[b]
        assert (places[: -len(means)] < N).all()
        assert (places[-len(means) :] == N).all()
        torch.testing.assert_close(live.per_image(live.x)[b][-len(means) :], torch.stack(means))
    # they are context for the others, and not graded themselves
    again = dtop(live, stage=0, stats=None)
    assert (again.live.index == N).sum() >= (live.index == N).sum()
    assert (again.dropped.index < N).all()


def test_rank_in_group_and_ties():
    values, group = torch.tensor([[3.0, 5, 5, 1], [2, 9, 2, 2]]), torch.tensor([[0, 0, 0, 1], [1, 2, 1, 1]])
    assert rank_in_group(values, group).tolist() == [[2, 0, 1, 3], [0, 0, 1, 2]]


def test_means_go_to_the_end_of_their_image():
    live = Tokens(torch.tensor([[[1.0], [2], [3]]]), torch.tensor([[0, 4, 1]]), lengths=(2, 1))
    exited = Tokens(torch.tensor([[[10.0], [20], [7]]]), torch.tensor([[1, 2, 3]]), lengths=(2, 1))
    group = torch.tensor([1, 1, 2])
    found = append_means(live, exited, group, num_classes=2, place=5)
    assert found.x.flatten().tolist() == [1, 2, 15, 3, 7]
    assert found.index.flatten().tolist() == [0, 4, 5, 1, 5]
    assert found.lengths == (3, 2)


def test_the_threshold_itself_exits():
    logits = torch.tensor([[[0.0, 0.0], [0.1, 0.0]]])
    dtop, tokens = given_dtop(logits, p0=0.5, context="remove")
    assert dtop(tokens, stage=0, stats=None).dropped.index.tolist() == [[0, 1]]


# nothing else changes


@pytest.mark.parametrize("head", ["fcn", "atm"])
@torch.no_grad()
def test_threshold_one_is_the_dense_network_bit_for_bit(head):
    sparse, dense = little_dtop(head=head, p0=1.0), little_dtop(head=head, prune=False)
    weights = {
        name: p for name, p in sparse.state_dict().items() if not name.startswith(("encoder.reducer.", "completion."))
    }
    dense.load_state_dict(weights)
    assert torch.equal(sparse(images()), dense(images()))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_threshold_one_keeps_even_a_confidence_of_one(training):
    logits = torch.full((1, 6, Q), -1e9)
    logits[..., 0] = 0
    for context in RAGGED:
        dtop, tokens = given_dtop(logits, p0=1.0, context=context)
        reduction = dtop.train(training)(tokens, stage=0, stats=None)
        assert reduction.live is tokens
        assert reduction.dropped.x.shape == (1, 0, 8)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("head", ["fcn", "atm"])
@torch.no_grad()
def test_every_token_exactly_once(head, context):
    network = little_dtop(head=head, p0=0.6, k=2, context=context)
    for training in (False, True):
        encoded = network.train(training).encoder(images())
        seen = sum(presence(tokens, num_tokens=TOKENS) for tokens in encoded.sets)
        assert torch.equal(seen, torch.ones(4, TOKENS))
        assert torch.equal(encoded.early.exited, pruning_depth(encoded).flatten(1) < 2)


@pytest.mark.parametrize("head", ["fcn", "atm"])
@torch.no_grad()
def test_exited_tokens_keep_their_own_logits(head):
    network = little_dtop(head=head, p0=0.9, k=2)
    said = []
    for module in network.encoder.reducer.heads:
        module.register_forward_hook(lambda module, args, output: said.append(output))
    decided = []
    network.decoder.register_forward_hook(lambda module, args, output: decided.append(output.head))
    prediction = network.predict(images())
    early, masks = prediction.encoded.early, decided[0].masks.flatten(2)
    exited = 0
    for output, dropped in zip(said, prediction.encoded.dropped, strict=True):
        own = output.tokens.per_image(output.masks)
        seen = output.tokens.per_image(output.tokens.index)
        for b, places in enumerate(dropped.per_image(dropped.index)):
            for place in places.tolist():
                logits = own[b][seen[b].tolist().index(place)]
                assert torch.equal(early.canvas[b, :, place], logits)
                assert torch.equal(masks[b, :, place], logits)
                exited += 1
    assert exited == early.exited.sum() > 10
    # and those that did not exit have the word of the last head
    final = network.decoder.head(prediction.encoded.final)
    rows = zip(final.tokens.per_image(final.masks), final.tokens.per_image(final.tokens.index), strict=True)
    for b, (logits, places) in enumerate(rows):
        assert torch.equal(masks[b, :, places], logits.T)
    if head == "atm":
        assert torch.equal(decided[0].classes, final.classes), "final class scores for the whole canvas"


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("head", ["fcn", "atm"])
@torch.no_grad()
def test_an_image_is_the_same_alone_and_in_any_batch(head, context):
    """The same tokens, exactly; logits to 1e-12 in float64, probabilities to 1e-6 in float32.

    Not by the bit: matrix products over other numbers of tokens add up in another order.
    """
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        network = little_dtop(head=head, p0=0.6, k=2, context=context).to(dtype)
        batch = images().to(dtype)
        alone = [network.predict(image) for image in batch.split(1)]
        for order in ([0, 1, 2, 3], [3, 1, 0], [2, 2]):
            together = network.predict(batch[order])
            for row, number in enumerate(order):
                one = alone[number]
                assert torch.equal(pruning_depth(together.encoded)[row], pruning_depth(one.encoded)[0])
                found, expected = together.logits[row], one.logits[0]
                if dtype == torch.float32:
                    found, expected = found.softmax(dim=0), expected.softmax(dim=0)
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# cost and settings


@torch.no_grad()
def test_cost_follows_the_tokens_of_every_image():
    network, twin = little_dtop(p0=0.6, k=2), little_dtop(p0=1.0)
    image, C, h = images(), 24, 8
    encoded = network.encoder(image)
    alive = [TOKENS * torch.ones(4), *encoded.alive]
    saved = 0
    for n in alive[1:]:
        block = 12 * n * C**2 + 2 * n**2 * C + 10 * n * C
        saved += (12 * TOKENS * C**2 + 2 * TOKENS**2 * C + 10 * TOKENS * C - block).sum()
    # after block 2 only the last block is left; its head sees what stage 1 left, and so on
    graded = alive[0] + alive[1]
    saved -= (graded * (C * h + 2 * h + h * Q)).sum()
    saved += ((TOKENS - alive[2]) * 5 * C).sum()
    ours, dense = (count_macs(one, image)["encoder"] for one in (network, twin))
    assert ours == pytest.approx(dense - saved.item() / 4, abs=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p0": 0.0}, r"encoder\.reducer\.p0=0\.0"),
        ({"p0": 1.1}, r"encoder\.reducer\.p0=1\.1"),
        ({"k": 0}, r"encoder\.reducer\.k=0.*context=remove"),
        ({"share": 1.0}, r"encoder\.reducer\.share=1\.0"),
        ({"head": "pup"}, r"encoder\.reducer\.head='pup'.*atm, fcn"),
        ({"context": "none"}, r"encoder\.reducer\.context='none'.*topk"),
        ({"mode": "later"}, r"encoder\.reducer\.mode='later'.*direct"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        DToP(spec=FeatureSpec((16,), 1, (1,), 12, 2, num_classes=2), **settings)


def test_heads_are_set_from_the_command_line():
    cfg = compose_config(
        "train",
        overrides=["encoder=dtop", "encoder.reducer.head=fcn", "encoder.reducer.fcn.hidden=5", "encoder.dim=24"],
    )
    OmegaConf.update(cfg, "encoder.num_heads", 2)
    encoder = build(cfg.encoder, key="encoder", image_size=[16, 16], in_channels=1, num_classes=2)
    assert [head.embed.out_features for head in encoder.reducer.heads] == [5, 5, 5]
    assert encoder.class_token is None
