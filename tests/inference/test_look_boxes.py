"""What a first look chooses of a scan: boxes, thresholds that keep organs, and windows that air does not add to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from little_volumes import random_network
from scipy import stats
from torch import nn

from sct.data.cases import Volume
from sct.data.outputs import numbered
from sct.inference import FastSlidingWindow, SlidingWindow, predict_volume
from sct.inference.look import Look, boxes_of, joined, left_out, look_at, miss_bound, overlap, safe_threshold, widened
from sct.inference.tiling import window_starts
from sct.models.base import ImageOnly
from sct.models.completion.scatter import Scatter
from sct.models.look import FirstLook
from sct.models.segmenter import Segmenter

CPU = torch.device("cpu")
WINDOW, PATCH, CLASSES = (16, 16, 16), 4, 3
DATA = SimpleNamespace(roi_size=WINDOW, outputs=numbered(CLASSES))
INFERERS = [FastSlidingWindow(overlap=0.25), SlidingWindow(overlap=0.25)]


class Bright(FirstLook):
    """A look that has learnt: the logit of a patch is its largest value."""

    def judge(self, statistics):
        return statistics[:, 1]


class Counting(nn.Module):
    """A network that counts the windows it sees; it says what a voxel is by its brightness."""

    def __init__(self, **_):
        super().__init__()
        self.network, self.seen = random_network(spatial_dims=3, num_channels=CLASSES), 0

    def forward(self, image):
        self.seen += len(image)
        logits = self.network(image)
        logits[:, 1] += 10 * (image[:, 0] - 1.5)
        return logits


def little_network():
    return Segmenter(
        encoder=ImageOnly(image_size=WINDOW, in_channels=1),
        completion=Scatter,
        decoder=Whole,
        num_classes=CLASSES,
        look=lambda *, spec: Bright(spec=spec, patch_size=PATCH),
    ).eval()


class Whole(nn.Module):
    """A decoder that is a whole network, as those of `model=` are."""

    def __init__(self, **_):
        super().__init__()
        self.spec, self.counting = None, Counting()

    def forward(self, image, dense):
        return SimpleNamespace(logits=self.counting(image), head=None, aux={}, levels=[])


def a_scan(*, length=48, tissue=-1.0, legs=0):
    """An abdomen of 40 x 40 x 48 voxels with organs of brightness 2, then `legs` voxels of tissue without any."""
    noise = 0.2 * torch.rand((length, 1, 40, 40), generator=torch.Generator().manual_seed(0)).permute(1, 2, 3, 0)
    image = noise - 1
    image[:, 4:36, 4:36, :48] += 1
    image[:, 10:20, 12:30, 10:40] = 2.0
    image[:, 24:30, 14:20, 12:18] = 2.0
    image[:, 4:36, 4:36, 48 : 48 + legs] += 1 + tissue
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    return Volume(image, None, affine, tuple(image.shape[1:]), affine)


def predicted(volume, look, *, inferer=INFERERS[0]):
    """Labels, the view, and how many windows the network saw."""
    network = little_network()
    view = look_at(network, volume.image, look, inferer=inferer, data=DATA, device=CPU)
    labels = predict_volume(network, volume, inferer, roi_size=WINDOW, outputs=DATA.outputs, device=CPU, view=view)
    return labels, view, network.decoder.counting.seen


def voxels_of(box):
    mask = np.zeros((40, 40, 96), dtype=bool)
    mask[box] = True
    return mask


@pytest.mark.parametrize("margin", [0, 1])
def test_boxes_are_disjoint_and_hold_every_patch_with_its_margin(margin):
    rng = np.random.default_rng(0)
    shape, patch, window = (40, 43, 97), (4, 4, 8), (8, 8, 16)
    for share in (0.002, 0.01, 0.05):
        worth = rng.random((10, 11, 13)) < share
        boxes = boxes_of(worth, patch=patch, shape=shape, window=window, margin=margin)
        covered = np.zeros(shape, dtype=int)
        for box in boxes:
            covered[box] += 1
            sizes = [edge.stop - edge.start for edge in box]
            assert all(size >= least for size, least in zip(sizes, window, strict=True))
            assert all(edge.start >= 0 and edge.stop <= size for edge, size in zip(box, shape, strict=True))
        assert covered.max(initial=0) <= 1
        for place in np.argwhere(worth):
            edges = zip(place, patch, strict=True)
            part = tuple(slice(max(0, (at - margin) * size), (at + 1 + margin) * size) for at, size in edges)
            assert covered[part].all()
    assert boxes_of(np.zeros((10, 11, 13), bool), patch=patch, shape=shape, window=window, margin=margin) == ()


def test_boxes_that_overlap_become_one():
    def box(*edges):
        return tuple(slice(a, b) for a, b in edges)

    # the first two are joined by the third, and the result overlaps the fourth
    found = joined([box((0, 4), (0, 4)), box((6, 9), (0, 4)), box((3, 7), (1, 9)), box((0, 2), (5, 8))])
    assert found == [box((0, 9), (0, 9))]
    # boxes that touch have no voxel in common
    assert not overlap(box((0, 4), (0, 4)), box((4, 8), (0, 4)))
    assert len(joined([box((0, 4), (0, 4)), box((4, 8), (0, 4))])) == 2


def test_a_box_is_widened_within_the_image():
    assert widened(8, 12, least=16, size=40, unit=4) == slice(0, 16)
    assert widened(20, 24, least=16, size=40, unit=4) == slice(12, 28)
    assert widened(32, 40, least=16, size=40, unit=4) == slice(24, 40)
    assert widened(-4, 8, least=16, size=10, unit=4) == slice(0, 10)
    # the start stays at a patch, and what was asked for stays inside
    assert widened(36, 44, least=16, size=42, unit=4) == slice(24, 42)


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5])
def test_the_threshold_is_the_highest_that_keeps_each_organ(keep):
    torch.manual_seed(0)
    logits = torch.randn(200)
    logits[20:40] = logits[:20]  # equal ones are kept together
    counts = torch.randint(0, 9, (200, 4)).float() * (torch.rand(200, 4) < 0.2)
    counts[:, 2] = 0
    found = safe_threshold(logits, counts, keep=keep)
    assert found[2].isnan()
    for organ in (0, 1, 3):
        share = left_out(logits, counts, threshold=found[organ].item())[organ]
        assert share <= 1 - keep + 1e-9
        higher = logits[logits > found[organ]].min().item()
        assert left_out(logits, counts, threshold=higher)[organ] > 1 - keep


@pytest.mark.parametrize("margin", [0, 1, 2, 3])
def test_a_patch_near_one_worth_predicting_is_predicted_with_it(margin):
    """The share that a threshold keeps is that of a prediction without the outermost patches of its margin."""
    logits = torch.rand((6, 7, 8), generator=torch.Generator().manual_seed(0))
    for threshold in (0.9, 0.99):
        kept = Look(threshold, margin).near(logits) >= threshold
        worth = (logits >= threshold).numpy()
        boxes = np.zeros(worth.shape, dtype=bool)
        for place in np.argwhere(worth):
            boxes[tuple(slice(max(0, at - max(0, margin - 1)), at + max(1, margin)) for at in place)] = True
        np.testing.assert_array_equal(kept.numpy(), boxes)


def test_the_bound_is_that_of_the_lowest_of_n_thresholds():
    """Clopper and Pearson's for none of n; and, drawn: new cases below the lowest of n are rarer in 95 % of sets."""
    for number in (1, 4, 30):
        assert miss_bound(number) == pytest.approx(stats.beta.ppf(0.95, 1, number))
    assert miss_bound(300) == pytest.approx(3 / 300, rel=0.01)
    rng = np.random.default_rng(0)
    lowest = rng.random((4000, 6)).min(axis=1)  # of uniform values, the share below a value is the value
    assert (lowest <= miss_bound(6)).mean() == pytest.approx(0.95, abs=0.015)


def test_without_a_look_all_is_predicted():
    volume = a_scan()
    labels, view, seen = predicted(volume, None)
    assert view is None
    assert seen == np.prod([len(starts) for starts in window_starts((40, 40, 48), WINDOW, overlap=0.25)])
    assert set(np.unique(labels)) > {1}


@pytest.mark.parametrize("inferer", INFERERS, ids=["fast", "sliding"])
def test_where_every_patch_is_worth_it_nothing_changes(inferer):
    want, _, all_seen = predicted(a_scan(), None, inferer=inferer)
    found, view, seen = predicted(a_scan(), Look(-5.0, 1), inferer=inferer)
    np.testing.assert_array_equal(found, want)
    assert view.boxes == (tuple(slice(0, size) for size in (40, 40, 48)),)
    assert seen == all_seen == view.windows == view.all_windows
    assert view.worth == view.patches == 10 * 10 * 12


@pytest.mark.parametrize("inferer", INFERERS, ids=["fast", "sliding"])
def test_a_scan_twice_as_long_takes_as_many_windows(inferer):
    look = Look(1.0, 1)
    want, view, seen = predicted(a_scan(), look, inferer=inferer)
    assert 0 < seen == view.windows < view.all_windows
    assert (want == 1).any()
    for longer in (a_scan(length=96), a_scan(length=96, legs=48, tissue=0.3)):
        found, other, now = predicted(longer, look, inferer=inferer)
        assert now == seen == other.windows
        assert other.all_windows > view.all_windows
        assert other.boxes == view.boxes
        np.testing.assert_array_equal(found[..., :48], want)
        assert not found[..., 48:].any()


def test_a_rare_organ_far_away_gets_windows_of_its_own():
    volume = a_scan(length=96)
    volume.image[:, 18:22, 18:22, 84:88] = 2.0
    labels, view, seen = predicted(volume, Look(1.0, 1))
    assert (labels[18:22, 18:22, 84:88] == 1).all()
    assert len(view.boxes) == 2
    _, other, others = predicted(a_scan(length=96), Look(1.0, 1))
    assert seen == others + 1 == view.windows
    # nothing is predicted between the two, and the record says so
    between = voxels_of(view.boxes[0]) | voxels_of(view.boxes[1])
    assert not labels[~between].any()
    assert view.record() == {
        "boxes": 2,
        "patches": 10 * 10 * 24,
        "worth": other.worth + int((volume.image[0, 16:24, 16:24, 84:88] > 1).any()) * 4,
        "voxels": int(between.sum()),
        "all_voxels": 40 * 40 * 96,
        "windows": seen,
        "all_windows": view.all_windows,
    }


def test_a_scan_without_anything_worth_it_is_background():
    volume = a_scan()
    labels, view, seen = predicted(volume, Look(5.0, 1))
    assert (seen, view.windows, view.boxes) == (0, 0, ())
    assert not labels.any()


def test_boxes_lie_on_the_grid_of_the_file():
    """With another spacing and flipped axes, the labels of an organ in a box are those of the whole prediction."""
    volume = a_scan()
    source = volume.affine @ np.diag([-0.6, 1.0, 0.7, 1.0])
    source[:3, 3] = [78.0, 0.0, 0.0]
    volume = Volume(volume.image, None, volume.affine, (65, 40, 68), source)
    want, _, _ = predicted(volume, None)
    found, view, _ = predicted(volume, Look(1.0, 1))
    assert len(view.boxes) == 1
    assert view.windows < view.all_windows
    organs = want == 1
    assert organs.any()
    assert (found[organs] == 1).mean() > 0.99
    assert (found == 1).sum() == pytest.approx(organs.sum(), rel=0.01)
