"""The fast inferer: labels of the reference, windows of air skipped, and memory as it was said before."""

import itertools
import logging
import math

import numpy as np
import pytest
import torch
from little_volumes import REGIONS, FakeVolume, file_grid, random_network, rotation
from monai.data.utils import compute_importance_map, dense_patch_slices
from peak import peak_bytes
from torch import nn

from sct.config.command import compose_config
from sct.data.outputs import numbered
from sct.errors import UserError
from sct.inference import (
    Chunk,
    FastSlidingWindow,
    MemoryNotice,
    Request,
    SlidingWindow,
    base,
    fast,
    predict_volume,
    regrid,
)
from sct.inference.tiling import occupied, window_starts, window_weight
from sct.runs.build import build_inferer

CPU = torch.device("cpu")
OUTPUTS = [numbered(4), REGIONS]


@pytest.fixture(autouse=True)
def thin_chunks(monkeypatch):
    """Chunks of few rows, so that even a little volume has many."""
    monkeypatch.setattr(base, "CHUNK_VOXELS", 1)
    monkeypatch.setattr(base, "FEWEST_ROWS", 3)


@pytest.mark.parametrize("window", [(96, 96, 96), (32, 24, 5), (1, 3, 2), (224, 192)])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
def test_weights_of_a_window_are_those_of_monai(window, blending):
    wanted = compute_importance_map(window, mode=blending, sigma_scale=0.125)
    assert torch.equal(window_weight(window, blending=blending), wanted)


@pytest.mark.parametrize(("classes", "rows"), [(1, 10), (8, 10), (16, 6), (50, 2), (200, 1)])
def test_a_chunk_of_many_classes_has_few_rows(classes, rows, monkeypatch):
    monkeypatch.setattr(base, "CHUNK_VOXELS", 1000)
    monkeypatch.setattr(base, "MOST_LOGITS", 10_000)
    assert base.rows_of_a_chunk((64, 10, 10), num_channels=classes) == rows


@pytest.mark.parametrize("option", [{"overlap": -0.1}, {"blending": "mean"}, {"accumulate": "float64"}, {"workers": 0}])
def test_bad_options_name_their_key(option):
    with pytest.raises(UserError, match=f"inferer.{next(iter(option))}="):
        FastSlidingWindow(**option)


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((25, 17, 19), (8, 8, 8), {}),
        ((19, 13, 11), (8, 10, 6), {"overlap": 0.7, "batch_size": 3, "blending": "constant"}),
        ((20, 9, 30), (8, 8, 8), {"overlap": 0.0, "batch_size": 100}),
        ((5, 20, 3), (8, 8, 8), {}),  # smaller than a window along some axes
        ((3, 4, 5), (8, 8, 8), {}),
        ((21, 13), (8, 6), {"batch_size": 7}),
        ((7, 13, 11), (8, 6), {"batch_size": 5}),  # slices of a volume
        ((7, 3, 4), (8, 6), {"batch_size": 5}),
        ((17, 12, 9), (8, 8, 8), {"mirror_axes": (0, 2), "batch_size": 2}),
        ((25, 17, 19), (8, 8, 8), {"workers": 2, "batch_size": 3}),
    ],
)
def test_logits_are_those_of_the_reference(shape, window, options):
    network = random_network(spatial_dims=len(window), num_channels=4, in_channels=2)
    image = torch.randn(2, *shape)
    request = Request(window, numbered(4).background, CPU)
    found = FastSlidingWindow(**options)(network, image, request)
    assert found.dtype == torch.float32
    same = {key: value for key, value in options.items() if key != "workers"}
    torch.testing.assert_close(found, SlidingWindow(**same)(network, image, request), rtol=1e-4, atol=1e-5)


def test_even_windows_cover_the_image_and_blend_the_same():
    """A network of single voxels gives each voxel the same logits in any window."""
    torch.manual_seed(0)
    network, image = nn.Conv3d(2, 3, 1), torch.randn(2, 25, 17, 19)
    request = Request((8, 8, 8), numbered(3).background, CPU)
    even, fixed = (FastSlidingWindow(even=even, batch_size=3)(network, image, request) for even in (True, False))
    torch.testing.assert_close(even, fixed, rtol=1e-4, atol=1e-5)


class ChannelsLast(nn.Module):
    """A network whose logits have the channels of a voxel side by side, as those made for time."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, windows):
        return self.network(windows).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("options", [{}, {"accumulate": "float16"}, {"workers": 2}])
def test_where_channels_lie_in_memory_changes_nothing(options, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    network, image = random_network(spatial_dims=3, num_channels=4), torch.randn(1, 19, 17, 9)
    request = Request((8, 8, 8), numbered(4).background, CPU)
    assert FastSlidingWindow(**options).workers_for(network, num_batches=9, device=CPU) == options.get("workers", 1)
    found, other = (FastSlidingWindow(**options)(one, image, request) for one in (network, ChannelsLast(network)))
    assert torch.equal(found, other)


@pytest.mark.parametrize("shape", [(23, 5, 9), (1, 4, 3)])
@pytest.mark.parametrize("inferer", [FastSlidingWindow(batch_size=2), SlidingWindow()])
def test_chunks_follow_each_other_and_share_a_row(inferer, shape):
    network = random_network(spatial_dims=3, num_channels=2)
    found = inferer.chunks(network, torch.randn(1, *shape), Request((6, 4, 4), numbered(2).background, CPU))
    chunks = [Chunk(chunk.start, chunk.logits.clone()) for chunk in found]
    assert chunks[0].start == 0
    assert chunks[-1].stop == shape[0]
    for one, following in itertools.pairwise(chunks):
        assert following.start == one.stop - 1
        assert torch.equal(following.logits[:, 0], one.logits[:, -1])


GRIDS = {
    "same": {"order": (0, 1, 2), "flips": (False, False, False), "scale": (1.0, 1.0, 1.0)},
    "finer, flipped": {"order": (0, 1, 2), "flips": (True, False, True), "scale": (0.6, 0.45, 1.4)},
    "axes exchanged": {"order": (2, 0, 1), "flips": (False, True, True), "scale": (0.6, 1.7, 0.8)},
}


def volume_on(grid, *, shape):
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.randn(1, 1, 6, 6, 6), size=shape, mode="trilinear")[0]
    if grid == "oblique":
        turned = np.diag([0.5, 0.8, 2.0, 1.0])
        turned[:3, 3] = rotation(3)[:3, 3]
        return FakeVolume(image, rotation(3), (26, 19, 24), turned)
    grids = file_grid(shape, **GRIDS[grid])
    return FakeVolume(image, grids["affine"], grids["source_shape"], grids["source_affine"])


@pytest.mark.parametrize("outputs", OUTPUTS, ids=["classes", "regions"])
@pytest.mark.parametrize("grid", [*GRIDS, "oblique"])
@pytest.mark.parametrize(
    ("options", "agree"),
    [
        ({}, 0.9999),
        ({"mirror_axes": (0, 1)}, 0.9999),
        ({"accumulate": "float16"}, 0.999),
        ({"accumulate": "bfloat16"}, 0.99),
    ],
    ids=["float32", "mirrored", "float16", "bfloat16"],
)
def test_label_maps_are_those_of_the_reference(grid, outputs, options, agree, caplog):
    network = random_network(spatial_dims=3, num_channels=outputs.num_channels)
    volume = volume_on(grid, shape=(25, 17, 19))
    settings = {"roi_size": (8, 8, 8), "outputs": outputs, "device": CPU}
    with caplog.at_level(logging.WARNING):
        found = predict_volume(network, volume, FastSlidingWindow(**options), **settings)
    assert ("oblique" in caplog.text) == (grid == "oblique")
    reference = {key: value for key, value in options.items() if key != "accumulate"}
    want = predict_volume(network, volume, SlidingWindow(**reference), **settings)
    assert found.shape == volume.source_shape
    assert len(np.unique(want)) > 2
    assert (found == want).mean() >= agree


def test_labels_on_the_own_grid():
    network, image = random_network(spatial_dims=3, num_channels=2), torch.randn(1, 13, 9, 8)
    for inferer in (FastSlidingWindow(), SlidingWindow()):
        logits = inferer(network, image, Request((6, 6, 6), REGIONS.background, CPU))
        labels = inferer.labels(network, image, roi_size=(6, 6, 6), outputs=REGIONS, device=CPU)
        assert labels.dtype == torch.int16
        assert torch.equal(labels, REGIONS.labels(logits))


def test_windows_start_where_monai_puts_them():
    for shape, window, overlap in itertools.product(
        [(8, 20, 31), (9, 8, 100)], [(8, 8, 8), (8, 5, 7)], [0.0, 0.3, 0.5, 0.9]
    ):
        edges = list(zip(shape, window, strict=True))
        steps = [size if size == edge else max(1, int(edge * (1 - overlap))) for size, edge in edges]
        want = [tuple(axis.start for axis in box) for box in dense_patch_slices(shape, window, steps)]
        assert list(itertools.product(*window_starts(shape, window, overlap=overlap))) == want


def test_even_windows_are_as_many_and_never_further_apart():
    for size, edge, overlap, unit in itertools.product([8, 16, 30, 100], [8, 6], [0.0, 0.25, 0.5, 0.9], [1, 2]):
        steps = {}
        for even in (False, True):
            (along,) = window_starts([size], [edge], overlap=overlap, multiple=[unit], even=even)
            assert (along[0], along[-1]) == (0, size - edge)
            assert not any(start % unit for start in along)
            steps[even] = np.diff(along)
        assert len(steps[True]) == len(steps[False])
        if len(steps[True]):
            assert steps[True].max() <= steps[False].max()
            assert steps[True].max() - steps[True].min() <= unit


def test_occupied_windows_hold_a_voxel_of_the_mask():
    torch.manual_seed(0)
    mask = torch.rand(21, 12, 17) > 0.998
    window = (6, 5, 4)
    grid = list(itertools.product(*window_starts(mask.shape, window, overlap=0.4)))
    for places in (grid, grid[::7], [(15, 7, 13), (0, 0, 0)]):
        want = [(a, b, c) for a, b, c in places if mask[a : a + 6, b : b + 5, c : c + 4].any()]
        assert occupied(mask, places=places, window=window) == want
    assert 0 < len(occupied(mask, places=grid, window=window)) < len(grid)
    assert occupied(mask, places=[], window=window) == []


class Watched:
    """A network that keeps the windows it saw."""

    def __init__(self, network):
        self.network, self.seen = network, []

    def __call__(self, windows):
        self.seen += list(windows.clone())
        return self.network(windows)


@pytest.mark.parametrize("outputs", OUTPUTS, ids=["classes", "regions"])
@pytest.mark.parametrize("accumulate", ["float32", "float16"])
def test_windows_of_air_are_skipped_and_say_nothing(outputs, accumulate, caplog):
    """Blended by hand in float64 from the windows that hold tissue; what none of them covers is background."""
    torch.manual_seed(0)
    image = torch.rand(2, 24, 20, 16) - 1.0
    image[1, 3:9, 11:15, 2:6] += 1.0  # in the second channel only
    image[0, 22, 1, 15] = 0.3
    window, threshold = (8, 8, 8), 0.0
    weight = window_weight(window, blending="gaussian").double()
    network = random_network(spatial_dims=3, num_channels=outputs.num_channels, in_channels=2)
    total, weights = torch.zeros(outputs.num_channels, *image.shape[1:]).double(), torch.zeros(image.shape[1:]).double()
    skipped, predicted = 0, 0
    for place in itertools.product(*window_starts(image.shape[1:], window, overlap=0.5)):
        box = tuple(slice(at, at + 8) for at in place)
        if (image[(slice(None), *box)] > threshold).any():
            with torch.no_grad():
                total[(slice(None), *box)] += network(image[None, :, *box])[0].double() * weight
            weights[box] += weight
            predicted += 1
        else:
            skipped += 1
    want = torch.where(weights > 0, total / weights, outputs.background.double()[:, None, None, None])
    assert skipped > 0
    assert 0.1 < (weights > 0).double().mean() < 0.9

    watched = Watched(network)
    inferer = FastSlidingWindow(skip_below=threshold, accumulate=accumulate, batch_size=3)
    with caplog.at_level(logging.INFO):
        found = inferer(watched, image, Request(window, outputs.background, CPU))
    tolerance = 1e-4 if accumulate == "float32" else 1e-2
    torch.testing.assert_close(found.double(), want, rtol=tolerance, atol=tolerance)
    assert len(watched.seen) == predicted
    assert all((seen > threshold).any() for seen in watched.seen)
    assert f"{skipped} of {skipped + predicted} windows skipped" in caplog.text
    labels = outputs.labels(found)
    assert not labels[weights == 0].any()
    assert labels[weights > 0].any()


def test_an_image_of_air_is_background_without_a_forward_pass():
    watched = Watched(random_network(spatial_dims=3, num_channels=3))
    volume = volume_on("finer, flipped", shape=(10, 4, 9))  # padded with zeros, which are above the threshold
    volume.image = torch.full_like(volume.image, -1.0)
    inferer = FastSlidingWindow(skip_below=-0.5)
    labels = predict_volume(watched, volume, inferer, roi_size=(8, 8, 8), outputs=numbered(3), device=CPU)
    assert not labels.any()
    assert not watched.seen


@pytest.mark.parametrize(
    ("shape", "window", "options"),
    [
        ((64, 40, 36), (16, 16, 16), {}),
        ((64, 40, 36), (16, 16, 16), {"accumulate": "float16"}),
        ((70, 40, 36), (16, 16, 16), {"even": True}),
        ((64, 40, 36), (16, 16, 16), {"mirror_axes": (0,), "batch_size": 8}),
        ((20, 40, 36), (16, 16), {"batch_size": 16}),
        ((64, 12, 40), (16, 16, 16), {}),
        ((64, 40, 36), (16, 16, 16), {"workers": 2}),
    ],
)
def test_memory_is_at_most_what_was_said(shape, window, options, monkeypatch, caplog):
    """Of a network that takes none itself, so that all of the peak is the inferer's."""
    monkeypatch.setattr(regrid, "BLOCK_VOXELS", 5000)
    outputs = numbered(8)
    volume = volume_on("axes exchanged", shape=shape)
    inferer = FastSlidingWindow(**{"batch_size": 4, **options})
    num_dims = len(window)

    class Network(nn.Module):
        def forward(self, windows):
            return windows.expand(-1, 8, *[-1] * num_dims).contiguous()

    network = Network()

    def run():
        predict_volume(network, volume, inferer, roi_size=window, outputs=outputs, device=CPU)

    with caplog.at_level(logging.INFO):
        run()
    memory = inferer.memory(network, shape, Request(window, outputs.background, CPU), in_channels=1)
    assert "memory in addition to the network: about" in caplog.text
    label_map = math.prod(volume.source_shape)
    regridding = regrid.SourceGrid(
        outputs=outputs,
        shape=shape,
        affine=volume.affine,
        source_shape=volume.source_shape,
        source_affine=volume.source_affine,
    ).memory
    assert regridding["label map"] == label_map
    # the image is there before, and the label map is no tensor
    said = sum(memory.values()) - 4 * math.prod(shape) + regridding["regridding"]
    peak = peak_bytes(run)
    # a network that takes no time never has all its workers' batches waiting
    assert (0.15 if inferer.workers > 1 else 0.2) * said < peak <= said
    assert memory["rows kept"] < 4 * 8 * math.prod(shape)


@pytest.mark.parametrize("inferer", [FastSlidingWindow(overlap=0), SlidingWindow(overlap=0)])
def test_without_a_batch_size_a_pass_takes_what_suits_the_device(inferer, monkeypatch):
    monkeypatch.setattr(base, "PROCESSOR_VOXELS", 3 * 8 * 8)
    sizes = []

    def model(windows):
        sizes.append(len(windows))
        return windows.repeat(1, 2, 1, 1)

    inferer(model, torch.rand(1, 16, 32), Request((8, 8), torch.zeros(2), CPU))
    assert sum(sizes) == 8
    assert max(sizes) == 3


@pytest.mark.parametrize(("tiles", "threads", "workers"), [(True, 2, 1), (False, 2, 2), (False, 1, 1)])
def test_without_a_number_workers_are_what_suits_the_processor(tiles, threads, workers, monkeypatch):
    monkeypatch.setattr(fast, "has_tiles", lambda: tiles)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert FastSlidingWindow(workers=None).most_workers(CPU) == workers
    assert FastSlidingWindow(workers=None).most_workers(torch.device("cuda")) == 1


def test_memory_of_a_device_holds_no_batches_of_workers():
    inferer = FastSlidingWindow(workers=2, batch_size=1)
    request = Request((16, 16), torch.zeros(8), torch.device("cuda"))
    said = inferer.memory(nn.Identity(), (64, 64), request, in_channels=1)
    assert said["batch"] == inferer.batch_bytes(request, in_channels=1)


@pytest.mark.parametrize(("data", "threshold"), [("btcv", 0.0), ("hippocampus", None)])
def test_air_is_what_the_data_set_crops_away(data, threshold):
    cfg = compose_config("train", overrides=[f"data={data}", "inferer=fast", "name=any"])
    inferer = build_inferer(cfg)
    assert isinstance(inferer, FastSlidingWindow)
    assert inferer.skip_below == threshold


def test_memory_is_said_once_and_again_where_it_is_much_more(caplog):
    notice = MemoryNotice()
    with caplog.at_level(logging.INFO):
        for size in (100, 100, 120, 40, 126, 130, 200):
            notice.tell({"image": size * 2**20, "weights": 0})
    assert [message.split("about ")[1].split()[0] for message in caplog.messages] == ["100", "126", "200"]
