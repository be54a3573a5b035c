"""Label maps that `sct.predict` writes."""

from pathlib import Path

import nibabel as nib
import numpy as np
from commands import run_command

from sct import predict


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def predicted(run: Path, image: Path, output: Path, *settings: str) -> np.ndarray:
    outcome = run_command(predict.main, f"ckpt={run}", f"input={image}", f"output={output}", *settings)
    assert outcome.status == 0, outcome.err
    return labels_of(output / image.name)
