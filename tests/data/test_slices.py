"""Volumes before a 2-D network, slice by slice: training, validation, evaluation and measuring need nothing special."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from little_data import Arrays, scale
from PIL import Image

from sct.config.command import compose_config
from sct.data.cases import Case, LabelMap
from sct.data.formats.base import FileFormat
from sct.data.module import SegmentationData
from sct.evaluation.case import CaseFiles, evaluate_case
from sct.evaluation.scores import write_report
from sct.inference import Request
from sct.profiling.windows import sample_windows
from sct.runs.build import build_inferer, build_segmenter
from sct.runtime.distributed import Processes
from sct.training.validation import sample_overlay, validate

CPU = torch.device("cpu")
SHAPE = (4, 21, 18)  # slices, rows, columns


@dataclass(kw_only=True)
class Slices(SegmentationData):
    """Three volumes of two classes."""

    @property
    def label_map(self) -> LabelMap:
        return LabelMap(("background", "low", "high"))

    @property
    def num_channels(self) -> int:
        return 1

    @property
    def format(self) -> FileFormat:
        return Arrays()

    def find_cases(self) -> list[Case]:
        return [Case(name, Path(self.root) / f"{name}.npy", Path(self.root) / f"{name}_label.npy") for name in "abc"]


@pytest.fixture
def data(tmp_path: Path) -> Slices:
    for number, name in enumerate("abc"):
        label = np.zeros(SHAPE, dtype=np.uint8)
        label[1:3, 4:10, 3:9], label[2, 12:18, 5:14] = 1, 2
        image = np.random.default_rng(number).normal(size=SHAPE) * 20 + 300.0 * label
        np.save(tmp_path / f"{name}.npy", image.astype(np.float32))
        np.save(tmp_path / f"{name}_label.npy", label)
    settings = {"cache_dir": str(tmp_path / "cache"), "intensity": scale(), "val_share": 0.34, "test_share": 0.34}
    return Slices(root=str(tmp_path), roi_size=[16, 16], resize_to=[16, 16], **settings)


@pytest.fixture
def cfg():
    sizes = ["encoder.patch_size=4", "encoder.dim=24", "encoder.num_heads=2", "encoder.depth=3", "decoder=fcn"]
    return compose_config("train", overrides=["+experiment=demo", *sizes, "trainer.precision=fp32"])


def test_a_volume_is_evaluated_slice_by_slice(data, cfg, tmp_path):
    torch.manual_seed(0)
    segmenter = build_segmenter(cfg, data=data).eval()
    (case,) = data.cases("test")
    inferer = build_inferer(cfg)
    rows, kept = evaluate_case(
        case,
        data=data,
        network=segmenter,
        inferer=inferer,
        device=CPU,
        dtype=torch.float32,
        files=CaseFiles(tmp_path / "eval", labels=True, picture=True, title="slices"),
    )
    labels = np.load(tmp_path / "eval" / "predictions" / f"{case.id}.npy")
    assert labels.shape == SHAPE
    # every slice is what the network makes of it alone
    volume = data.load_case(case)
    request = Request(data.roi_size, data.outputs.background, CPU)
    for index, plane in enumerate(volume.image.unbind(1)):
        alone = inferer(segmenter, plane, request).argmax(dim=0).float()
        whole = inferer(segmenter, volume.image, request)[:, index].argmax(dim=0).float()
        torch.testing.assert_close(whole, alone)
    # of 16 patches of a slice, at the demo's ratio of one half
    assert kept["tokens/alive_1"] == pytest.approx(8)
    assert kept["tokens/kept_1"] == kept["patches/kept_1"] == pytest.approx(0.5)
    assert Image.open(tmp_path / "eval" / "figures" / f"{case.id}.png").width > 400
    write_report(tmp_path / "eval", rows, title="slices", scores=data.scores)
    with (tmp_path / "eval" / "cases.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == ["low", "high"]
    assert all(line["hd95_voxel"] and not line["hd95_mm"] for line in lines)


def test_validation_overlay_windows_and_batches(data, cfg):
    segmenter = build_segmenter(cfg, data=data).eval()
    processes = Processes(rank=0, world_size=1, device=CPU)
    row = validate(segmenter, data=data, inferer=build_inferer(cfg), processes=processes, dtype=torch.float32)
    assert 0 <= row["val/dice/mean"] <= 1
    assert sample_overlay(segmenter, data=data, device=CPU).shape[2] == 3
    assert sample_windows(data, count=3).shape == (3, 1, 16, 16)
    for batch in data.train_loader(seed=0, start_step=0, num_steps=2):
        assert batch["image"].shape == (2, 1, 16, 16)
        assert batch["label"].shape == (2, 16, 16)
