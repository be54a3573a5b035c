"""ISIC 2018's folders: pairs by name, the sizes of the split, and one message for every bad file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sct.config.check import build
from sct.config.command import compose_config
from sct.data.cases import Case
from sct.data.sets.isic import IMAGES, ISIC, MASKS
from sct.data.splits import split_at_random
from sct.errors import UserError
from sct.inference import to_source_grid


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five pictures of different sizes with a lesion each, and what else the challenge's folders hold."""
    folder = tmp_path / "isic"
    (folder / IMAGES).mkdir(parents=True)
    (folder / MASKS).mkdir()
    for number in range(5):
        rng = np.random.default_rng(number)
        shape = (40 + 3 * number, 60)
        mask = np.zeros(shape, dtype=np.uint8)
        mask[10 : 20 + number, 20:40] = 255
        pixels = (rng.uniform(150, 200, (*shape, 3)) - 80 * (mask[..., None] > 0)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / IMAGES / f"ISIC_{number:07d}.jpg")
        Image.fromarray(mask).save(folder / MASKS / f"ISIC_{number:07d}_segmentation.png")
    for text in ("ATTRIBUTION.txt", "LICENSE.txt"):
        (folder / IMAGES / text).write_text("terms")
        (folder / MASKS / text).write_text("terms")
    Image.fromarray(pixels).save(folder / IMAGES / "ISIC_0000000_superpixels.png")
    return folder


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Callable[..., ISIC]:
    """The data set of configs/data/isic.yaml on `root`, small and split at random."""

    def make_isic(*overrides: str) -> ISIC:
        settings = ["data.split=null", "data.roi_size=[32,32]", "data.resize_to=[32,32]", "data.test_share=0.2"]
        paths = [f"data.root={root}", f"data.cache_dir={tmp_path}/cache"]
        cfg = compose_config("train", overrides=["data=isic", *settings, *paths, *overrides])
        return build(cfg.data, key="data")

    return make_isic


def image(root: Path) -> Path:
    return root / IMAGES / "ISIC_0000002.jpg"


def mask(root: Path) -> Path:
    return root / MASKS / "ISIC_0000002_segmentation.png"


def test_pairs_are_found_and_the_rest_is_left_alone(make: Callable) -> None:
    data = make()
    cases = data.find_cases()
    assert [case.id for case in cases] == [f"ISIC_{number:07d}" for number in range(5)]
    data.prepare()
    assert (data.num_classes, data.num_channels, data.spatial_dims) == (2, 3, 2)


def test_png_inputs_are_read_too(make: Callable, root: Path) -> None:
    Image.open(image(root)).save(image(root).with_suffix(".png"))
    with pytest.raises(UserError, match=r"both ISIC_0000002\.jpg and ISIC_0000002\.png"):
        make().prepare()
    image(root).unlink()
    assert make().find_cases()[2].image == image(root).with_suffix(".png")
    make().prepare()


def grey_levels(root: Path) -> None:
    Image.fromarray(np.asarray(Image.open(mask(root))) // 2).save(mask(root))


def half_size(root: Path) -> None:
    Image.open(mask(root)).resize((30, 20), Image.Resampling.NEAREST).save(mask(root))


FAULTS = {
    "grey level": (grey_levels, "ISIC_0000002_segmentation.png", "grey level"),
    "size": (half_size, "ISIC_0000002_segmentation.png", "Resample the label"),
    "no image": (lambda root: image(root).unlink(), "ISIC_0000002.jpg", "does not exist"),
    "no mask": (lambda root: mask(root).unlink(), "ISIC_0000002_segmentation.png", "has no label"),
    "truncated image": (lambda root: truncate(image(root)), "ISIC_0000002.jpg", "cannot be read"),
    "truncated mask": (lambda root: truncate(mask(root)), "ISIC_0000002_segmentation.png", "cannot be read"),
    "no picture": (lambda root: image(root).write_bytes(b"hello"), "ISIC_0000002.jpg", "cannot be read"),
    "empty": (lambda root: image(root).write_bytes(b""), "ISIC_0000002.jpg", "cannot be read"),
}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_file_gives_one_message(make: Callable, root: Path, kind: str) -> None:
    spoil, name, reason = FAULTS[kind]
    spoil(root)
    with pytest.raises(UserError, match=r"1 fault\(s\) in 5 cases") as caught:
        make().prepare()
    assert name in str(caught.value)
    assert reason in str(caught.value)
    assert "ISIC_0000001" not in str(caught.value)


def test_missing_folders_say_where_to_download(make: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(f"data.root={tmp_path}/nowhere").prepare()
    for part in ("data.root", "nowhere", IMAGES, MASKS, "challenge.isic-archive.com"):
        assert part in str(caught.value)


def test_the_shares_give_the_papers_sizes_on_2594_images() -> None:
    data = compose_config("train", overrides=["data=isic"]).data
    cases = [Case(f"ISIC_{number:07d}", Path("a"), None) for number in range(2594)]
    splits = split_at_random(cases, val_share=data.val_share, test_share=data.test_share, seed=data.split_seed)
    assert {name: len(part) for name, part in splits.items()} == {"train": 1815, "val": 261, "test": 518}


def test_a_case_is_resized_normalised_and_brought_back(make: Callable) -> None:
    data = make()
    data.prepare()
    volume = data.load_case(data.find_cases()[3])
    assert volume.image.shape == (3, 32, 32)
    assert -1 <= volume.image.min() < 0 < volume.image.max() <= 1
    assert volume.source_shape == (49, 60)
    logits = torch.nn.functional.one_hot(volume.label, 2).movedim(-1, 0).float()
    back = to_source_grid(
        logits,
        outputs=data.outputs,
        affine=volume.affine,
        source_shape=volume.source_shape,
        source_affine=volume.source_affine,
    )
    truth = np.zeros((49, 60), dtype=np.uint8)
    truth[10:23, 20:40] = 1
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.9


def test_training_pictures_stay_in_range_and_with_their_masks(make: Callable) -> None:
    """The lesion is darker than the skin before and after every augmentation."""
    data = make("data.batch_size=3")
    inside, outside = [], []
    for batch in data.train_loader(seed=0, start_step=0, num_steps=8):
        assert batch["image"].shape == (3, 3, 32, 32)
        assert batch["image"].isfinite().all()
        assert batch["image"].min() >= -1.001
        assert batch["image"].max() <= 1.001
        assert set(batch["label"].unique().tolist()) <= {0, 1}
        for picture, label in zip(batch["image"], batch["label"], strict=True):
            inside.append(picture[:, label == 1].mean().item())
            outside.append(picture[:, label == 0].mean().item())
    assert np.mean(np.array(outside) > np.array(inside) + 0.2) == 1
    assert np.std(inside) > 0.05  # contrast and gamma do something


def test_real_pictures(make: Callable, real_data: Callable) -> None:
    data = make(f"data.root={real_data('isic_sample')}")
    data.prepare()
    assert sum(len(data.cases(part)) for part in ("train", "val", "test")) == 16
    volume = data.load_case(data.cases("test")[0])
    assert volume.image.shape == (3, 32, 32)
    assert 0 < volume.label.float().mean() < 1
