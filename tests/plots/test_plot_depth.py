"""Pruning depth over the anatomy: each token drawn at its own place of the source file, however its axes lie.

Letters: S spatial size.
"""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensityRanged
from omegaconf import OmegaConf
from torch import Tensor

from sct.data.sets.msd import MSD
from sct.errors import UserError
from sct.models.blocks.layers import AttentionStats
from sct.models.encoder import ViTEncoder
from sct.models.reducers.base import Reducer, Reduction, split_top_k
from sct.models.tokens import FeatureSpec, Tokens
from sct.plots.commands.depth import row_of
from sct.plots.depth import (
    EXITED,
    PRUNED,
    QUERIES,
    Depth,
    DepthRow,
    depths_of,
    draw_depth,
    heads,
    stage_shares,
    views_of,
)
from sct.plots.planes import enlarge, view
from sct.runs.run import Run

# a file of (foot to head, right to left, front to back): its axes run down, to the right and to the back
SHAPE, SPACING = (12, 20, 24), (3.0, 1.0, 2.0)
WINDOW = [16, 16, 8]
# its corner at the head, the right and the back, and the half of it that is furthest to the right
CORNER = (slice(0, 4), slice(12, 20), slice(20, 24))
TIP = (slice(0, 4), slice(16, 20), slice(20, 24))


class Corner(Reducer):
    """Keeps the tokens of the corner, then that of its tip, by their places in the grid (4, 4, 2) of RAS axes."""

    def __init__(self, *, blocks: tuple[int, ...], spec: FeatureSpec) -> None:
        super().__init__(blocks=blocks)
        assert spec.grid == (4, 4, 2)

    def forward(self, tokens: Tokens, *, stage: int, stats: AttentionStats) -> Reduction:
        wanted = torch.zeros(4, 4, 2)
        wanted[2 + stage :, 0, 1] = 1
        kept, dropped = split_top_k(wanted.flatten()[tokens.index], k=2 - stage)
        return Reduction(tokens.take(kept), tokens.take(dropped))


def oblique() -> np.ndarray:
    """Affine of the file: axes to the foot, the right and the back, turned by 15 and 20 degrees."""
    a, b = np.deg2rad((15, 20))
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    axes = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = turn_z @ turn_x @ axes * SPACING
    affine[:3, 3] = (-40, 30, 70)
    return affine


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A network that keeps one corner, on three copies of a file in which it is bright and labelled."""
    image = np.zeros(SHAPE, np.float32)
    image[CORNER], image[TIP] = 500, 1000
    label = np.zeros(SHAPE, np.uint8)
    label[CORNER] = 1
    label[3, 12:16, 20:24] = 0  # so that most of it is in the planes of the tip
    names = [f"case{number}" for number in range(3)]
    for folder, voxels in (("imagesTr", image), ("labelsTr", label)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for name in names:
            nib.save(nib.Nifti1Image(voxels, oblique()), tmp_path / "set" / folder / f"{name}.nii.gz")
    entries = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
    labels = {"0": "background", "1": "organ"}
    (tmp_path / "set/dataset.json").write_text(
        json.dumps({"labels": labels, "modality": {"0": "MR"}, "training": entries})
    )
    data = MSD(
        root=str(tmp_path / "set"),
        roi_size=WINDOW,
        intensity=ScaleIntensityRanged(keys=["image"], a_min=0, a_max=1000, b_min=0, b_max=1),
        cache_dir=str(tmp_path / "cache"),
        val_share=0.34,
        test_share=0.34,
    )
    encoder = ViTEncoder(
        image_size=WINDOW, in_channels=1, patch_size=4, dim=8, depth=2, num_heads=2,
        reducer=partial(Corner, blocks=(1, 2)),
    ).eval()  # fmt: skip
    cfg = OmegaConf.create({"name": "corner"})
    segmenter = SimpleNamespace(encoder=encoder)
    return SimpleNamespace(
        source="corner", folder=tmp_path, config=cfg, data=data, network=segmenter, device=torch.device("cpu")
    )


@pytest.fixture
def row(run: Run) -> DepthRow:
    return row_of(run, "case0", planes=("axial", "coronal", "sagittal"))


def test_the_corner_of_the_file_is_at_the_right_the_back_and_the_head() -> None:
    affine = oblique()
    assert nib.aff2axcodes(affine) == ("I", "R", "P")
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), SPACING)
    corner = affine @ (1.5, 15.5, 21.5, 1)
    middle = affine @ (5.5, 9.5, 11.5, 1)
    assert np.sign(corner - middle).tolist() == [1, -1, 1, 0]


def test_tokens_are_drawn_over_the_voxels_of_the_file_that_they_stand_for(row: DepthRow) -> None:
    figure = draw_depth([row], title="t", about="a")
    axes = figure.axes
    assert len(axes) == 3 * 4
    for number, aspect in enumerate((2.0, 3.0, 1.5)):
        image, depth, first, second = axes[4 * number : 4 * number + 4]
        picture = np.asarray(image.images[0].get_array())[..., 0]
        drawn = enlarge(np.asarray(depth.images[-1].get_array().filled(0)), picture.shape)
        # values of the file: 1000 in the tip, 500 in the rest of the corner
        np.testing.assert_array_equal(drawn == 2, picture == 255)
        np.testing.assert_array_equal(drawn == 1, (picture > 100) & (picture < 150))
        assert (drawn == 2).sum() == 16  # the tip, 4 voxels a side, is cut by every plane
        for stage, panel in ((1, first), (2, second)):
            shown = np.asarray(panel.images[0].get_array())[..., 0]
            # what is left behind is three quarters white
            np.testing.assert_array_equal(shown < 191, (drawn >= stage) & (picture < 191))
            np.testing.assert_array_equal(shown[drawn >= stage], picture[drawn >= stage])
        assert [panel.get_aspect() for panel in (image, depth, first, second)] == [pytest.approx(aspect)] * 4


def test_planes_show_right_and_front_on_the_left_and_the_head_above(row: DepthRow) -> None:
    axial, coronal, sagittal = (where.of(row.depth.stages) for where in row.views)
    # the tip is furthest to the right, then comes the rest of the corner
    assert axial[-1].tolist() == [2, 1, 0, 0]  # back: below
    assert coronal[0].tolist() == [2, 1, 0, 0]  # head: above
    assert sagittal[0].tolist() == [0, 0, 0, 2]
    assert [(plane > 0).sum() for plane in (axial, coronal, sagittal)] == [2, 2, 1]
    assert [where.note for where in row.views] == ["slice 6 of 8", "slice 1 of 16", "slice 13 of 16"]


def test_shares_of_foreground_beside_those_of_all(row: DepthRow) -> None:
    assert row.shares == [(1.0, pytest.approx(2 / 32)), (0.5, pytest.approx(1 / 32))]
    figure = draw_depth([row], title="t", about="a")
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == [
        "foreground 100.0%\nat random 6.2%",
        "foreground 50.0%\nat random 3.1%",
    ]
    empty = stage_shares(row.depth, torch.zeros(16, 16, 8, dtype=torch.long), patch_size=(4, 4, 4))
    assert [share for share, _ in empty] == [None, None]


def legend_of(depth: Depth) -> list[str]:
    truth = np.zeros((4, 4), int)
    shown = view(np.zeros((1, 4, 4)), truth, spacing=(1, 1))
    figure = draw_depth([DepthRow("a", [shown], truth, depth, [(None, 0.5)] * depth.num_stages)], title="t", about="a")
    legend = figure.legends[0]
    assert legend.get_title().get_text() == "t"
    return [text.get_text() for text in legend.get_texts()]


def test_words_are_those_of_the_method() -> None:
    stages = np.zeros((2, 2), int)
    assert legend_of(Depth(stages, 2, PRUNED)) == ["dropped at stage 1", "dropped at stage 2", "kept to the end"]
    assert legend_of(Depth(stages, 2, EXITED)) == ["exited at stage 1", "exited at stage 2", "computed to the end"]
    assert legend_of(Depth(stages, 1, QUERIES)) == ["pruned query", "query"]
    assert heads(Depth(stages, 2, EXITED))[1:] == [
        "Exited tokens per stage",
        "Not exited after stage 1",
        "Not exited after stage 2",
    ]


def test_counts_by_hand() -> None:
    depth = Depth(np.array([[0, 1], [2, 2]]), 2, PRUNED)
    assert depth.counts() == [3, 2]
    assert depth.alive(2).tolist() == [[False, False], [True, True]]


def test_a_picture_has_one_plane() -> None:
    (only,) = views_of(np.zeros((3, 4, 6)), np.zeros((4, 6), int), spacing=(1, 1), planes=("axial", "coronal"))
    assert only.depth == 1


def test_a_dense_network_says_so() -> None:
    encoder = ViTEncoder(image_size=[8, 8], in_channels=1, patch_size=4, dim=8, depth=1, num_heads=2)
    with pytest.raises(UserError, match="prunes no tokens"):
        depths_of(encoder, Tensor(1, 1, 8, 8))
