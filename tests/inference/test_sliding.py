"""The reference inferer: windows equal the whole."""

import logging

import pytest
import torch

from sct.data.outputs import numbered
from sct.errors import UserError
from sct.inference import Request, SlidingWindow
from sct.inference import sliding as inference

CPU = torch.device("cpu")
NOTHING = numbered(3).background


def pointwise(windows):
    """A model that sees one voxel at a time: any tiling must give the same logits."""
    first = windows[:, :1]
    return torch.cat([first, first**2, 0.5 - first], dim=1)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(20, 13), (5, 30), (20, 13, 9), (3, 4, 5)])
def test_windows_equal_the_whole_image(shape, blending):
    image = torch.randn(2, *shape)
    inferer = SlidingWindow(overlap=0.5, blending=blending, batch_size=3)
    logits = inferer(pointwise, image, Request([8] * len(shape), NOTHING, CPU))
    assert logits.shape == (3, *shape)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, pointwise(image[None])[0])


@pytest.mark.parametrize(
    ("roi_size", "device", "batch_size", "expected"),
    [
        ((96, 96, 96), "cpu", None, 1),
        ((128, 128, 128), "cpu", None, 1),
        ((48, 48, 48), "cpu", None, 8),
        ((224, 224), "cpu", None, 17),
        ((96, 96, 96), "cuda", None, 4),
        ((96, 96, 96), "cpu", 3, 3),
    ],
)
def test_a_pass_takes_the_windows_that_suit_the_device(roi_size, device, batch_size, expected):
    inferer = SlidingWindow(batch_size=batch_size)
    assert inferer.windows_at_once(roi_size, device=torch.device(device)) == expected


def test_mirroring_averages_over_every_combination_of_axes():
    torch.manual_seed(0)
    image, weight = torch.randn(1, 6, 8), torch.randn(2, 1, 3, 3)
    axes = (0, 1)

    def model(windows):
        return torch.nn.functional.conv2d(windows, weight, padding=1).half()

    expected = torch.zeros(2, 6, 8)
    for dims in ((), (1,), (2,), (1, 2)):
        expected += model(image.flip(dims)[None])[0].float().flip(dims) / 4
    inferer = SlidingWindow(mirror_axes=axes)
    found = inferer(model, image, Request((6, 8), NOTHING[:2], CPU))
    torch.testing.assert_close(found, expected)


def test_half_precision_models_are_blended_in_float32():
    image = torch.rand(1, 12, 12)
    inferer = SlidingWindow(overlap=0.75)
    logits = inferer(lambda windows: pointwise(windows).bfloat16(), image, Request([8, 8], NOTHING, CPU))
    torch.testing.assert_close(logits, pointwise(image[None])[0].bfloat16().float())


@pytest.mark.parametrize(
    "option", [{"overlap": 1.0}, {"blending": "mean"}, {"batch_size": 0}, {"stitch_device": "tpu"}]
)
def test_bad_options_name_their_key(option):
    with pytest.raises(UserError, match=f"inferer.{next(iter(option))}="):
        SlidingWindow(**option)


def test_stitching_falls_back_to_the_cpu_and_says_so(monkeypatch, caplog):
    cuda, shape, roi = torch.device("cuda"), (512, 512, 300), [96, 96, 96]
    needed = inference.stitch_bytes(shape, roi_size=roi, num_classes=14)
    assert needed == 4 * 512 * 512 * 300 * 16
    plan = SlidingWindow().plan
    monkeypatch.setattr(inference, "free_memory", lambda device: 3 * needed)
    with caplog.at_level(logging.WARNING):
        assert plan(shape, roi_size=roi, num_classes=14, device=cuda) == cuda
        assert not caplog.records
        monkeypatch.setattr(inference, "free_memory", lambda device: needed)
        assert plan(shape, roi_size=roi, num_classes=14, device=cuda) == CPU
    assert "stitching on the CPU" in caplog.text
    assert "512x512x300 x 14" in caplog.text
    assert SlidingWindow(stitch_device="cpu").plan(shape, roi_size=roi, num_classes=14, device=cuda) == CPU
    with caplog.at_level(logging.WARNING):
        SlidingWindow(stitch_device="cuda").plan(shape, roi_size=roi, num_classes=14, device=CPU)
    assert "stitch_device=cuda is ignored" in caplog.text


def in_plane(windows):
    """A 2-D model that mixes neighbours within a slice only: a shift to the left."""
    assert windows.ndim == 4
    return torch.cat([windows, windows.roll(1, dims=3)], dim=1)


@pytest.mark.parametrize("mirror_axes", [(), (1,)])
def test_a_volume_before_a_2d_network_is_predicted_slice_by_slice(mirror_axes):
    volume = torch.randn(1, 5, 9, 11)
    inferer = SlidingWindow(batch_size=3, mirror_axes=mirror_axes)
    request = Request([6, 6], NOTHING[:2], CPU)
    logits = inferer(in_plane, volume, request)
    assert logits.shape == (2, 5, 9, 11)
    for index in range(5):
        torch.testing.assert_close(logits[:, index], inferer(in_plane, volume[:, index], request))
