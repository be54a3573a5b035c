"""Normalisation by the name of a channel, and statistics over the training cases, against numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from little_data import save

from sct.data.cases import Case, LabelMap
from sct.data.formats.base import Nifti
from sct.data.formats.channels import Channels
from sct.data.loading import intensity
from sct.data.loading.intensity import ByChannelName, Statistics, measure
from sct.errors import UserError

MAP = LabelMap(("background", "organ"), has_ignored=True)
FORMAT = Channels(Nifti(3), ".nii.gz", 2)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    for number in range(3):
        rng = np.random.default_rng(number)
        label = rng.integers(0, 3, (6, 5 + number, 4)).astype(np.uint8)
        for channel, offset in enumerate((0, 1000)):
            image = rng.normal(offset + 30 * number, 50, label.shape).astype(np.float32)
            save(tmp_path / f"c{number}_{channel:04d}.nii.gz", image, affine=np.eye(4))
        image_path = tmp_path / f"c{number}_0000.nii.gz"
        found.append(Case(f"c{number}", image_path, save(tmp_path / f"l{number}.nii.gz", label, affine=np.eye(4))))
    return found


def foreground(cases: list[Case], channel: int) -> np.ndarray:
    parts = []
    for case in cases:
        image, label = FORMAT.read_image(case.image)[0], FORMAT.read_label(case.label)[0]
        parts.append(image[channel][label == 1])
    return np.concatenate(parts).astype(np.float64)


def test_statistics_are_of_the_foreground_of_all_training_cases(cases: list[Case]) -> None:
    rows = measure(cases, channels=["MR", "ct"], label_map=MAP, file_format=FORMAT, memory=None)
    values = foreground(cases, 1)
    assert rows[0] is None
    assert rows[1] == pytest.approx((values.mean(), values.std(), *np.percentile(values, (0.5, 99.5))), rel=1e-6)


def test_many_voxels_are_thinned_evenly(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "_SAMPLED", 60)
    (row, _) = measure(cases, channels=["CT", "MR"], label_map=MAP, file_format=FORMAT, memory=None)
    values = foreground(cases, 0)
    assert row is not None
    assert row[:2] == pytest.approx((values.mean(), values.std()), rel=1e-6), "of all voxels"
    kept = []
    for case in cases:
        own = foreground([case], 0)
        kept.append(own[:: -(-len(own) // 20)])
    assert row[2:] == pytest.approx(np.percentile(np.concatenate(kept), (0.5, 99.5)), rel=1e-6)


def test_they_are_remembered_until_a_file_changes(
    cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> list[Statistics | None]:
        memory = tmp_path / "cache" / "statistics.json"
        return measure(cases, channels=["CT", "MR"], label_map=MAP, file_format=FORMAT, memory=memory)

    first = measured()
    with monkeypatch.context() as patch:
        patch.setattr(intensity, "_foregrounds", lambda *given, **more: pytest.fail("read again"))
        assert measured() == first
    save(cases[0].image, np.full((6, 5, 4), 500, dtype=np.float32), affine=np.eye(4))
    assert measured() != first


def test_no_foreground_is_told(cases: list[Case]) -> None:
    for case in cases:
        shape = FORMAT.read_label(case.label)[0].shape
        save(case.label, np.full(shape, 2, np.uint8), affine=np.eye(4))
    with pytest.raises(UserError, match="No training case has a foreground voxel"):
        measure(cases, channels=["CT", "MR"], label_map=MAP, file_format=FORMAT, memory=None)


def test_every_channel_goes_by_its_name() -> None:
    image = np.random.default_rng(0).normal(100, 60, (6, 4, 5, 3)).astype(np.float32)
    names = ("CT", "noNorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "FLAIR")
    transform = ByChannelName(names, (Statistics(90, 40, 20, 180), *[None] * 5))
    found = transform({"image": torch.from_numpy(image.copy())})["image"].numpy()
    expected = [
        (np.clip(image[0], 20, 180) - 90) / 40,
        image[1],
        (image[2] - image[2].mean()) / image[2].std(),
        (image[3] - image[3].min()) / np.ptp(image[3]),
        image[4] / 255,
        (image[5] - image[5].mean()) / image[5].std(),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    empty = ByChannelName(("MR", "rescale_to_0_1"), (None, None))({"image": torch.full((2, 3, 3), 7.0)})["image"]
    assert not empty.any(), "a constant channel is 0, and finite"
