"""Dynamic Token Pruning while training: which weights move, and what happens when nobody is left."""

import itertools
from functools import partial

import pytest
import torch
from dtop_by_hand import HEADS, SIZE, TOKENS, Q, given_dtop, images, little_dtop

from sct.data.outputs import numbered
from sct.losses.criterion import Criterion
from sct.losses.dice_ce import DiceCE
from sct.losses.query import QueryLoss
from sct.models.completion.mta import MTA
from sct.models.encoder import ViTEncoder
from sct.models.reducers.dtop import CONTEXTS, DToP
from sct.models.stems.unet import UNetStem


def labels(count):
    return torch.randint(Q, (count, *SIZE), generator=torch.Generator().manual_seed(2))


def train_step(network, image):
    criterion = Criterion(outputs=numbered(Q), pixel=DiceCE(), query=QueryLoss())
    losses = criterion(network.train()(image), labels(len(image)), image=image)
    losses["loss"].backward()
    return losses


def test_direct_trains_all_heads_on_all_tokens_and_prunes_afterwards():
    network = little_dtop(mode="direct", p0=0.6, k=2)
    image = images()
    prediction = network.train()(image)
    assert [tokens.x.shape[1] for tokens in prediction.encoded.sets] == [0, 0, TOKENS]
    assert not prediction.encoded.early.exited.any()
    losses = train_step(network, image)
    assert losses["early"] > 0
    assert [name for name, p in network.encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert network.eval().encoder(image).dropped[0].x.shape[1] > 0


@pytest.mark.parametrize("completion", [None, MTA], ids=["scatter", "mta"])
@pytest.mark.parametrize("head", ["fcn", "atm"])
def test_finetune_trains_only_heads(head, completion):
    settings = {} if completion is None else {"completion": completion}
    network = little_dtop(head=head, mode="finetune", p0=0.6, k=2, **settings)
    before = {name: p.clone() for name, p in network.named_parameters()}
    image = images()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    train_step(network, image)
    assert network(image).encoded.dropped[0].x.shape[1] > 0, "pruned while training"
    optimizer.step()
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    frozen = {name for name in before if name.startswith("encoder.") and not name.startswith("encoder.reducer.")}
    assert frozen == {name for name, p in network.named_parameters() if not p.requires_grad} - {"completion.position"}
    assert not changed & frozen
    assert {name for name in before if name.startswith(("encoder.reducer.", "decoder."))} <= changed


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("head", ["fcn", "atm"])
def test_retrain_drops_while_training_and_reaches_every_parameter(head, context):
    network = little_dtop(head=head, p0=0.6, k=2, context=context)
    train_step(network, images())
    encoded = network(images()).encoded
    assert 0 < encoded.final.x.shape[1] * encoded.final.x.shape[0] < 4 * TOKENS
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    # norms of exited tokens wait for a decoder that looks at them
    idle = {name for name, grad in gradients.items() if not grad.any()}
    assert idle == {name for name in gradients if name.startswith("completion.")}


def test_confidence_carries_no_gradient():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 20, Q) * 2
    dtop, tokens = given_dtop(*logits, p0=0.7, k=2)
    reduction = dtop.train()(tokens, stage=0, stats=None)
    (reduction.live.x.sum() + reduction.dropped.x.sum()).backward()
    assert dtop.heads[0].logits.grad is None
    assert torch.equal(tokens.x.grad, torch.ones_like(tokens.x))


@torch.no_grad()
def test_evaluation_keeps_no_outputs_for_losses():
    network = little_dtop(p0=0.6, k=2)
    assert network.encoder(images()).early.stages == []
    assert [head.masks.shape for head in network.train().encoder(images()).early.stages] == [(4, Q, 6, 6)] * 2


@pytest.mark.parametrize(("head", "decoder"), itertools.product(["fcn", "atm"], repeat=2))
@pytest.mark.parametrize("context", ["remove", "average"])
def test_an_image_whose_tokens_all_leave(context, head, decoder):
    """Nobody is left for the later heads, or only means; their parameters still get a gradient."""
    network = little_dtop(head=head, decoder=decoder, p0=1e-30, context=context)
    prediction = network.predict(images())
    assert prediction.encoded.early.exited.all()
    assert prediction.logits.isfinite().all()
    train_step(network, images())
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(("head", "decoder"), [("fcn", "atm"), ("atm", "fcn")])
@torch.no_grad()
def test_heads_of_two_kinds(head, decoder):
    """Table 6: an exited token's own probabilities survive, with ATM at the end times its class scores."""
    network = little_dtop(head=head, decoder=decoder, p0=0.6, k=2)
    decided = []
    network.decoder.register_forward_hook(lambda module, args, output: decided.append(output.head))
    encoded = network.predict(images()).encoded
    masks = decided[0].masks.flatten(2)
    said = encoded.early_outputs[0]
    for b, places in enumerate(encoded.dropped[0].per_image(encoded.dropped[0].index)):
        own = said.masks[b, places]
        if head == "fcn":
            torch.testing.assert_close(masks[b, :, places].sigmoid(), own.softmax(dim=-1).T, rtol=1e-4, atol=1e-5)
        else:
            present = said.classes[b].softmax(dim=-1)[:, 0]
            torch.testing.assert_close(masks[b, :, places].exp(), (own.sigmoid() * present).T)


def test_a_frozen_encoder_has_no_drop_path_no_dropout_and_constant_statistics():
    """With mode=finetune the frozen blocks give in training what they give in evaluation; heads train."""
    torch.manual_seed(0)
    encoder = ViTEncoder(
        image_size=SIZE,
        in_channels=1,
        num_classes=Q,
        patch_size=4,
        dim=24,
        depth=3,
        num_heads=2,
        class_token=False,
        dropout=0.5,
        drop_path=0.9,
        stem=partial(UNetStem, widths=(4, 6, 8)),
        reducer=partial(DToP, blocks=(1, 2), head="fcn", mode="finetune", p0=0.4, k=1, fcn=HEADS["fcn"]),
    )
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder.train()
    inputs = []
    encoder.reducer.register_forward_pre_hook(lambda module, args: inputs.append(args[0].x))
    encoder(images())
    changed = {name for name, buffer in encoder.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed, "the heads' statistics move"
    assert all(name.startswith("reducer.") for name in changed)
    assert encoder.training
    assert encoder.reducer.heads[0].norm.training
    encoder.eval()
    assert not any(module.training for module in encoder.modules())
    first = inputs[0]
    encoder(images())
    torch.testing.assert_close(inputs[2], first)
