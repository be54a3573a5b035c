"""Deep supervision: which levels a decoder gives logits of, and that nothing else changes."""

import pytest
import torch
from little_models import CHANNELS, CLASSES, Combination, little_config, network_of_config

from sct.config.check import build
from sct.config.command import compose_config
from sct.data.outputs import numbered
from sct.losses.criterion import Criterion
from sct.losses.dice_ce import DiceCE
from sct.runs.build import build_segmenter

DEEP = "trainer.deep_supervision=true"
SIZE = 32
# decoder -> voxels along a side of a place, of each level with logits, for patches of 8 voxels
STEPS = {"unetr": [2], "unetr_deep": [2, 4], "unetr_thin": [2], "thin": [2], "primus": [2], "cup": [2], "unet": [2]}
SMALL = {"feature_size": 4, "hidden": 8, "widths": [12, 10, 8], "width": 4, "voxels": 4}


def config(decoder, *overrides, dims):
    """A small network of a decoder, with patches of 8 voxels."""
    which = Combination("apformer" if decoder == "unet" else "stp", "scatter", decoder, dims)
    cfg = little_config(which).copy()
    supervised = compose_config("train", overrides=[f"decoder={decoder}", *overrides])
    cfg.trainer, cfg.decoder = supervised.trainer, supervised.decoder
    cfg.encoder.patch_size = 8
    if decoder == "unet":
        cfg.encoder.stem.widths = [4, 6, 8, 10]
    for name, value in SMALL.items():
        if cfg.decoder.get(name) is not None:
            cfg.decoder[name] = value
    return cfg


def pair(decoder, *, dims):
    """The network without and with heads of its levels, with the same weights."""
    plain, deep = (
        network_of_config(config(decoder, *overrides, dims=dims), image_size=[SIZE] * dims)
        for overrides in ([], [DEEP])
    )
    found = deep.load_state_dict(plain.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert {name.rpartition(".level_heads.")[0] for name in found.missing_keys} == {"decoder"}
    return plain, deep


def noise(dims):
    return torch.randn(2, CHANNELS, *[SIZE] * dims, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("decoder", STEPS)
@torch.no_grad()
def test_levels_in_training_and_nothing_else_changes(decoder, dims):
    plain, deep = pair(decoder, dims=dims)
    image = noise(dims)
    assert torch.equal(plain(image), deep(image))
    predictions = []
    for network in (plain, deep):
        torch.manual_seed(1)  # the draws of the pruning method
        predictions.append(network.train()(image))
    without, prediction = predictions
    assert without.levels == []
    assert torch.equal(prediction.logits, without.logits)
    expected = [(2, CLASSES, *[SIZE // step] * dims) for step in STEPS[decoder]]
    assert [tuple(logits.shape) for logits in prediction.levels] == expected
    assert (plain.decoder.num_levels, deep.decoder.num_levels) == (0, len(expected))
    assert deep.eval().predict(image).levels == []


@pytest.mark.parametrize("decoder", STEPS)
def test_every_head_of_a_level_learns(decoder):
    _, deep = pair(decoder, dims=2)
    criterion = Criterion(outputs=numbered(CLASSES), pixel=DiceCE())
    image = noise(2)
    label = torch.randint(CLASSES, (2, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    parts = criterion(deep.train()(image), label, image=image)
    parts["loss"].backward()
    heads = deep.decoder.level_heads
    assert [head.weight.shape[0] for head in heads] == [CLASSES] * len(STEPS[decoder])
    # a parameter without a gradient would stop data-parallel training
    assert [name for name, p in heads.named_parameters() if p.grad is None or not p.grad.any()] == []


def whole(model, *overrides):
    cfg = compose_config(
        "train", overrides=["+experiment=demo", f"model={model}", "data.roi_size=[32,32,32]", *overrides]
    )
    return build_segmenter(cfg, data=build(cfg.data, key="data"))


@pytest.mark.parametrize(
    ("model", "settings", "sizes"),
    [
        ("nnunet", ["model.features=[4,8,12,16]"], [(16, 16, 16)]),
        ("nnunet", ["model.features=[4,8,12,16,16]"], [(16, 16, 16), (8, 8, 8)]),
        # MONAI interpolates all levels to the image
        ("monai_dynunet", [], [(32, 32, 32)] * 2),
    ],
)
@torch.no_grad()
def test_whole_networks_with_levels_of_their_own(model, settings, sizes):
    if model == "nnunet":
        pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's package is not installed")
    image = torch.zeros(1, 1, 32, 32, 32)
    plain = whole(model, *settings)
    assert plain.train()(image).levels == []
    network = whole(model, DEEP, *settings)
    prediction = network.train()(image)
    assert network.decoder.num_levels == len(sizes)
    assert prediction.logits.shape == (1, 7, 32, 32, 32)
    assert [logits.shape[2:] for logits in prediction.levels] == sizes
    assert network.eval()(image).shape == (1, 7, 32, 32, 32)
    assert network.eval().predict(image).levels == []
    assert len(network.train()(image).levels) == len(sizes), "back in training"


def test_every_trained_weight_of_nnunet_has_a_loss():
    pytest.importorskip("dynamic_network_architectures", reason="nnU-Net's package is not installed")
    for overrides in ([], [DEEP]):
        network = whole("nnunet", "model.features=[4,8,12,16,16]", *overrides).train()
        image = torch.randn(1, 1, 32, 32, 32)
        criterion = Criterion(outputs=numbered(7), pixel=DiceCE())
        criterion(network(image), torch.ones(1, 32, 32, 32, dtype=torch.long), image=image)["loss"].backward()
        assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []
