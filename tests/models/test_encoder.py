"""The plain ViT: taps, the identity control, drop-path, and mistakes."""

from functools import partial

import pytest
import torch
from little_models import CLASSES, little_batch, little_config, little_network, makes_sense, options
from little_models import Combination as Which
from omegaconf import open_dict
from torch import nn

from sct.config.check import build
from sct.errors import UserError
from sct.models.encoder import ViTEncoder
from sct.models.placement import tap_blocks
from sct.models.reducers.stp import STP
from sct.models.segmenter import Segmenter
from sct.models.tokens import FeatureSpec
from sct.profiling.segmenter import tokens_alive


class Attentive(STP):
    """A reducer that asks for the class token's attention."""

    wants = ("class_row",)


class Inside(STP):
    """A reducer that acts between attention and MLP."""

    inside_block = True

    def forward(self, tokens, *, stage, stats):
        self.seen = tokens.x
        return super().forward(tokens, stage=stage, stats=stats)


def little_encoder(**settings):
    torch.manual_seed(0)
    defaults = {"image_size": (16, 24), "in_channels": 2, "patch_size": 4, "dim": 24, "depth": 4, "num_heads": 2}
    return ViTEncoder(**{**defaults, **settings}).eval()


@pytest.mark.parametrize(
    ("taps", "depth", "blocks"),
    [
        (3, 12, (4, 7, 10)),
        (2, 12, (5, 9)),
        (0, 12, ()),
        (1, 4, (3,)),
        (2, 1, (1, 1)),
        ([2, 3], 4, (2, 3)),
        (2, 0, (0, 0)),
    ],
)
def test_taps_spread_as_in_the_papers(taps, depth, blocks):
    assert tap_blocks(taps, depth=depth) == blocks


@torch.no_grad()
def test_taps_are_the_outputs_of_their_blocks():
    encoder = little_encoder(taps=[1, 3])
    image = torch.randn(2, 2, 16, 24)
    outputs, x = [], encoder.embed(image)
    for block in encoder.blocks:
        x = block(x)
        outputs.append(x)
    encoded = encoder(image)
    assert [torch.equal(tap, outputs[i][:, 1:]) for tap, i in zip(encoded.taps, (0, 2), strict=True)] == [True, True]
    normed = encoder.norm(outputs[-1])
    assert torch.equal(torch.cat([encoded.prefix, encoded.final.x], dim=1), normed)


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (4, 8)])
@pytest.mark.parametrize("training", [False, True])
def test_embedding_is_a_linear_of_flattened_patches(training, size):
    encoder, image = little_encoder(depth=0, norm_eps=1e-6, patch_size=list(size)), torch.randn(1, 2, 16, 24)
    high, wide = size
    assert encoder.grid == (16 // high, 24 // wide)
    # the convolution, or the product that inference on a processor takes instead
    with torch.set_grad_enabled(training):
        embedded = encoder.embed(image)
    weight, bias = encoder.patch_embed.weight.flatten(1), encoder.patch_embed.bias
    for number, (row, column) in enumerate((r, c) for r in range(0, 16, high) for c in range(0, 24, wide)):
        patch = image[0, :, row : row + high, column : column + wide].flatten()
        expected = weight @ patch + bias + encoder.position[0, 1 + number]
        torch.testing.assert_close(embedded[0, 1 + number], expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "decoder", [name for name in options("decoder") if makes_sense(Which("identity", "scatter", name, 2))]
)
def test_identity_control_works_with_every_decoder(decoder, dims):
    """At patch 8, where decoders have more than one token skip: every tap is the embedding."""
    cfg = little_config(Which("identity", "scatter", decoder, dims)).copy()
    size = [16] * dims
    cfg.encoder.patch_size = 8
    if cfg.decoder.get("widths") is not None:
        cfg.decoder.widths = [8, 6, 4]
    make_decoder = build(cfg.decoder, key="decoder")
    spec = FeatureSpec(tuple(size), 1, (8,) * len(size), cfg.encoder.dim, 2)
    cfg.encoder.taps = getattr(make_decoder(spec=spec, num_classes=CLASSES), "num_skips", 0)
    encoder = build(cfg.encoder, key="encoder", image_size=size, in_channels=1)
    network = Segmenter(
        encoder=encoder, completion=build(cfg.completion, key="completion"), decoder=make_decoder, num_classes=CLASSES
    ).eval()
    image = torch.randn(2, 1, *size)
    encoded = encoder(image)
    assert len(encoder.blocks) == 0
    assert len(encoded.taps) == cfg.encoder.taps
    embedding = encoder.embed(image)[:, 1:]
    assert all(torch.equal(tap, embedding) for tap in encoded.taps)
    assert network(image).shape == (2, CLASSES, *size)


@torch.no_grad()
def test_a_sparse_encoder_has_no_taps():
    encoder = little_encoder(taps=2, reducer=partial(STP, blocks=(1, 2)))
    assert encoder.spec.num_taps == 0
    assert encoder.spec.num_stages == 2
    assert encoder(torch.randn(1, 2, 16, 24)).taps == []


@torch.no_grad()
def test_a_reducer_inside_a_block_sees_attention_and_the_mlp_sees_what_is_left():
    encoder = little_encoder(reducer=partial(Inside, blocks=(2,), ratio=0.5))
    sizes = []
    encoder.blocks[1].mlp.register_forward_hook(lambda module, args, out: sizes.append(out.shape[1]))
    image = torch.randn(1, 2, 16, 24)
    encoder(image)
    attended = encoder.blocks[1].attend(encoder.blocks[0](encoder.embed(image)))[0]
    torch.testing.assert_close(encoder.reducer.seen, attended[:, 1:])
    assert sizes == [1 + 12]


@torch.no_grad()
def test_a_reducer_of_the_embedding_leaves_the_first_block_what_it_keeps():
    encoder = little_encoder(reducer=partial(STP, blocks=(0, 3), ratio=0.5))
    sizes = []
    for block in encoder.blocks:
        block.mlp.register_forward_hook(lambda module, args, out: sizes.append(out.shape[1]))
    image = torch.randn(2, 2, 16, 24)
    encoded = encoder(image)
    assert sizes == [1 + 12, 1 + 12, 1 + 12, 1 + 6]
    embedding = encoder.embed(image)[:, 1:]
    scores = encoder.reducer.scorers[0](embedding)
    kept = scores.topk(12, dim=1).indices.sort(dim=1).values
    dropped = encoded.dropped[0]
    assert not (dropped.index.unsqueeze(2) == kept.unsqueeze(1)).any()
    torch.testing.assert_close(dropped.x, embedding.gather(1, dropped.index.unsqueeze(2).expand(-1, -1, 24)))
    assert tokens_alive(encoder, encoded).tolist() == [[12, 12], [12, 12], [6, 6], [6, 6]]


def test_drop_path_rises_linearly():
    rates = [block.drop_path.rate for block in little_encoder(depth=5, drop_path=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_published_spec():
    assert little_encoder(taps=1).spec == FeatureSpec((16, 24), 2, (4, 4), 24, 2, num_prefix=1, num_taps=1, depth=4)
    assert little_encoder(class_token=False).spec.num_prefix == 0
    assert little_encoder().spec.grid == (4, 6)
    assert little_encoder().spec.num_tokens == 24


def test_initial_weights():
    encoder = little_encoder(dim=96)
    for weight in (encoder.position, encoder.blocks[0].attn.qkv.weight, encoder.blocks[0].mlp.fc2.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not encoder.blocks[0].mlp.fc1.bias.any()
    # Xavier on flattened patches: uniform within sqrt(6 / (2 * 4 * 4 + 96))
    assert encoder.patch_embed.weight.abs().max().item() == pytest.approx((6 / 128) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (16, 22)}, r"data\.roi_size=\[16, 22\].*encoder\.patch_size=4"),
        ({"taps": [0, 2]}, r"encoder\.taps=\[0, 2\].*between 1 and encoder\.depth=4"),
        ({"taps": [3, 2]}, r"encoder\.taps=\[3, 2\].*ascending"),
        ({"taps": [2, 5]}, r"encoder\.taps=\[2, 5\].*encoder\.depth=4"),
        ({"num_heads": 5}, r"dim=24.*num_heads=5"),
        ({"reducer": partial(STP, blocks=(2, 5))}, r"encoder\.reducer\.blocks=\[2, 5\].*encoder\.depth=4"),
        ({"reducer": partial(STP, blocks=(-1, 2))}, r"encoder\.reducer\.blocks=\[-1, 2\].*between 0.*the embedding"),
        ({"reducer": partial(Attentive, blocks=(0, 2))}, r"blocks=\[0, 2\].*between 1.*acts inside a block"),
        ({"reducer": partial(Inside, blocks=(0, 2))}, r"blocks=\[0, 2\].*between 1.*acts inside a block"),
        ({"reducer": partial(STP, blocks=(2, 1))}, r"encoder\.reducer\.blocks=\[2, 1\].*ascending"),
        ({"reducer": partial(STP, blocks=())}, r"encoder\.reducer\.blocks=\[\]"),
        ({"reducer": partial(STP, blocks=(1,)), "depth": 0}, r"encoder\.reducer\.blocks=\[1\].*encoder\.depth=0"),
        ({"reducer": partial(Attentive, blocks=(1,)), "class_token": False}, r"Attentive.*encoder\.class_token=true"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        little_encoder(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reducer.ratio": 1.5}, r"encoder\.reducer\.ratio=1\.5"),
        ({"reducer.blocks": [9]}, r"encoder\.reducer\.blocks=\[9\]"),
        ({"reducer.ratios": 0.5}, r"Unknown key encoder\.reducer\.ratios.*'ratio'"),
        ({"patchsize": 4}, r"Unknown key encoder\.patchsize.*'patch_size'"),
    ],
)
def test_mistakes_in_a_config(settings, message):
    cfg = little_config(Which("stp", "mta", "unetr", 2)).copy()
    with open_dict(cfg):
        for key, value in settings.items():
            *path, name = key.split(".")
            (cfg.encoder[path[0]] if path else cfg.encoder)[name] = value
    with pytest.raises(UserError, match=message):
        build(cfg.encoder, key="encoder", image_size=[16, 16], in_channels=2)


@torch.no_grad()
def test_prediction_carries_the_sparse_features_in_both_modes():
    which = Which("stp", "mta", "unetr", 2)
    network, image = little_network(which), little_batch(which)[0]
    prediction = network.predict(image)
    assert torch.equal(prediction.logits, network(image))
    assert len(prediction.encoded.dropped) == 2
    assert set(prediction.encoded.aux) == {"score_1", "score_2"}


def test_linears_start_with_the_spread_that_is_asked_for():
    linears = [module for module in little_encoder(dim=96, init_std=0.125).modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 4 * 4
    for linear in linears:
        assert linear.weight.std().item() == pytest.approx(0.125, rel=0.05)


def test_a_spread_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"encoder\.init_std=0: choose a standard deviation above 0"):
        little_encoder(init_std=0)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (1, 1, 16, 24), (2, 16, 24), (1, 2, 16, 24, 8)])
def test_a_window_of_another_size_is_refused(shape):
    with pytest.raises(UserError, match=r"takes windows \(B, 2, 16, 24\)"):
        little_encoder()(torch.zeros(shape))


class Twice(STP):
    """A reducer that returns the kept tokens as dropped too, and loses the others."""

    def forward(self, tokens, *, stage, stats):
        reduction = super().forward(tokens, stage=stage, stats=stats)
        reduction.dropped = reduction.live
        return reduction


def test_a_reducer_that_loses_tokens_is_refused_in_the_first_step():
    encoder = little_encoder(reducer=partial(Twice, blocks=(2,), ratio=0.5)).train()
    with pytest.raises(UserError, match="of 24 place"):
        encoder(torch.zeros(2, 2, 16, 24))
