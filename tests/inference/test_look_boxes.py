"""What a first look chooses of a scan: parts, thresholds that keep organs, and windows that air does not add to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from little_volumes import random_network
from scipy import ndimage, stats
from torch import nn

from sct.data.cases import Volume
from sct.data.outputs import numbered
from sct.inference import FastSlidingWindow, SlidingWindow, predict_volume
from sct.inference.look import Look, left_out, look_at, miss_bound, parts_of, safe_threshold
from sct.inference.tiling import window_starts
from sct.inference.wanted import Wanted, windows_for
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


@pytest.mark.parametrize("context", [False, True])
def test_parts_are_disjoint_and_hold_every_window(context):
    shape, patch, window = (40, 43, 97), (4, 4, 8), (16, 16, 32)
    numbers = set()
    for seed, share in enumerate((0.0005, 0.002, 0.01, 0.05)):
        worth = torch.rand((10, 11, 13), generator=torch.Generator().manual_seed(seed)) < share
        windows = windows_for(worth, patch=patch, shape=shape, window=window, context=context)
        parts = parts_of(Wanted(worth, patch, windows), shape=shape, window=window)
        covered, wanted, placed = np.zeros(shape, dtype=int), np.zeros(shape, dtype=bool), set()
        for part in parts:
            covered[part.box] += 1
            for edge, unit, size, length in zip(part.box, patch, shape, window, strict=True):
                assert edge.start % unit == 0
                assert edge.stop - edge.start >= min(length, size)
            inside = tuple(slice(0, edge.stop - edge.start) for edge in part.box)
            wanted[part.box] |= part.wanted.voxels(inside).numpy()
            for place in part.wanted.windows:
                placed.add(tuple(at + edge.start for at, edge in zip(place, part.box, strict=True)))
        assert covered.max(initial=0) <= 1
        assert placed == set(windows)
        whole = Wanted(worth, patch, windows).voxels(tuple(slice(0, size) for size in shape))
        np.testing.assert_array_equal(wanted, whole)
        numbers.add(len(parts))
    assert len(numbers) > 1
    nothing = Wanted(torch.zeros((10, 11, 13), dtype=torch.bool), patch, ())
    assert parts_of(nothing, shape=shape, window=window) == ()


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
def test_patches_near_one_worth_predicting_are_predicted_with_it(margin):
    """The share that a threshold keeps is that of a prediction without the outermost patches of its margin."""
    logits = torch.rand((6, 7, 8), generator=torch.Generator().manual_seed(0))
    for threshold in (0.9, 0.99):
        look = Look(threshold, margin)
        for found, reach in (
            (look.near(logits) >= threshold, max(0, margin - 1)),
            (look.predicted(logits), margin),
        ):
            want = np.zeros(logits.shape, dtype=bool)
            for place in np.argwhere((logits >= threshold).numpy()):
                want[tuple(slice(max(0, at - reach), at + reach + 1) for at in place)] = True
            np.testing.assert_array_equal(found.numpy(), want)


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
    bright = (
        volume.image[0].unflatten(2, (-1, 4)).amax(3).unflatten(1, (-1, 4)).amax(2).unflatten(0, (-1, 4)).amax(1) > 1
    )
    assert view.record() == {
        "boxes": 2,
        "patches": 10 * 10 * 24,
        "worth": other.worth + int((volume.image[0, 16:24, 16:24, 84:88] > 1).any()) * 4,
        "voxels": int(ndimage.binary_dilation(bright, np.ones((3, 3, 3))).sum()) * PATCH**3,
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


@pytest.mark.parametrize("shear", [0.0, 1.0])
def test_a_part_leaves_the_labels_of_others(shear):
    """Of sheared files, the blocks of two parts overlap."""
    volume = a_scan(length=40)
    volume.image[:] = -1
    volume.image[:, 16:20, 12:20, 8:12] = 2.0
    volume.image[:, 16:20, 28:32, 8:12] = 2.0
    source = volume.affine.copy()
    source[:3, :3] = source[:3, :3] @ np.array([[1, 0, 0], [0, 1, shear], [0, 0, 1]])
    volume = Volume(volume.image, None, volume.affine, (40, 40, 40), source)
    want, _, _ = predicted(volume, None)
    found, view, _ = predicted(volume, Look(1.0, 1), inferer=FastSlidingWindow(overlap=0.25))
    assert len(view.boxes) == 2
    organs = want == 1
    assert organs.sum() > 100
    assert (found[organs] == 1).mean() > 0.97


class Slices(Counting):
    def __init__(self, **_):
        nn.Module.__init__(self)
        self.network, self.seen, self.passes = random_network(spatial_dims=2, num_channels=CLASSES), 0, 0

    def forward(self, image):
        self.passes += 1
        return super().forward(image)


def test_slices_that_follow_each_other_are_one_part():
    """In one batch, with the voxels of the file between them."""
    model = little_network()
    model.decoder.counting = Slices()
    model.encoder = ImageOnly(image_size=(16, 16), in_channels=1)
    model.look = Bright(spec=model.encoder.spec, patch_size=(PATCH, PATCH))
    data = SimpleNamespace(roi_size=(16, 16), outputs=numbered(CLASSES))
    image = torch.full((1, 12, 40, 40), -1.0)
    image[:, 4:8, 10:20, 12:24] = 2.0
    affine = np.diag([4.0, 1.0, 1.0, 1.0])
    finer = np.diag([2.0, 1.0, 1.0, 1.0])
    volume = Volume(image, None, affine, (23, 40, 40), finer)
    inferer, settings = FastSlidingWindow(batch_size=99), {"outputs": data.outputs, "device": CPU, "roi_size": (16, 16)}
    want = predict_volume(model, volume, inferer, **settings)
    model.decoder.counting.passes = 0
    view = look_at(model, image, Look(1.0, 1), inferer=inferer, data=data, device=CPU)
    found = predict_volume(model, volume, inferer, view=view, **settings)
    assert len(view.boxes) == 1
    assert model.decoder.counting.passes == 1
    # the margin is one of slices too
    assert view.boxes[0][0] == slice(2, 10)
    organs = want == 1
    assert organs.sum() > 500
    np.testing.assert_array_equal(found[organs], 1)
