"""What every completion and decoder promises for patches with another size along each axis, in 2-D and 3-D.

Beside test_contract.py, whose patches are cubes. A new config file of a decoder or a completion is tested here, too.
"""

import itertools
from functools import cache

import pytest
import torch
from closed_form import closed_form
from little_models import (
    CHANNELS,
    CLASSES,
    Combination,
    covering,
    little_config,
    little_criterion,
    network_of_config,
    options,
)
from omegaconf import DictConfig
from torch import Tensor

from sct.config.check import build
from sct.models.patch import Extent, patch_sizes
from sct.models.segmenter import Segmenter
from sct.models.tokens import FeatureSpec
from sct.profiling.macs import count_macs

PATCH, SIZE = {2: [16, 8], 3: [8, 8, 4]}, {2: [32, 32], 3: [16, 16, 8]}
# channels of each step of the patch, for what has a list of them
WIDTHS = {16: [6, 5, 4, 4], 8: [6, 5, 4], 4: [6, 5]}
STEM_WIDTHS = {16: [4, 5, 6, 7, 8], 8: [4, 5, 6, 8], 4: [4, 5, 6]}


def meeting(completion: str, decoder: str, dims: int) -> Combination:
    # the decoder of the pyramid needs an encoder with one
    return Combination("apformer" if decoder == "unet" else "stp", completion, decoder, dims)


def pairs(which: Combination) -> list[tuple[object, ...]]:
    """Every completion with every decoder; every encoder, completion and decoder in 2-D and in 3-D."""
    encoder, completion, decoder, dims = which
    return [(completion, decoder), (encoder, dims), (completion, dims), (decoder, dims)]


def few(among: list[Combination], *, chosen: set[Combination]) -> pytest.MarkDecorator:
    """Runs a test on the `chosen` combinations, and on the others with -m long."""
    params = [pytest.param(which, marks=() if which in chosen else pytest.mark.long) for which in among]
    return pytest.mark.parametrize("which", params, ids=str)


EVERY = [meeting(*names) for names in itertools.product(options("completion"), options("decoder"), (2, 3))]
DECODERS = [which for which in EVERY if which.completion == "scatter"]
STEMS = [
    Combination(name, "scatter", "cup", dims) for name in ("apformer", "transunet", "primus_v3") for dims in (2, 3)
]
# the number of queries of the others depends on the image
COUNTED = [which for which in [*DECODERS, *STEMS] if which.encoder != "apformer"]


def config(which: Combination, patch_size: int | list[int]) -> DictConfig:
    """The little config of a combination, with another patch and as many widths as the patch has steps."""
    cfg = little_config(which).copy()
    sizes = patch_sizes(patch_size, num_axes=which.dims)
    cfg.encoder.patch_size = patch_size
    stem = cfg.encoder.stem
    if stem is not None and "widths" in stem:
        stem.widths = STEM_WIDTHS[max(sizes)]
    elif stem is not None:
        stem.units = [1] * (len(WIDTHS[max(sizes)]) - 1)
    if cfg.encoder.gate is not None:
        # untrained, a gate may switch off all of so few queries
        cfg.encoder.gate.threshold = 0.9999
    if cfg.decoder.get("widths") is not None:
        cfg.decoder.widths = WIDTHS[max(sizes)]
    cfg.encoder.taps = num_skips(cfg, which, sizes)
    return cfg


def num_skips(cfg: DictConfig, which: Combination, sizes: Extent) -> int:
    spec = FeatureSpec(tuple(SIZE[which.dims]), CHANNELS, sizes, cfg.encoder.dim, 1, pyramid_channels=(4,))
    return getattr(build(cfg.decoder, key="decoder")(spec=spec, num_classes=CLASSES), "num_skips", 0)


def network_of(which: Combination, patch_size: int | list[int]) -> Segmenter:
    """In evaluation mode; noise on every trained parameter, so that none hides by being zero."""
    return network_of_config(config(which, patch_size), image_size=SIZE[which.dims])


@cache
def batch(dims: int, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, CHANNELS, *SIZE[dims], generator=generator)
    return image, torch.randint(CLASSES, (2, *SIZE[dims]), generator=generator)


@few([*EVERY, *STEMS], chosen=covering([*EVERY, *STEMS], pairs))
def test_shapes_and_a_gradient_for_every_parameter(which):
    network = network_of(which, PATCH[which.dims])
    with torch.no_grad():
        logits = network(batch(which.dims)[0])
    assert logits.shape == (2, CLASSES, *SIZE[which.dims])
    assert logits.isfinite().all()
    assert network.encoder.spec.grid == ((2, 4) if which.dims == 2 else (2, 2, 2))
    criterion = little_criterion(little_config(which))
    network.train()
    for seed in (1, 2):
        image, label = batch(which.dims, seed=seed)
        criterion(network(image), label, image=image)["loss"].backward()
    grads = {name: p.grad for name, p in network.named_parameters() if p.requires_grad}
    # nothing is missing where every token stays
    idle = {"completion.mask_token"} if which.encoder == "apformer" and which.completion == "mim" else set()
    assert {name for name, grad in grads.items() if grad is None or not grad.any()} == idle
    assert [name for name, grad in grads.items() if not grad.isfinite().all()] == []


@pytest.mark.parametrize("which", [*DECODERS, *STEMS], ids=str)
@torch.no_grad()
def test_a_list_of_equal_sizes_is_the_number(which):
    """The same names, shapes and weights, and the same logits to the last digit."""
    by_number, by_list = (network_of(which, patch) for patch in (4, [4] * which.dims))
    ours, theirs = by_number.state_dict(), by_list.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    image, _ = batch(which.dims)
    assert torch.equal(by_number(image), by_list(image))


@pytest.mark.parametrize("which", COUNTED, ids=str)
def test_macs_equal_the_closed_form(which):
    """In 2-D with two steps that keep an axis, so that the order of the steps shows."""
    with torch.device("meta"):
        network = network_of(which, [16, 4] if which.dims == 2 else PATCH[3])
        image = torch.empty(1, CHANNELS, *SIZE[which.dims])
        assert network(image).shape == (1, CLASSES, *SIZE[which.dims])
    assert count_macs(network, image) == closed_form(network)


@torch.no_grad()
def test_export():
    which = meeting("mta", "thin", 3)
    network = network_of(which, PATCH[3])
    exported = torch.export.export(network, (batch(3)[0],)).module()
    image, _ = batch(3, seed=2)
    torch.testing.assert_close(exported(image), network(image))
