"""Published weights fitted to the encoder: names, positions, patch kernels, depth, and the report."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from published_weights import autoencoder, distilled, layer_scaled, little_vit, published

from sct.errors import UserError
from sct.models.adaptive.attention import AdaptiveAttention
from sct.models.reducers.stp import STP
from sct.models.stems.unet import UNetStem
from sct.models.weights.published import map_weights, mix_channels, resize_kernel, resize_positions


def take(weights, encoder):
    """The encoder with these weights, and the report."""
    taken, report = map_weights(weights, encoder, source="FILE")
    encoder.load_state_dict(taken, strict=False)
    return encoder, report


def tokens(encoder, image):
    with torch.no_grad():
        encoded = encoder(image)
    return torch.cat([encoded.prefix, encoded.final.x], dim=1)


@pytest.mark.parametrize(
    ("publish", "dropped"),
    [
        (published, ["head.weight", "head.bias"]),
        (distilled, ["head.weight", "head.bias", "dist_token", "head_dist.weight"]),
        (layer_scaled, ["head.weight", "head.bias"]),
    ],
)
def test_a_network_taken_back_from_published_names_is_the_same(publish, dropped):
    source, image = little_vit(seed=0), torch.randn(2, 3, 16, 16)
    encoder, report = take(publish(source), little_vit(seed=1))
    torch.testing.assert_close(tokens(encoder, image), tokens(source, image), atol=1e-6, rtol=1e-5)
    assert (report.missing, report.unexpected) == ([], [])
    assert report.dropped == dropped
    assert len(report.taken) == len(source.state_dict())
    assert (report.share, report.transformer_share) == (1, 1)


def test_a_masked_autoencoder_gives_its_encoder_and_not_its_decoder():
    source, image = little_vit(seed=0), torch.randn(2, 3, 16, 16)
    encoder, report = take(autoencoder(source), little_vit(seed=1))
    assert torch.equal(tokens(encoder, image), tokens(source, image))
    assert report.unexpected == []
    assert len(report.dropped) == len(source.state_dict()) + 1


def test_half_precision_is_taken_as_fp32():
    encoder, report = take({name: value.half() for name, value in published(little_vit()).items()}, little_vit(seed=1))
    assert report.share == 1
    assert encoder.norm.weight.dtype == torch.float32


@pytest.mark.parametrize("publish", [published, distilled])
def test_without_a_class_token_its_row_and_the_distillation_tokens_are_dropped(publish):
    source = little_vit(seed=0)
    encoder, report = take(publish(source), little_vit(seed=1, class_token=False))
    assert torch.equal(encoder.position, source.position[:, 1:])
    assert report.unexpected == ["cls_token"]
    count = {published: 1, distilled: 2}[publish]
    assert any(note.startswith(f"{count} position(s) are dropped") for note in report.notes)


def test_a_class_token_without_a_position_gets_zeros_and_without_a_token_starts_anew():
    weights = published(little_vit(seed=0))
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    encoder, _ = take(weights, little_vit(seed=1))
    assert not encoder.position[:, 0].any()
    assert torch.equal(encoder.position[:, 1:], weights["pos_embed"])
    del weights["cls_token"]
    before = little_vit(seed=1)
    encoder, report = take(weights, little_vit(seed=1))
    assert torch.equal(encoder.position[:, 0], before.position[:, 0])
    assert report.missing == ["class_token"]


def test_positions_of_no_square_grid_are_not_taken():
    _, report = take(published(little_vit(image_size=(16, 28))), little_vit(seed=1, image_size=(16, 28)))
    assert report.missing == ["position"]
    assert report.unexpected == ["pos_embed"]
    assert any("29 rows are not a square grid" in note for note in report.notes)


def test_an_encoder_without_positions_takes_none():
    encoder, report = take(published(little_vit()), little_vit(seed=1, position_init="none"))
    assert encoder.position is None
    assert report.unexpected == ["pos_embed"]
    assert report.share == 1


def test_positions_are_resized_by_hand():
    """Keys' cubic (a = -1/2) from 2 to 3 places: weights 81/76 and -5/76 at the borders, 1/2 and 1/2 in the middle."""
    row = torch.tensor([[81.0, -5.0], [38.0, 38.0], [-5.0, 81.0]]) / 76
    table = torch.randn(2, 2, 5)
    expected = torch.einsum("ia,jb,abc->ijc", row, torch.eye(2), table).reshape(1, 6, 5)
    resized = resize_positions(table.reshape(1, 4, 5), (3, 2))
    torch.testing.assert_close(resized, expected, atol=1e-6, rtol=1e-5)


def test_positions_of_another_aspect_ratio_keep_the_prefix_and_the_places():
    source = little_vit(seed=0)
    with torch.no_grad():  # the place itself as its embedding
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        source.position[0, 1:, 0], source.position[0, 1:, 1] = rows.flatten(), columns.flatten()
    encoder, report = take(published(source), little_vit(seed=1, image_size=(16, 32)))
    assert torch.equal(encoder.position[:, 0], source.position[:, 0])
    places = encoder.position[0, 1:].reshape(4, 8, 24)
    torch.testing.assert_close(places[..., 0], rows.repeat_interleave(2, dim=1), atol=1e-5, rtol=0)
    # cubic interpolation keeps a line, away from the borders
    torch.testing.assert_close(places[:, 3:5, 1], torch.tensor([1.25, 1.75]).expand(4, 2), atol=1e-5, rtol=0)
    assert "positions resized from 4 x 4 to 4 x 8" in report.notes


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_with_equal_channels_keep_their_response_with_any_number(channels):
    kernel, image = torch.randn(6, 3, 4, 4), torch.randn(2, 1, 8, 8)
    expected = F.conv2d(image.expand(-1, 3, -1, -1), kernel, stride=4)
    result = F.conv2d(image.expand(-1, channels, -1, -1), mix_channels(kernel, channels), stride=4)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 4), (6, 6), (8, 8), (8, 4), (2, 6)])
def test_a_resized_kernel_responds_as_the_old_one_does_to_the_resized_patch(size):
    kernel, patch = torch.randn(6, 3, 4, 4), torch.randn(1, 3, *size)
    resized = resize_kernel(kernel, size)
    assert resized.shape == (6, 3, *size)
    as_before = F.interpolate(patch, size=(4, 4), mode="bicubic", antialias=True)
    expected = torch.einsum("oihw,nihw->no", kernel, as_before)
    torch.testing.assert_close(torch.einsum("oihw,nihw->no", resized, patch), expected, atol=1e-5, rtol=1e-5)
    # a constant patch
    torch.testing.assert_close(resized.sum(dim=(2, 3)), kernel.sum(dim=(2, 3)), atol=1e-5, rtol=1e-5)


def test_another_patch_size_and_other_channels_are_taken_and_said():
    _, report = take(published(little_vit()), little_vit(seed=1, patch_size=8, image_size=(32, 32), in_channels=1))
    assert report.share == 1
    assert "patch kernels resized from 4 x 4 to 8 x 8" in report.notes
    assert any(note.startswith("each of the 1 input channels") for note in report.notes)


def test_a_patch_with_another_size_along_each_axis():
    """Kernels and positions are resized along each axis."""
    weights = published(little_vit())
    encoder, report = take(weights, little_vit(seed=1, patch_size=[8, 4], image_size=(32, 32)))
    assert report.share == 1
    assert "patch kernels resized from 4 x 4 to 8 x 4" in report.notes
    assert "positions resized from 4 x 4 to 4 x 8" in report.notes
    kernel = resize_kernel(weights["patch_embed.proj.weight"], (8, 4))
    assert torch.equal(encoder.patch_embed.weight, kernel)
    assert kernel.shape[2:] == (8, 4)


@pytest.mark.parametrize("stem", [None, partial(UNetStem, widths=(4, 5, 6))])
def test_a_patch_embedding_on_features_is_not_taken(stem):
    """Neither 1 x 1 kernels of a published hybrid, nor any for an encoder with a stem, whose own are 1 x 1 then."""
    weights, encoder = published(little_vit()), little_vit(seed=1, stem=stem)
    if stem is None:
        weights["patch_embed.proj.weight"] = torch.randn(24, 3, 1, 1)
    before = encoder.patch_embed.weight.clone()
    encoder, report = take(weights, encoder)
    assert torch.equal(encoder.patch_embed.weight, before)
    of_stem = [name for name, _ in encoder.named_parameters() if name.startswith("stem.")]
    assert sorted(report.missing) == sorted(["patch_embed.weight", "patch_embed.bias", *of_stem])
    assert report.unexpected == ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert any("not on the image's pixels" in note for note in report.notes)
    assert report.transformer_share == 1
    assert report.share < 1


def test_the_first_blocks_of_a_deeper_file_are_taken():
    source = little_vit(depth=5)
    encoder, report = take(published(source), little_vit(seed=1, depth=2))
    assert all(
        torch.equal(value, source.state_dict()[name])
        for name, value in encoder.blocks.state_dict(prefix="blocks.").items()
    )
    assert "the first 2 of the file's 5 blocks are taken" in report.notes
    assert len(report.unexpected) == 3 * 12
    assert report.share == 1


def test_blocks_beyond_the_file_start_anew_and_count_as_missing():
    _, report = take(published(little_vit(depth=1)), little_vit(seed=1, depth=3))
    assert "the file has 1 blocks; the 2 blocks after them are initialised anew" in report.notes
    assert len(report.missing) == 2 * 12
    block, norm = 24 * 24 * 12 + 13 * 24, 2 * 24
    assert report.transformer_share == pytest.approx((block + norm) / (3 * block + norm))


def test_other_shapes_and_unknown_names_are_named():
    weights = {**published(little_vit(mlp_ratio=2.0)), "norm_pre.weight": torch.ones(24)}
    _, report = take(weights, little_vit(seed=1))
    assert "norm_pre.weight" in report.unexpected
    assert "blocks.0.mlp.fc1.weight (48, 24) where the encoder has (96, 24)" in report.unexpected
    assert "blocks.0.mlp.fc1.weight" in report.missing


def test_a_reducer_is_missing_in_every_file():
    _, report = take(published(little_vit()), little_vit(seed=1, reducer=partial(STP, blocks=(1, 2))))
    assert report.missing
    assert all(name.startswith("reducer.") for name in report.missing)


def test_heads_of_unusual_width_are_said():
    _, report = take(published(little_vit()), little_vit(seed=1))
    assert any("encoder.num_heads=2 gives heads of width 12" in note for note in report.notes)
    _, report = take(published(little_vit(dim=64, num_heads=1)), little_vit(dim=64, num_heads=1))
    assert report.notes == []


def test_another_width_is_refused_with_both_figures():
    with pytest.raises(UserError, match=r"pretrained=FILE has tokens of width 48.*encoder\.dim=24"):
        map_weights(published(little_vit(dim=48)), little_vit(), source="FILE")
    wide = partial(AdaptiveAttention, head_dim=16)
    with pytest.raises(UserError, match=r"pretrained=FILE has attention of width 24, the encoder has 32.*head_dim"):
        map_weights(published(little_vit()), little_vit(attention=wide, class_token=False), source="FILE")


@pytest.mark.parametrize(
    ("name", "in_channels", "size"), [("vit_tiny", 3, 224), ("deit_tiny", 3, 224), ("vit_tiny", 1, 160)]
)
def test_the_tokens_of_timms_own_network(name, in_channels, size):
    """Also at another image size, whose positions timm resizes too, and with one channel, whose kernels it sums up."""
    timm = pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    full_name = f"{name}_patch16_224"
    original = timm.create_model(full_name, pretrained=False).eval()
    theirs = timm.create_model(full_name, pretrained=False, in_chans=in_channels, img_size=size).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    state = original.state_dict()
    resample = timm.layers.resample_abs_pos_embed
    grid = [size // 16, size // 16]
    adapted = {
        **state,
        "pos_embed": resample(state["pos_embed"], new_size=grid),
        "patch_embed.proj.weight": timm.models.adapt_input_conv(in_channels, state["patch_embed.proj.weight"]),
    }
    theirs.load_state_dict(adapted)
    encoder = little_vit(
        image_size=(size, size), in_channels=in_channels, patch_size=16, dim=192, depth=12, num_heads=3
    )
    encoder, report = take(state, encoder)
    assert (report.share, report.unexpected) == (1, [])
    image = torch.randn(1, in_channels, size, size)
    with torch.no_grad():
        expected = theirs.forward_features(image)
    torch.testing.assert_close(tokens(encoder, image), expected, atol=1e-5, rtol=1e-5)
