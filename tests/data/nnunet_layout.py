"""Decathlon folders, and the same data in nnU-Net's layout."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from little_data import save


def write_msd(
    root: Path,
    *,
    num_cases: int = 6,
    channels: Sequence[str] = ("MRI",),
    shape: tuple[int, int, int] = (20, 18, 16),
    ignored: bool = False,
) -> Path:
    """Cases with a box of label 1, one of label 2 in it, and where asked for a slab of label 3 to ignore."""
    affine = np.diag([-1.5, -1.5, 2.0, 1.0])
    entries = []
    for number in range(num_cases):
        rng = np.random.default_rng(number)
        label = np.zeros(shape, dtype=np.uint8)
        a = rng.integers(2, 6, 3)
        label[a[0] : a[0] + 9, a[1] : a[1] + 9, a[2] : a[2] + 8] = 1
        label[a[0] : a[0] + 5, a[1] : a[1] + 5, a[2] : a[2] + 5] = 2
        image = rng.normal(100, 20, (*shape, len(channels))).astype(np.float32)
        image += (80 * label.astype(np.float32))[..., None]
        if ignored:
            label[:, :, -3:] = 3
        name = f"case_{number:03d}.nii.gz"
        save(root / "imagesTr" / name, image[..., 0] if len(channels) == 1 else image, affine=affine)
        save(root / "labelsTr" / name, label, affine=affine)
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    labels = ["background", "outer", "inner", *["ignore"] * ignored]
    description = {
        "modality": {str(n): name for n, name in enumerate(channels)},
        "labels": {str(value): name for value, name in enumerate(labels)},
        "training": entries,
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def as_nnunet(
    source: Path,
    target: Path,
    *,
    labels: dict[str, int | list[int]] | None = None,
    **more: object,
) -> Path:
    """Writes the Decathlon folder `source` in nnU-Net's layout: a file a channel, voxels as they are stored.

    labels: by default those of the source, by name; more: further keys of dataset.json
    """
    about = json.loads((source / "dataset.json").read_text())
    (target / "imagesTr").mkdir(parents=True)
    (target / "labelsTr").mkdir()
    for entry in about["training"]:
        name = Path(entry["image"]).name
        image = nib.load(source / entry["image"])
        voxels = np.asarray(image.dataobj)
        voxels = voxels if voxels.ndim == 4 else voxels[..., None]
        for channel in range(voxels.shape[-1]):
            written = nib.Nifti1Image(voxels[..., channel], image.affine, dtype=voxels.dtype)
            nib.save(written, target / "imagesTr" / name.replace(".nii.gz", f"_{channel:04d}.nii.gz"))
        (target / "labelsTr" / name).write_bytes((source / entry["label"]).read_bytes())
    description = {
        "channel_names": about["modality"],
        "labels": labels or {name: int(value) for value, name in about["labels"].items()},
        "numTraining": len(about["training"]),
        "file_ending": ".nii.gz",
        **more,
    }
    (target / "dataset.json").write_text(json.dumps(description))
    return target
