"""Little data sets to plan for, each in the layout that its command names; made by hand, all voxels known."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (20, 18, 12)


def save(path: Path, voxels: np.ndarray, *, spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)


def label_map(*, values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """A block of 4 x 4 x 4 of every value, side by side along the first axis."""
    label = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values):
        label[2 + 6 * place : 6 + 6 * place, 5:9, 3:7] = value
    return label


def mri(folder: Path, *, num_cases: int = 6, channel: str = "MRI") -> list[str]:
    """The Decathlon's layout: one channel, classes left_organ and lesion."""
    rng = np.random.default_rng(0)
    names = [f"c{case}.nii.gz" for case in range(num_cases)]
    for name in names:
        label = label_map()
        save(folder / "imagesTr" / name, rng.normal(100 + 50 * label, 5).astype(np.float32))
        save(folder / "labelsTr" / name, label)
    described = {
        "modality": {"0": channel},
        "labels": {"0": "background", "1": "left_organ", "2": "lesion"},
        "training": [{"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in names],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return [f"data.root={folder}"]


def thick(folder: Path) -> list[str]:
    """The Decathlon's layout with thick slices: 40 x 36 x 12 voxels of 0.8 x 0.8 x 5 mm."""
    described = mri(folder)
    for part in ("imagesTr", "labelsTr"):
        for path in (folder / part).glob("*.nii.gz"):
            voxels = np.asarray(nib.load(path).dataobj)
            save(path, np.repeat(np.repeat(voxels, 2, axis=0), 2, axis=1), spacing=(0.8, 0.8, 5.0))
    return described


def regions(folder: Path) -> list[str]:
    """The same, two overlapping regions to predict, and most of an image is 0."""
    mri(folder)
    for path in (folder / "imagesTr").glob("*.nii.gz"):
        voxels = np.asarray(nib.load(path).dataobj).copy()
        voxels[:, :3] = voxels[:, -6:] = voxels[..., :2] = voxels[..., -3:] = 0
        save(path, voxels)
    return [f"data.root={folder}", "data.regions={both:[1,2],lesion:[2]}"]


def one_ct(folder: Path) -> list[str]:
    """BTCV's layout with a single CT: a body of 0 HU in air, liver (6) of 60, spleen (1) of 100."""
    label = label_map(values=(1, 6))
    image = np.full(SHAPE, -1000, np.int16)
    image[1:-2, 2:-2, 1:-1] = 0
    image[label == 1], image[label == 6] = 100, 60
    image[label > 0] += np.arange((label > 0).sum(), dtype=np.int16) % 20
    training = folder / "RawData/Training"
    save(training / "img/img0001.nii.gz", image)
    save(training / "label/label0001.nii.gz", label)
    return ["data=btcv", f"data.root={folder}"]


def pictures(folder: Path) -> list[str]:
    """ISIC's layout: 6 pictures of 90 x 120 with a lesion of 30 x 40."""
    rng = np.random.default_rng(0)
    images, masks = folder / "ISIC2018_Task1-2_Training_Input", folder / "ISIC2018_Task1_Training_GroundTruth"
    images.mkdir(parents=True)
    masks.mkdir()
    mask = np.zeros((90, 120), np.uint8)
    mask[30:60, 40:80] = 255
    for number in range(6):
        pixels = rng.integers(0, 99, (90, 120, 3)).astype(np.uint8)
        pixels[mask > 0] += 100
        Image.fromarray(pixels).save(images / f"ISIC_{number:07d}.jpg")
        Image.fromarray(mask).save(masks / f"ISIC_{number:07d}_segmentation.png")
    return ["data=isic", f"data.root={folder}"]


def nnunet(folder: Path) -> list[str]:
    """nnU-Net's layout: CT and PET, two regions, a slab to ignore."""
    rng = np.random.default_rng(0)
    for case in range(6):
        label = label_map()
        label[:, :, -2:] = 3
        for channel in range(2):
            save(folder / f"imagesTr/c{case}_{channel:04d}.nii.gz", rng.normal(50 * label, 5).astype(np.float32))
        save(folder / f"labelsTr/c{case}.nii.gz", label)
    described = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "both": [1, 2], "lesion": [2], "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return ["data=nnunet", f"data.root={folder}"]


SETS = {"mri": mri, "regions": regions, "one_ct": one_ct, "pictures": pictures, "nnunet": nnunet}
