"""The commands of `sct-plot` on tiny runs: both files are written, with the panels asked for, of the right data."""

import csv
import shutil
import subprocess
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import own_settings, run_command
from PIL import Image

from sct import eval as evaluation
from sct import train
from sct.evaluation.metrics import quick_dice
from sct.plots.__main__ import FIGURES, main
from sct.plots.gate import gate_of
from sct.plots.runs import Run, find_case, load_window, open_run
from sct.runtime import checkpoint

CASES = ("ISIC_0000005", "ISIC_0000006")


def opened(run: Path) -> Run:
    """A run as the figures open it."""
    options = Namespace(weights="best", root=None, device="cpu", plugins=())
    return open_run(str(run), options=options)


def drawn(name: str, *arguments: object) -> Any:
    """The figure of a command line."""
    figure = import_module(f"sct.plots.commands.{name}")
    with own_settings():
        return figure.draw(figure.parser().parse_args(list(map(str, arguments)))).figure


def assert_written(stem: Path, name: str, *arguments: object) -> None:
    """The command writes a PNG that opens and a whole PDF."""
    with own_settings():
        main([name, *map(str, arguments), "--output", str(stem)])
    with Image.open(stem.with_name(f"{stem.name}.png")) as picture:
        picture.load()
        assert picture.width >= 2000
    pdf = stem.with_name(f"{stem.name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    outcome = run_command(
        train.main, "+experiment=isic_small_apformer", "+debug=smoke_isic", "encoder.gate.threshold=0.5",
        "encoder.depth=2", "trainer.tensorboard=false", f"paths.data={folder}/data", f"paths.cache={folder}/cache",
        f"run_dir={folder}/run",
    )  # fmt: skip
    assert outcome.status == 0, outcome
    return folder / "run"


@torch.no_grad()
def test_attention_is_that_of_the_block_and_head(run: Path, tmp_path: Path) -> None:
    arguments = (run, "--case", CASES[0], "--layer", 2, "--head", 2, "--query", 3, 4)
    figure = drawn("attention", *arguments)
    # the query is pruned, so its row after pruning has no scale
    assert len(figure.axes) == 5 + 3
    trained = opened(run)
    encoder = trained.network.encoder
    window = load_window(trained, find_case(trained, CASES[0])[0])
    features, _ = encoder.stem(window.image.unsqueeze(0))
    query_mask = encoder.gate(features)[1]
    x = encoder.blocks[0](encoder.embed(features), encoder.layout(None, query_mask=query_mask))
    block = encoder.blocks[1]
    width = block.attn.head_dim
    q, k = (
        (block.norm1(x)[0] @ block.attn.qkv.weight[start + width : start + 2 * width].T).double()
        for start in (0, block.attn.inner)
    )
    expected = (q @ k.T * width**-0.5 + block.attn.positions()[1]).softmax(dim=-1).numpy()
    before, after = (axes.images[0].get_array() for axes in figure.axes[:2])
    np.testing.assert_allclose(before / 64, expected, rtol=1e-4)
    pruned = np.ma.getmaskarray(after)
    assert 0 < query_mask.sum() < 64
    np.testing.assert_array_equal(pruned.all(axis=1), ~query_mask[0].numpy())
    np.testing.assert_allclose(after.filled(0)[query_mask[0].numpy()].sum(axis=1), 64, rtol=1e-4)
    np.testing.assert_allclose(figure.axes[3].images[-1].get_array().ravel(), before[3 * 8 + 4])
    assert f"{1 - query_mask.float().mean().item():.1%}" in figure.get_suptitle()
    assert_written(tmp_path / "attention", "attention", run, "--case", CASES[0])


def test_without_output_a_figure_goes_to_its_run(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    with own_settings():
        main(["attention", str(copy), "--case", CASES[0]])
    written = [f"attention_{CASES[0]}_block1_head1.{kind}" for kind in ("pdf", "png")]
    assert sorted(path.name for path in (copy / "figures").iterdir()) == written


def test_gate(run: Path, tmp_path: Path) -> None:
    assert len(drawn("gate", run, "--case", *CASES).axes) == 3 * 2 + 1
    assert_written(tmp_path / "gate", "gate", run, "--case", *CASES)


def test_positions_need_no_data(run: Path, tmp_path: Path) -> None:
    arguments = (run, "--layer", 2, "--head", 2, "--query", 3, 4)
    figure = drawn("positions", *arguments)
    expected = opened(run).network.encoder.blocks[1].attn.positions()[1].detach()
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), expected)
    np.testing.assert_allclose(figure.axes[3].images[0].get_array(), expected[3 * 8 + 4].reshape(8, 8))
    assert_written(tmp_path / "positions", "positions", *arguments, "--root", tmp_path / "nowhere")


def test_panels_predict_what_an_evaluation_writes_and_take_it_where_it_is(run: Path, tmp_path: Path) -> None:
    arguments = ("--run", f"one={run}", "--run", f"two={run}/checkpoints/best.pt", "--cases", *CASES)
    fresh = drawn("panels", *arguments)
    assert len(fresh.axes) == 4 * 2
    copy = shutil.copytree(run, tmp_path / "copy")
    outcome = run_command(evaluation.main, f"ckpt={copy}")
    assert outcome.status == 0, outcome
    with (copy / "eval/test/cases.csv").open() as file:
        dice = [float(line["dice"]) for line in csv.DictReader(file)]
    assert [axes.get_xlabel() for axes in fresh.axes[1::4]] == [f"Dice {value:.3f}" for value in dice]
    written = copy / "eval/test/predictions" / f"{CASES[0]}_segmentation.png"
    truth = next(run.parent.glob(f"data/*/*GroundTruth/{CASES[0]}_segmentation.png"))
    shutil.copy(truth, written)
    arguments = ("--run", f"one={copy}", "--cases", CASES[0])
    assert drawn("panels", *arguments).axes[1].get_xlabel() == "Dice 1.000"
    assert drawn("panels", *arguments, "--fresh").axes[1].get_xlabel() == f"Dice {dice[0]:.3f}"
    assert_written(tmp_path / "panels", "panels", *arguments)


def test_panels_of_volumes(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    data = opened(copy).data
    case = data.cases("test")[0]
    truth = np.asarray(nib.load(case.label).dataobj).astype(int)
    moved = np.roll(truth, 2, axis=0)
    data.format.save_labels(copy / "eval/test/predictions" / case.id, moved.astype(np.uint8), like=case.image)
    figure = drawn("panels", "--run", f"STP={copy}", "--cases", case.id)
    assert len(figure.axes) == 3
    expected = np.nanmean(quick_dice(moved, truth, outputs=data.outputs))
    assert figure.axes[1].get_xlabel() == f"Dice {expected:.3f}"
    # on the slice with most of the truth there is as much as in the file, turned or not
    alpha = np.asarray(figure.axes[2].images[-1].get_array())[..., 3] > 0
    assert alpha.sum() == (truth > 0).sum(axis=(0, 1)).max()


def test_depth(finished_run: Path, tmp_path: Path) -> None:
    case = opened(finished_run).data.cases("test")[0].id
    arguments = (finished_run, "--case", case, "--planes", "coronal", "axial")
    figure = drawn("depth", *arguments)
    num_stages = len(figure.axes) // 2 - 2
    assert num_stages == len(figure.legends[0].get_texts()) - 1
    assert "pruning depth" in figure.legends[0].get_title().get_text()
    random = [float(axes.get_xlabel().split()[-1].rstrip("%")) for axes in figure.axes[-num_stages:]]
    assert 0 < random[1] < random[0] < 100
    assert_written(tmp_path / "depth", "depth", *arguments)


def test_kept_says_that_fixed_counts_are_alike(finished_run: Path, tmp_path: Path) -> None:
    figure = drawn("kept", finished_run)
    assert "All windows keep the same number of tokens" in " ".join(figure.get_supxlabel().split())
    assert_written(tmp_path / "kept", "kept", finished_run)


def with_gate_amid(run: Path, copy: Path) -> Path:
    """A copy of the run whose gate tells half of all patches of the training cases to ask nothing."""
    trained = opened(run)
    windows = [load_window(trained, case).image.unsqueeze(0) for case in trained.data.cases("train")]
    foreground = np.stack([gate_of(trained.network.encoder, window)[0] for window in windows])
    path = shutil.copytree(run, copy) / "checkpoints/best.pt"
    state = checkpoint.read(path)
    state["config"]["encoder"]["gate"]["threshold"] = 1 - float(np.median(foreground))
    checkpoint.save(state, path)
    return copy


def test_kept_shows_easy_normal_and_hard_cases(run: Path, tmp_path: Path) -> None:
    figure = drawn("kept", with_gate_amid(run, tmp_path / "copy"), "--split", "train")
    images, stages = figure.axes[1::3], figure.axes[3::3]
    kinds = [axes.get_ylabel().split("\n")[0] for axes in images]
    assert kinds == ["easy", "normal", "hard"][: len(kinds)]
    assert all(axes.get_xlabel().startswith("Dice 0.") for axes in images)
    # a picture is one window here
    counts = [int(axes.get_xlabel().split()[0]) for axes in stages]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_sparsity(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    arguments = ("--baseline", copy, "--run", copy)
    with own_settings(), pytest.raises(SystemExit, match=r"Error: --baseline .*copy has no eval/test/summary\.json"):
        main(["sparsity", *map(str, arguments)])
    outcome = run_command(evaluation.main, f"ckpt={copy}")
    assert outcome.status == 0, outcome
    assert_written(tmp_path / "sparsity", "sparsity", *arguments)
    with (tmp_path / "sparsity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["gain points"] for row in rows} == {"0.0"}
    assert all(0 < float(row["sparsity patches"]) < float(row["sparsity voxels"]) < 1 for row in rows)
    other = shutil.copytree(copy, tmp_path / "other")
    scores = other / "eval/test/cases.csv"
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[: -len(rows)]))
    with own_settings(), pytest.raises(SystemExit, match=r"Error: --run was evaluated on \d+ cases and --baseline on"):
        main(["sparsity", "--baseline", str(copy), "--run", str(other)])


def test_curves(run: Path, tmp_path: Path) -> None:
    arguments = ("--run", f"one={run}", "--run", f"two={run}")
    figure = drawn("curves", *arguments)
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 4]
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert len(drawn("curves", *arguments, "--quantities", "train/lr").axes) == 1
    assert_written(tmp_path / "curves", "curves", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attention", "--case", "ISIC_5"), "has no case ISIC_5"),
        (("attention", "--case", CASES[0], "--layer", "3"), "--layer 3: this network has blocks 1 to 2"),
        (("attention", "--case", CASES[0], "--head", "0"), "--head 0: this network has heads 1 to 2"),
        (("positions", "--query", "8", "0"), r"\(8, 0\): give a patch of the grid \(8, 8\)"),
        (
            ("attention", "--case", CASES[0], "--query", "8", "0"),
            r"\(8, 0\): give a patch of the grid \(8, 8\)",
        ),
    ],
)
def test_a_users_mistake_is_one_message(run: Path, arguments: tuple[str, ...], message: str) -> None:
    name, *rest = arguments
    with own_settings(), pytest.raises(SystemExit, match=f"^Error: .*{message}"):
        main([name, str(run), *rest])


def test_a_network_without_gate_or_pruning_attention_says_so(finished_run: Path) -> None:
    case = opened(finished_run).data.cases("test")[0].id
    for name, part in (("gate", "encoder.gate"), ("attention", "encoder.attention")):
        with own_settings(), pytest.raises(SystemExit, match=f"has no {part}"):
            main([name, str(finished_run), "--case", case])


def test_help_lists_the_figures_without_importing_torch() -> None:
    program = "import sys; from sct.plots.__main__ import main; main(['--help']); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.endswith("False\n")
    for name, meaning in FIGURES.items():
        assert f"  {name}" in told
        assert meaning in told


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_describes_its_options(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert not end.value.code
    told = capsys.readouterr().out
    assert told.startswith(f"usage: sct-plot {name}")
    assert f"    sct-plot {name} " in told


def test_an_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(SystemExit, match=r"^Error: there is no figure 'dept'\. Did you mean 'depth'\?"):
        main(["dept"])
