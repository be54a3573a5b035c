"""Stitching the features of windows instead of their logits: of networks whose decoder has two stages."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from peak import peak_bytes
from torch import nn

from sct.data.outputs import numbered
from sct.inference import FastSlidingWindow, Request, SlidingWindow, base
from sct.inference.stages import stages_of
from sct.inference.tiling import window_starts, window_weight
from sct.inference.wanted import Wanted
from sct.models.decoders.patchwise import Patchwise
from sct.models.decoders.primus import Primus
from sct.models.decoders.thin import Thin
from sct.models.grid import patches
from sct.models.segmenter import Segmenter
from sct.models.tokens import Dense, FeatureSpec

CPU = torch.device("cpu")
CLASSES, CHANNELS, PATCH, WINDOW = 4, 2, 4, 16
DECODERS = {
    "patchwise": partial(Patchwise, width=6, detail=3, hidden=8),
    "primus": partial(Primus, widths=[6]),
    "thin": partial(Thin, width=4),
    "thin, voxels": partial(Thin, width=4, voxels=3),
}


@pytest.fixture(autouse=True)
def thin_chunks(monkeypatch):
    """Chunks of few rows, so that even a little volume has many."""
    monkeypatch.setattr(base, "CHUNK_VOXELS", 1)
    monkeypatch.setattr(base, "FEWEST_ROWS", 3)


class Whole(nn.Module):
    """In an encoder's place: every patch is a token, and nothing is dropped."""

    def __init__(self, patch_size):
        super().__init__()
        self.spec = FeatureSpec((WINDOW,) * len(patch_size), CHANNELS, patch_size, 12, CLASSES)
        self.embed = nn.Linear(CHANNELS * math.prod(patch_size), 12)

    def forward(self, image):
        grid = tuple(size // edge for size, edge in zip(image.shape[2:], self.spec.patch_size, strict=True))
        return Dense(grid, self.embed(patches(image, size=self.spec.patch_size)))


class Same(nn.Module):
    """In a completion's place."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec

    def forward(self, dense):
        return dense


def network(decoder, *, dims, patch_size=None):
    torch.manual_seed(0)
    patch_size = patch_size or (PATCH,) * dims
    made = Segmenter(encoder=Whole(patch_size), completion=Same, decoder=DECODERS[decoder], num_classes=CLASSES)
    for name, weight in made.named_parameters():
        if "norm" not in name:  # so large that labels vary
            nn.init.normal_(weight, std=0.3)
    return made.eval()


def request(dims, wanted=None):
    return Request((WINDOW,) * dims, numbered(CLASSES).background, CPU, wanted)


# one window, odd sizes, and slices of a volume; where no windows overlap nothing is blended
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("shape", "dims"), [((16, 16, 16), 3), ((15, 9, 13), 3), ((32, 16, 16), 3), ((16, 12), 2), ((5, 16, 15), 2)]
)
def test_without_overlap_logits_are_the_windows_own(decoder, shape, dims):
    """Inside a window, and up to what its second stage sees from a neighbour's border."""
    made, image = network(decoder, dims=dims), torch.randn(CHANNELS, *shape)
    found = FastSlidingWindow(overlap=0)(made, image, request(dims))
    # padded as the windows lie: before and after what is smaller than a window
    lack = [0 if dims < len(shape) and axis == 0 else max(0, WINDOW - size) for axis, size in enumerate(shape)]
    padded = F.pad(image, [pad for missing in reversed(lack) for pad in (missing // 2, missing - missing // 2)])
    want = SlidingWindow(overlap=0)(made, padded, request(dims))
    want = want[(slice(None), *(slice(m // 2, m // 2 + size) for m, size in zip(lack, shape, strict=True)))]
    assert found.shape == want.shape == (CLASSES, *shape)
    if len(shape) == 3 and shape[0] > WINDOW and made.decoder.reach:
        seam = torch.arange(WINDOW - made.decoder.reach, WINDOW + made.decoder.reach)
        rest = [row for row in range(shape[0]) if row not in seam.tolist()]
        assert not torch.allclose(found[:, seam], want[:, seam], atol=1e-3)
        found, want = found[:, rest], want[:, rest]
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "dims"), [((26, 20, 18), 3), ((36, 26), 2), ((5, 36, 26), 2)])
@pytest.mark.parametrize("decoder", ["patchwise", "thin"])
def test_blended_features_are_blended_logits_where_the_second_stage_is_linear(decoder, shape, dims):
    made, image = network(decoder, dims=dims), torch.randn(CHANNELS, *shape)
    options = {"overlap": 0.5, "blending": "constant"}
    found = FastSlidingWindow(**options)(made, image, request(dims))
    want = SlidingWindow(**options)(made, image, request(dims))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("patch_size", "stride", "shape"),
    [
        ((4, 4, 2), (2, 2, 1), (26, 20, 19)),
        ((2, 4, 4), (1, 2, 2), (25, 20, 18)),
        ((2, 4), (1, 2), (37, 26)),
        ((4, 2), (1, 2, 1), (5, 36, 27)),
    ],
)
@pytest.mark.parametrize("decoder", ["patchwise", "thin"])
def test_features_have_another_stride_along_an_axis_with_a_smaller_patch(decoder, patch_size, stride, shape):
    """Slices of a volume, too; an odd size along an axis of stride 1 needs no padding."""
    dims = len(patch_size)
    made, image = network(decoder, dims=dims, patch_size=patch_size), torch.randn(CHANNELS, *shape)
    options = {"overlap": 0.5, "blending": "constant"}
    inferer = FastSlidingWindow(**options)
    stages = inferer.stages(made, request(dims), num_dims=len(shape))
    assert stages.stride == stride
    want = SlidingWindow(**options)(made, image, request(dims))
    torch.testing.assert_close(inferer(made, image, request(dims)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"batch_size": 3, "overlap": 0.5}])
def test_features_are_blended_by_the_windows_weights(options, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    made, image = network("thin, voxels", dims=3), torch.randn(CHANNELS, 37, 20, 25)
    found = FastSlidingWindow(**options)(made, image, request(3))
    padded = F.pad(image, (0, 1, 0, 0, 0, 1))
    weight = F.avg_pool3d(window_weight((WINDOW,) * 3, blending="gaussian")[None, None], 2)[0, 0]
    total, weights = torch.zeros(4, 19, 10, 13), torch.zeros(19, 10, 13)
    starts = window_starts(padded.shape[1:], (WINDOW,) * 3, overlap=options.get("overlap", 0.5))
    with torch.no_grad():
        for place in itertools.product(*starts):
            window = padded[(slice(None), *(slice(at, at + WINDOW) for at in place))]
            box = tuple(slice(at // 2, (at + WINDOW) // 2) for at in place)
            total[(slice(None), *box)] += made.features(window[None])[0] * weight
            weights[box] += weight
        want = made.decoder.voxels((total / weights)[None], padded[None])[0, :, :37, :, :25]
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_windows_of_air_are_background():
    made = network("thin, voxels", dims=3)
    image = torch.rand(CHANNELS, 48, 16, 21) - 1.0
    image[0, :3] += 1.0
    background = numbered(CLASSES).background
    found = FastSlidingWindow(overlap=0, skip_below=0.0)(made, image, request(3))
    # windows of rows 16 to 31 and 32 to 47 are skipped
    assert torch.equal(found[:, 16:], background[:, None, None, None].expand(-1, 32, 16, 21))
    # up to what the second stage sees of where no features are
    want = FastSlidingWindow(overlap=0)(made, image[:, :16], request(3))
    torch.testing.assert_close(found[:, : 16 - made.decoder.reach], want[:, : 16 - made.decoder.reach])
    assert not torch.allclose(found[:, :16], background[:, None, None, None], atol=1.0)


def test_what_has_no_two_stages_is_stitched_as_logits():
    made = network("thin", dims=3)
    where = {"num_channels": CLASSES, "roi_size": (WINDOW,) * 3, "num_dims": 3}
    staged = stages_of(made, stitch="features", mirror_axes=(), **where)
    assert (staged.num_channels, staged.stride, staged.is_logits) == (4, (2, 2, 2), False)
    for model, stitch, mirror_axes in (
        (made, "logits", ()),
        (made, "features", (0,)),
        (nn.Identity(), "features", ()),
    ):
        stages = stages_of(model, stitch=stitch, mirror_axes=mirror_axes, **where)
        assert (stages.num_channels, stages.stride, stages.is_logits) == (CLASSES, (1, 1, 1), True)
    image = torch.randn(CHANNELS, 26, 21, 18)
    for options in ({"stitch": "logits"}, {"mirror_axes": (1,)}):
        same = {key: value for key, value in options.items() if key != "stitch"}
        torch.testing.assert_close(
            FastSlidingWindow(**options)(made, image, request(3)),
            SlidingWindow(**same)(made, image, request(3)),
            rtol=1e-4, atol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "workers": 2}, {"accumulate": "float16"}])
def test_memory_is_at_most_what_was_said(options, decoder, monkeypatch):
    """And what the network takes for the features of windows by themselves."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    made, shape = network(decoder, dims=3), (32, 45, 44)
    inferer, image = FastSlidingWindow(**{"batch_size": 1, **options}), torch.randn(CHANNELS, *shape)
    windows = torch.randn(inferer.batch_size, CHANNELS, *(WINDOW,) * 3)
    workers = inferer.most_workers(CPU)
    with torch.no_grad():
        forward = workers * peak_bytes(lambda: made.features(windows))
        said = inferer.memory(made, shape, request(3), in_channels=CHANNELS)
        total = sum(said.values()) - image.nbytes  # that is there before
        peak = peak_bytes(lambda: sum(chunk.logits[0, 0, 0, 0] for chunk in inferer.chunks(made, image, request(3))))
    assert said["rows kept"] < 4 * CLASSES * image[0].numel() / 8
    assert 0.3 * total < peak <= total + forward


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("shape", "dims"), [((41, 30, 38), 3), ((45, 37), 2), ((5, 40, 33), 2)])
def test_of_the_second_stage_no_more_is_computed_than_what_is_wanted_depends_on(decoder, shape, dims):
    """With the same windows, what is wanted has the logits that it has where all is wanted."""
    model = network(decoder, dims=dims)
    inferer, window = FastSlidingWindow(overlap=0.25), (1,) * (len(shape) - dims) + (WINDOW,) * dims
    patch = tuple(PATCH if edge > 1 else 1 for edge in window)
    padded = tuple(-(-size // edge) * edge for size, edge in zip(shape, patch, strict=True))
    torch.manual_seed(0)
    image = torch.randn(CHANNELS, *padded)
    windows = tuple(itertools.product(*window_starts(padded, window, overlap=0.25, multiple=patch)))
    everything = torch.ones([size // edge for size, edge in zip(padded, patch, strict=True)], dtype=torch.bool)
    few = torch.rand(everything.shape) < 0.02
    few[0], few[-1] = False, few[-1] & (torch.arange(everything.shape[-1]) > 2)
    seen = []
    stage = model.decoder.voxels
    model.decoder.voxels = lambda features, image, rows=slice(None): (
        seen.append(features.numel()) or stage(features, image, rows)
    )
    results = []
    for patches_wanted in (everything, few):
        seen.clear()
        wanted = Wanted(patches_wanted, patch, windows)
        results.append((inferer(model, image, request(dims, wanted)), sum(seen)))
    (whole, all_read), (found, read) = results
    mask = Wanted(few, patch, windows).voxels(tuple(slice(0, size) for size in padded))
    assert 0 < mask.sum() < mask.numel() / 2
    torch.testing.assert_close(found[:, mask], whole[:, mask], rtol=1e-4, atol=1e-4)
    background = numbered(CLASSES).background
    assert torch.equal(found[:, ~mask], background[:, None].expand(-1, int((~mask).sum())))
    assert read < all_read
