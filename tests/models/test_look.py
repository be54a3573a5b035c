"""The first look: what it sees of a patch, and that a whole scan has the logits of its crops."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from sct.errors import UserError
from sct.models.completion.scatter import Scatter
from sct.models.decoders.patchwise import Patchwise
from sct.models.encoder import ViTEncoder
from sct.models.look import FirstLook, patch_statistics
from sct.models.segmenter import Segmenter
from sct.models.tokens import FeatureSpec

CPU = torch.device("cpu")


def little_look(*, image_size=(16, 16, 16), patch_size=4, channels=2, **settings):
    sizes = (patch_size,) * len(image_size) if isinstance(patch_size, int) else tuple(patch_size)
    spec = FeatureSpec(image_size=image_size, in_channels=channels, patch_size=sizes, dim=8, num_heads=1)
    torch.manual_seed(0)
    return FirstLook(spec=spec, patch_size=patch_size, **settings).eval()


@pytest.mark.parametrize(("shape", "patch"), [((8, 6, 9), (4, 3, 3)), ((7, 10, 5), (4, 3, 2)), ((9, 7), (4, 2))])
def test_statistics_are_those_of_the_voxels_of_a_patch(shape, patch):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *shape)
    # voxels beyond the image are its outermost ones
    filled = np.pad(image.numpy(), [(0, 0)] * 2 + [(0, -n % p) for n, p in zip(shape, patch, strict=True)], mode="edge")
    found = patch_statistics(image, patch_size=patch)
    grid = [-(-n // p) for n, p in zip(shape, patch, strict=True)]
    assert found.shape == (2, 12, *grid)
    axes = tuple(range(2, filled.ndim))
    for place in itertools.product(*map(range, grid)):
        voxels = filled[(..., *(slice(at * p, at * p + p) for at, p in zip(place, patch, strict=True)))]
        want = [operation(axis=axes) for operation in (voxels.mean, voxels.max, voxels.min, voxels.std)]
        np.testing.assert_allclose(found[(..., *place)], np.concatenate(want, axis=1), rtol=1e-4, atol=1e-5)


def test_a_scan_has_the_logits_of_its_crops():
    look, scan = little_look(depth=2), torch.randn(2, 32, 24, 28)
    whole = look.scan(scan, device=CPU)
    assert whole.shape == (8, 6, 7)
    with torch.no_grad():
        crop = look(scan[None, :, 8:24, 4:20, 8:24])[0]
    # but for the patches whose surroundings the crop does not hold
    inside = slice(2, -2)
    torch.testing.assert_close(crop[inside, inside, inside], whole[4:-4, 3:-3, 4:-3], rtol=0, atol=1e-6)
    assert (crop[0] - whole[2, 1:5, 2:6]).abs().max() > 1e-4


def test_a_scan_goes_on_beyond_its_end_as_it_ends():
    """A scan that is the same along an axis has the same logits along it, up to its ends."""
    look = little_look(depth=3)
    scan = torch.randn(2, 24, 20, 1).repeat_interleave(32, dim=3)
    found = look.scan(scan, device=CPU)
    torch.testing.assert_close(found, found[..., :1].expand_as(found))
    assert found[..., 0].std() > 1e-3


def test_a_volume_of_slices_is_seen_slice_by_slice():
    look, volume = little_look(image_size=(16, 16)), torch.randn(2, 5, 18, 12)
    found = look.scan(volume, device=CPU)
    assert found.shape == (5, 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(found[3], look(volume[:, 3].unsqueeze(0))[0])


def test_it_computes_in_float32_whatever_the_network_does():
    look, image = little_look(), torch.randn(1, 2, 16, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = look(image.bfloat16().float())
    assert torch.equal(mixed, look(image.bfloat16().float()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 0}, "look.dim=0"),
        ({"depth": 0}, "look.depth=0"),
        ({"patch_size": 5}, "not divisible by look.patch_size=5"),
        ({"patch_size": (4, 4)}, "look.patch_size="),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    spec = FeatureSpec(image_size=(16, 16, 16), in_channels=1, patch_size=(4, 4, 4), dim=8, num_heads=1)
    with pytest.raises(UserError, match=words):
        FirstLook(spec=spec, **{"patch_size": 4, **settings})


def segmenter(look):
    torch.manual_seed(3)
    encoder = ViTEncoder(image_size=(16, 16, 16), in_channels=1, patch_size=4, dim=12, depth=1, num_heads=2)
    return Segmenter(encoder=encoder, completion=Scatter, decoder=Patchwise, num_classes=3, look=look)


def test_the_other_parts_start_and_compute_as_without_it():
    without, beside = segmenter(None), segmenter(partial(FirstLook, patch_size=4))
    weights = beside.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in without.state_dict().items())
    image = torch.randn(2, 1, 16, 16, 16)
    beside.train()
    without.train()
    assert torch.equal(beside(image).logits, without(image).logits)
    assert without(image).look is None
    assert beside(image).look.shape == (2, 4, 4, 4)
    # a gradient of its logits reaches no other part
    beside(image).look.sum().backward()
    reached = {name.split(".")[0] for name, parameter in beside.named_parameters() if parameter.grad is not None}
    assert reached == {"look"}
    # in evaluation windows cost no look
    assert beside.eval().predict(image).look is None
