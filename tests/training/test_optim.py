"""Groups of the optimizer and the learning-rate schedule."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from sct.errors import UserError
from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.adaptive.dependencies import AdaptiveThreshold
from sct.models.completion.mta import MTA
from sct.models.completion.scatter import Scatter
from sct.models.decoders.unetr import UNETR
from sct.models.encoder import ViTEncoder
from sct.models.reducers.scorer import TokenScorer
from sct.models.reducers.stp import STP
from sct.models.segmenter import Segmenter
from sct.training.optim import adam, adamw, set_learning_rate, warmup_cosine, warmup_notice

LR, DECAY, DEPTH = 1e-3, 0.75, 3


@pytest.fixture(scope="module")
def network():
    encoder = ViTEncoder(
        image_size=(16, 16),
        in_channels=1,
        patch_size=4,
        dim=24,
        depth=DEPTH,
        num_heads=2,
        reducer=partial(STP, blocks=(1, 2), ratio=0.5),
    )
    return Segmenter(encoder=encoder, completion=MTA, decoder=partial(UNETR, feature_size=4), num_classes=2)


@pytest.fixture
def settings(network):
    """The group of every trained parameter by name; a parameter in two groups fails here."""
    optimizer = adamw(network, lr=LR, layer_decay=DECAY)
    names = {id(p): name for name, p in network.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert names[id(p)] not in found
            found[names[id(p)]] = group
    return found


def test_every_trained_parameter_is_in_exactly_one_group(network, settings):
    assert set(settings) == {name for name, p in network.named_parameters() if p.requires_grad}
    assert "completion.position" not in settings, "frozen"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.patch_embed.weight", 0),
        ("encoder.class_token", 0),
        ("encoder.position", 0),
        ("encoder.blocks.0.attn.qkv.weight", 1),
        ("encoder.blocks.2.mlp.fc1.bias", 3),
        ("encoder.norm.weight", 4),
        ("encoder.reducer.scorers.0.score.0.weight", 4),
        ("completion.blocks.0.attn.qkv.weight", 4),
        ("decoder.head.conv.conv.weight", 4),
    ],
)
def test_layer_decay(settings, name, layer):
    expected = DECAY ** (DEPTH + 1 - layer)
    assert settings[name]["lr_scale"] == pytest.approx(expected)
    assert settings[name]["lr"] == pytest.approx(LR * expected)


def test_weight_decay_spares_vectors_positions_and_tokens(network, settings):
    spared = {"encoder.class_token", "encoder.position", "completion.block_tokens.0", "completion.block_tokens.1"}
    for name, p in network.named_parameters():
        if p.requires_grad:
            expected = 0.0 if p.ndim == 1 or name in spared else 0.05
            assert settings[name]["weight_decay"] == expected, name


def test_scorers_have_their_own_epsilon(settings):
    for name, group in settings.items():
        assert group["eps"] == (1e-16 if name.startswith("encoder.reducer.") else 1e-8), name


class Marked(nn.Module):
    """A part that says what the optimizer shall know of its parameters, with a scorer in it."""

    no_weight_decay = ("prompt", "inner.weight")

    def __init__(self):
        super().__init__()
        self.prompt, self.prompt_map, self.token = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
        self.inner = nn.Linear(2, 2)
        self.scorer = TokenScorer(8)


def test_modules_say_themselves_what_is_special_of_their_parameters(network):
    network = copy.deepcopy(network)
    network.encoder.reducer.add_module("marked", Marked())
    optimizer = adamw(network, lr=LR)
    names = {id(p): name for name, p in network.named_parameters()}
    group = {
        names[id(p)].removeprefix("encoder.reducer.marked."): g for g in optimizer.param_groups for p in g["params"]
    }
    decays = {name: group[name]["weight_decay"] > 0 for name in ("prompt", "prompt_map", "token", "inner.weight")}
    assert decays == {"prompt": False, "prompt_map": True, "token": True, "inner.weight": False}
    assert group["scorer.score.0.weight"]["eps"] == 1e-16
    assert group["scorer.score.0.weight"]["weight_decay"] == 0.05
    assert group["token"]["eps"] == 1e-8, "of a reducer, but no scorer"


def test_settings_reach_the_groups(network):
    optimizer = adamw(network, lr=1.0, betas=[0.8, 0.9], weight_decay=0.1, layer_decay=1.0, eps=1e-6, reducer_eps=1e-7)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    assert {group["eps"] for group in optimizer.param_groups} == {1e-6, 1e-7}


def test_groups_follow_the_schedule(network):
    optimizer = adamw(network, lr=LR, layer_decay=DECAY)
    set_learning_rate(optimizer, lr=0.5)
    assert all(group["lr"] == pytest.approx(0.5 * group["lr_scale"]) for group in optimizer.param_groups)
    assert max(group["lr"] for group in optimizer.param_groups) == 0.5


def test_state_round_trip(network):
    optimizer = adamw(network, lr=LR)
    network(torch.randn(1, 1, 16, 16)).logits.sum().backward()
    optimizer.step()
    other = adamw(network, lr=LR)
    other.load_state_dict(optimizer.state_dict())
    assert [g["lr_scale"] for g in other.param_groups] == [g["lr_scale"] for g in optimizer.param_groups]
    network.zero_grad()


def test_warmup_cosine():
    factor = [warmup_cosine(step, max_steps=110, warmup_steps=10, min_factor=0.1) for step in range(110)]
    assert factor[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factor[10] == 1.0
    assert factor[60] == pytest.approx(0.55), "half of the way down"
    for step in range(10, 110):
        assert factor[step] == pytest.approx(0.1 + 0.9 * math.cos(math.pi * (step - 10) / 200) ** 2)
    assert factor[10:] == sorted(factor[10:], reverse=True)
    assert factor[-1] == pytest.approx(0.1, abs=1e-3)


def test_no_warmup():
    assert warmup_cosine(0, max_steps=10, warmup_steps=0) == 1.0


@pytest.mark.parametrize("asked", [5, 9, 10, 500])
def test_warmup_takes_at_most_half_of_the_training(asked):
    def factors(warmup):
        return [warmup_cosine(step, max_steps=10, warmup_steps=warmup) for step in range(10)]

    assert factors(asked)[:6] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert factors(asked) == factors(5)
    notice = warmup_notice({"warmup_steps": asked}, max_steps=10)
    assert notice is None if asked == 5 else f"warmup_steps={asked} " in notice and "takes 5 steps" in notice


@pytest.mark.parametrize("max_steps", [1, 2, 3, 4])
def test_the_shortest_trainings_have_a_rate(max_steps):
    assert all(warmup_cosine(step, max_steps=max_steps, warmup_steps=50) > 0 for step in range(max_steps))


def test_a_negative_warmup_is_refused():
    with pytest.raises(UserError, match=r"schedule\.warmup_steps=-1 "):
        warmup_cosine(0, max_steps=10, warmup_steps=-1)


def test_adam_decays_every_parameter_through_its_gradient(network):
    """The authors' program: what has no gradient goes to 0 by the learning rate a step; AdamW does not move it."""
    for make, moves in ((adam, True), (adamw, False)):
        copied = copy.deepcopy(network)
        before = {name: p.detach().clone() for name, p in copied.named_parameters() if p.requires_grad}
        optimizer = make(copied, lr=1e-3, weight_decay=1e-5)
        set_learning_rate(optimizer, lr=1e-3)
        for p in copied.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        optimizer.step()
        for name, p in copied.named_parameters():
            # so small that eps of 1e-8 counts
            large = before[name].abs() > 0.1 if p.requires_grad else torch.zeros(1, dtype=torch.bool)
            if large.any():
                step = (before[name] - p)[large] * before[name][large].sign()
                expected = 1e-3 if moves else 0.0
                torch.testing.assert_close(step, torch.full_like(step, expected), atol=5e-5, rtol=0)
    assert {group["lr_scale"] for group in adam(network, lr=1e-3).param_groups} == {1.0}


def test_published_thresholds_of_apformer_move_with_adam_alone():
    """Weights and the level g, a single number, in an attention that gives them no gradient."""
    for make, moves in ((adam, True), (adamw, False)):
        torch.manual_seed(0)
        attention = partial(AdaptiveAttention, dependencies=partial(AdaptiveThreshold, gradient="published"))
        encoder = ViTEncoder(
            image_size=(8, 8),
            in_channels=1,
            patch_size=4,
            dim=8,
            depth=1,
            num_heads=2,
            class_token=False,
            attention=attention,
        )
        segmenter = Segmenter(
            encoder=encoder, completion=Scatter, decoder=partial(UNETR, feature_size=4), num_classes=2
        )
        optimizer = make(segmenter, lr=1e-3, weight_decay=1e-5)
        set_learning_rate(optimizer, lr=1e-3)
        threshold = segmenter.encoder.blocks[0].attn.dependencies
        segmenter.train()(torch.randn(2, 1, 8, 8)).logits.sum().backward()
        weight = threshold.project.weight.detach().clone()
        optimizer.step()
        assert threshold.g.item() == pytest.approx(-2 + 1e-3 * moves, abs=1e-6)
        assert (weight - threshold.project.weight).abs().max().item() == pytest.approx(1e-3 * moves, abs=1e-4)
