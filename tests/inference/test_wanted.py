"""Few windows that hold the patches that are wanted, and predictions of these patches alone."""

import itertools
import weakref

import numpy as np
import pytest
import torch
from little_volumes import random_network
from peak import peak_bytes
from torch import nn

from sct.data.outputs import numbered
from sct.inference import FastSlidingWindow, Request, SlidingWindow, base
from sct.inference.readout import Readout
from sct.inference.rows import row_groups
from sct.inference.tiling import padded_shape
from sct.inference.wanted import Wanted, groups_of, hull_of, joined, overlap, sums_of, windows_for

CPU = torch.device("cpu")
BACKGROUND = numbered(3).background


@pytest.fixture(autouse=True)
def thin_chunks(monkeypatch):
    """Chunks of few rows, so that even a little volume has many."""
    monkeypatch.setattr(base, "CHUNK_VOXELS", 1)
    monkeypatch.setattr(base, "FEWEST_ROWS", 3)


def some(grid, *, share, seed=0):
    return torch.rand(grid, generator=torch.Generator().manual_seed(seed)) < share


def grid_of(shape, patch):
    return tuple(-(-size // edge) for size, edge in zip(shape, patch, strict=True))


def box(*edges):
    return tuple(slice(a, b) for a, b in edges)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 6)])
def test_sums_count_the_true_values_of_each_box(size):
    mask = some((7, 6), share=0.4).numpy()
    want = [
        [mask[a : a + size[0], b : b + size[1]].sum().item() for b in range(7 - size[1])] for a in range(8 - size[0])
    ]
    assert sums_of(mask, size).tolist() == want


@pytest.mark.parametrize("grid", [(13, 9), (7, 8, 9), (4, 20, 3)])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.7])
def test_groups_are_a_greedy_cover(grid, share):
    """As counted by brute force: each group is the box that holds most of what is left."""
    core = (3, 4, 2)[: len(grid)]
    for seed in range(4):
        left = some(grid, share=share, seed=seed)
        wanted = left.clone()
        for group in groups_of(wanted.numpy(), core=core):
            sizes = [min(edge, size) for edge, size in zip(core, grid, strict=True)]
            places = itertools.product(*(range(size - edge + 1) for size, edge in zip(grid, sizes, strict=True)))
            most = max(
                int(left[tuple(slice(at, at + edge) for at, edge in zip(place, sizes, strict=True))].sum())
                for place in places
            )
            assert all(part.stop - part.start <= edge for part, edge in zip(group, core, strict=True))
            assert int(left[group].sum()) == most > 0
            assert hull_of(left[group]) == tuple(slice(0, part.stop - part.start) for part in group)
            left[group] = False
        assert not left.any()
    assert groups_of(np.zeros(grid, dtype=bool), core=core) == []


CASES = [
    # image, patch, window
    ((40, 43, 97), (4, 4, 8), (16, 16, 32)),
    ((40, 43, 97), (4, 4, 8), (12, 20, 24)),
    ((9, 50, 31), (4, 4, 4), (16, 16, 16)),  # smaller than a window along the first axis
    ((31, 50, 9), (4, 4, 4), (16, 16, 16)),  # and along the last one
    ((64, 61), (8, 8), (32, 24)),
    ((12, 40, 40), (1, 8, 8), (1, 32, 32)),  # slices of a volume
    ((30, 30, 30), (4, 4, 4), (4, 4, 4)),  # a window is a patch
    ((41, 30, 30), (4, 4, 4), (14, 10, 10)),  # no multiple of a patch
]


@pytest.mark.parametrize(("shape", "patch", "window"), CASES)
@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("share", [0.003, 0.05])
def test_each_patch_is_in_a_window_that_sees_what_is_round_it(shape, patch, window, context, share):
    for seed in range(3):
        patches = some(grid_of(shape, patch), share=share, seed=seed)
        windows = windows_for(patches, patch=patch, shape=shape, window=window, context=context)
        assert list(windows) == sorted(set(windows))
        for place in windows:
            for at, unit, size, edge in zip(place, patch, shape, window, strict=True):
                assert 0 <= at <= max(0, size - edge)
                assert at % unit == 0 or at == size - edge
        for patch_at in patches.nonzero().tolist():
            assert any(
                all(
                    # a window without room for two patches more sees none
                    at <= max(0, (cell - rim) * unit) and min(size, (cell + 1 + rim) * unit) <= at + edge
                    for at, cell, unit, size, edge, rim in zip(
                        place,
                        patch_at,
                        patch,
                        shape,
                        window,
                        [int(context and edge // unit >= 3) for edge, unit in zip(window, patch, strict=True)],
                        strict=True,
                    )
                )
                for place in windows
            )


@pytest.mark.parametrize(("shape", "patch", "window"), CASES[:6])
def test_windows_on_a_padded_image_still_hold_their_patches(shape, patch, window):
    patches = some(grid_of(shape, patch), share=0.02, seed=1)
    windows = windows_for(patches, patch=patch, shape=shape, window=window, context=False)
    for unit in (1, 2, 4):
        multiple = [1 if edge == 1 else unit for edge in window]
        padded = padded_shape(shape, window, multiple=multiple)
        before = [(size - length) // 2 for size, length in zip(padded, shape, strict=True)]
        places = Wanted(patches, patch, windows).padded_starts(shape, window, padded=padded, multiple=multiple)
        assert len(places) > 0
        covered = torch.zeros(padded, dtype=torch.bool)
        for place in places:
            for at, edge, size, step in zip(place, window, padded, multiple, strict=True):
                assert at % step == 0
                assert at + edge <= size
            covered[tuple(slice(at, at + edge) for at, edge in zip(place, window, strict=True))] = True
        whole = tuple(slice(-edge, size - edge) for edge, size in zip(before, padded, strict=True))
        mask = Wanted(patches, patch, windows).voxels(whole)
        inside = tuple(slice(edge, edge + size) for edge, size in zip(before, shape, strict=True))
        assert covered[inside][mask[inside]].all()


def test_voxels_of_a_box_are_those_of_its_patches():
    patches = some((3, 4), share=0.5)
    wanted = Wanted(patches, (4, 2), ())
    whole = patches.repeat_interleave(4, 0).repeat_interleave(2, 1)
    assert torch.equal(wanted.voxels(box((0, 12), (0, 8))), whole)
    assert torch.equal(wanted.voxels(box((3, 11), (5, 6))), whole[3:11, 5:6])
    beyond = wanted.voxels(box((-2, 14), (-1, 9)))
    assert torch.equal(beyond[2:14, 1:9], whole)
    assert beyond.sum() == whole.sum()


@pytest.mark.parametrize(("shape", "patch"), [((12, 8), (4, 2)), ((11, 7), (4, 2)), ((9, 10, 13), (3, 4, 5))])
def test_voxels_are_counted_without_a_mask(shape, patch):
    wanted = Wanted(some(grid_of(shape, patch), share=0.5), patch, ())
    assert wanted.num_voxels(shape) == wanted.voxels(tuple(slice(0, size) for size in shape)).sum() > 0


def test_the_hull_of_rows_holds_what_is_wanted_in_them():
    patches = torch.zeros((3, 4, 5), dtype=torch.bool)
    patches[1, 2, 1] = patches[1, 3, 3] = patches[2, 0, 0] = True
    wanted = Wanted(patches, (4, 2, 8), ())
    assert wanted.hull(slice(0, 4)) is None
    assert wanted.hull(slice(2, 8)) == box((2, 8), (4, 8), (8, 32))
    assert wanted.hull(slice(7, 9)) == box((7, 9), (0, 8), (0, 32))
    assert wanted.hull(slice(-3, 0)) is None
    assert wanted.hull(slice(12, 15)) is None


def test_boxes_that_overlap_become_one():
    # the first two are joined by the third, and the result overlaps the fourth
    found = joined([box((0, 4), (0, 4)), box((6, 9), (0, 4)), box((3, 7), (1, 9)), box((0, 2), (5, 8))])
    assert found == [box((0, 9), (0, 9))]
    # boxes that touch have no voxel in common
    assert not overlap(box((0, 4), (0, 4)), box((4, 8), (0, 4)))
    assert len(joined([box((0, 4), (0, 4)), box((4, 8), (0, 4))])) == 2


def test_rows_share_a_group_as_long_as_their_windows_fit_in_a_batch():
    starts = [(0, 0), (0, 8), (4, 0), (9, 0), (9, 3), (9, 5), (12, 1)]
    assert row_groups(starts, batch_size=1) == [[0], [4], [9], [12]]
    assert row_groups(starts, batch_size=3) == [[0, 4], [9], [12]]
    assert row_groups(starts, batch_size=4) == [[0, 4], [9, 12]]
    assert row_groups(starts, batch_size=99) == [[0, 4, 9, 12]]


@pytest.mark.parametrize(("shape", "patch", "window"), [CASES[0], *CASES[2:6]])
@pytest.mark.parametrize("inferer", [FastSlidingWindow(), FastSlidingWindow(batch_size=3), SlidingWindow()])
def test_what_is_wanted_is_predicted_and_all_else_is_background(shape, patch, window, inferer):
    """A network of single voxels gives each voxel the same logits in any window."""
    torch.manual_seed(0)
    roi = window if window[0] > 1 else window[1:]
    network = {2: nn.Conv2d, 3: nn.Conv3d}[len(roi)](2, 3, 1)
    image, patches = torch.randn(2, *shape), some(grid_of(shape, patch), share=0.03)
    windows = windows_for(patches, patch=patch, shape=shape, window=window, context=True)
    wanted = Wanted(patches, patch, windows)
    with torch.no_grad():
        found = inferer(network, image, Request(roi, BACKGROUND, CPU, wanted))
        whole = SlidingWindow()(network, image, Request(roi, BACKGROUND, CPU))
    mask = wanted.voxels(tuple(slice(0, size) for size in shape))
    assert 0 < mask.sum() < mask.numel()
    torch.testing.assert_close(found[:, mask], whole[:, mask], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[:, ~mask], BACKGROUND[:, None].expand(-1, int((~mask).sum())))


def test_windows_of_air_are_skipped_among_those_that_are_wanted():
    torch.manual_seed(0)
    image = torch.rand(1, 40, 40, 40) - 2
    image[:, 20:24, 20:24, 4:8] += 2  # tissue, in one of two wanted patches
    patches = torch.zeros((10, 10, 10), dtype=torch.bool)
    patches[5, 5, 1] = patches[5, 5, 9] = True
    windows = windows_for(patches, patch=(4, 4, 4), shape=(40, 40, 40), window=(16, 16, 16), context=True)
    assert len(windows) == 2
    seen = []

    def network(batch):
        seen.extend(batch)
        return random_network(spatial_dims=3, num_channels=3)(batch)

    request = Request((16, 16, 16), BACKGROUND, CPU, Wanted(patches, (4, 4, 4), windows))
    found = FastSlidingWindow(skip_below=-0.9)(network, image, request)
    assert len(seen) == 1
    predicted = (found != BACKGROUND[:, None, None, None]).any(dim=0)
    np.testing.assert_array_equal(predicted.nonzero().amin(0), [20, 20, 4])
    np.testing.assert_array_equal(predicted.nonzero().amax(0), [23, 23, 7])


def test_a_window_between_two_multiples_becomes_two():
    """Where the stride is longer than the look's patch, rounded down alone a window would lose what it is for."""
    patches = torch.zeros((16, 16), dtype=torch.bool)
    patches[5, 9] = True
    wanted = Wanted(patches, (2, 2), ((3, 16),))
    found = wanted.padded_starts((32, 32), (8, 8), padded=(32, 32), multiple=(4, 4))
    assert found == [(0, 16), (4, 16)]
    assert wanted.padded_starts((32, 32), (8, 8), padded=(32, 32), multiple=(1, 4)) == [(3, 16)]
    # one that ends with the image ends with its padding
    last = Wanted(patches, (2, 2), ((29, 16),))
    assert last.padded_starts((37, 32), (8, 8), padded=(40, 32), multiple=(4, 4)) == [(32, 16)]


def test_thousands_of_windows_are_found_at_once():
    """Slices: what is searched for a window does not grow with the scan."""
    patches = some((300, 40, 40), share=0.02)
    groups = groups_of(patches.numpy(), core=(1, 10, 10))
    assert len(groups) > 3000
    left = patches.clone()
    for group in groups:
        assert left[group].any()
        left[group] = False
    assert not left.any()


def test_no_chunk_is_kept_while_the_next_is_computed(monkeypatch):
    network, image = random_network(spatial_dims=3, num_channels=3), torch.randn(1, 30, 12, 12)
    patches = torch.ones((8, 3, 3), dtype=torch.bool)
    windows = windows_for(patches, patch=(4, 4, 4), shape=(30, 12, 12), window=(8, 8, 8), context=False)
    seen, alive, compute = [], [], Readout.logits

    def watched(self, start, stop):
        alive.append(sum(one() is not None for one in seen))
        return compute(self, start, stop)

    monkeypatch.setattr(Readout, "logits", watched)
    request = Request((8, 8, 8), BACKGROUND, CPU, Wanted(patches, (4, 4, 4), windows))
    for chunk in FastSlidingWindow().chunks(network, image, request):
        assert not chunk.logits.requires_grad
        seen.append(weakref.ref(chunk))
        del chunk
    assert len(alive) > 5
    assert set(alive) == {0}


@pytest.mark.parametrize("share", [0.002, 0.1])
@pytest.mark.parametrize("accumulate", ["float32", "float16"])
def test_memory_of_what_is_wanted_is_at_most_what_was_said(share, accumulate):
    """Of a network that takes none itself; the chunk that holds the background counts too."""
    shape, patch, window = (64, 40, 36), (4, 4, 4), (16, 16, 16)
    patches, image = some(grid_of(shape, patch), share=share), torch.randn(1, *shape)
    windows = windows_for(patches, patch=patch, shape=shape, window=window, context=True)
    request = Request(window, torch.zeros(8), CPU, Wanted(patches, patch, windows))
    inferer = FastSlidingWindow(batch_size=1, accumulate=accumulate)

    def network(batch):
        return batch.expand(-1, 8, -1, -1, -1).contiguous()

    def run():
        for chunk in inferer.chunks(network, image, request):
            del chunk

    memory = inferer.memory(network, shape, request, in_channels=1)
    assert 0.2 * sum(memory.values()) < peak_bytes(run) + image.nbytes <= sum(memory.values())
