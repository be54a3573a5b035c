"""The commands of the README on tiny phantoms: what they write is whole, consistent and where it should be."""

import csv
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import assert_one_message, run_command
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sct import eval as evaluation
from sct import predict, profile, train
from sct.data.cases import LabelMap
from sct.data.outputs import Classes
from sct.data.phantoms.phantom import ORGANS
from sct.evaluation.metrics import score_case
from sct.runs import backends, prediction

NAMES = ("background", *(organ.name for organ in ORGANS))


@pytest.fixture(scope="module")
def evaluated(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    outcome = run_command(evaluation.main, f"ckpt={finished_run}", f"output={folder}")
    assert outcome.status == 0, outcome
    return folder


@pytest.fixture(scope="module")
def test_image(workplace: Path) -> Path:
    """The image of the one test phantom, the last of the set."""
    return sorted((workplace / "data").rglob("img/*.nii.gz"))[-1]


def test_evaluation_scores_every_class_of_the_test_case(evaluated: Path) -> None:
    with (evaluated / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(NAMES[1:])
    summary = json.loads((evaluated / "summary.json").read_text())
    assert summary["n_cases"] == 1
    assert summary["dice"]["mean"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))
    assert (evaluated / "table.md").read_text().count("| ") > len(NAMES)


def test_exported_prediction_scores_as_in_memory(evaluated: Path, test_image: Path) -> None:
    path = evaluated / "predictions" / test_image.name.replace("img", "")
    prediction, source = nib.load(path), nib.load(test_image)
    assert prediction.shape == source.shape
    np.testing.assert_array_equal(prediction.affine, source.affine)
    truth = nib.load(str(test_image).replace("/img/img", "/label/label"))
    rows = score_case(
        np.asarray(prediction.dataobj),
        np.asarray(truth.dataobj).astype(np.uint8),
        spacing=source.header.get_zooms()[:3],
        outputs=Classes(LabelMap(NAMES)),
        case_id="again",
    )
    summary = json.loads((evaluated / "summary.json").read_text())
    for row in rows:
        assert summary["dice"]["per_class"][row.class_name] == pytest.approx(row.dice)
        assert summary["hd95_mm"]["per_class"][row.class_name] == pytest.approx(row.hd95_mm)


def test_figure_shows_something(evaluated: Path) -> None:
    (figure,) = (evaluated / "figures").glob("*.png")
    assert len(np.unique(np.asarray(Image.open(figure)))) > 20


# what only trains, scores, draws, exports or compiles; MONAI itself loads tensorboard, scipy and matplotlib
NOT_FOR_PREDICTION = (
    *("torch._dynamo", "sympy", "fvcore", "onnx", "onnxruntime", "openvino"),
    *("sct.training.trainer", "sct.training.optim", "sct.training.loggers", "sct.losses", "sct.training.validation"),
    *(
        "sct.evaluation.metrics",
        "sct.evaluation.pictures",
        "sct.plots",
        "sct.profiling.segmenter",
        "sct.profiling.macs",
    ),
)
PREDICTION = """
import sys
from sct import predict
sys.argv[1:] = {arguments}
predict.main()
assert not set({unwanted}) & set(sys.modules), set({unwanted}) & set(sys.modules)
"""


def test_prediction_loads_only_what_it_needs(finished_run: Path, test_image: Path, tmp_path: Path) -> None:
    # a second and more of every command; the tests' own process may have it already
    arguments = [f"ckpt={finished_run}", f"input={test_image}", f"output={tmp_path}"]
    program = PREDICTION.format(arguments=arguments, unwanted=NOT_FOR_PREDICTION)
    subprocess.run([sys.executable, "-c", program], check=True)
    assert list(tmp_path.iterdir())


def test_a_prediction_asks_for_its_threads_before_loading_takes_them(
    finished_run: Path, test_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread keeps the number that torch has when it first asks, and while a network is loaded that is 1."""
    log = []

    def find(*given, own=backends.find_checkpoint, **named):
        trained = own(*given, **named)
        log.clear()
        return replace(trained, load=lambda: (log.append(torch.get_num_threads()), trained.load())[1])

    def ask(own=torch.get_num_threads):
        log.append(threading.current_thread())
        return own()

    monkeypatch.setattr(backends, "find_checkpoint", find)
    monkeypatch.setattr(torch, "get_num_threads", ask)
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={test_image}", f"output={tmp_path}")
    assert outcome.status == 0, outcome
    assert log[0] is threading.main_thread()


def test_large_blocks_are_kept_of_a_single_image_alone(
    finished_run: Path, test_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(prediction, "keep_large_blocks", lambda: kept.append(True))
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={test_image.parent}", f"output={tmp_path}/all")
    assert outcome.status == 0, outcome
    assert len(list((tmp_path / "all").glob("*.nii.gz"))) == 4
    assert not kept
    assert [re.search(r"case . of 4 .*", line)[0][:11] for line in outcome.out.splitlines() if " -> " in line] == [
        f"case {number} of 4" for number in (1, 2, 3, 4)
    ]
    assert "s a case, about " in outcome.out
    assert outcome.out.count("memory in addition to the network: about") == 1, "all are of one size"
    run_command(predict.main, f"ckpt={finished_run}", f"input={test_image}", f"output={tmp_path}/one")
    assert kept == [True]


def test_prediction_is_that_of_the_evaluation(
    finished_run: Path, evaluated: Path, test_image: Path, tmp_path: Path
) -> None:
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={test_image}", f"output={tmp_path}")
    assert outcome.status == 0, outcome
    predicted = nib.load(tmp_path / test_image.name)
    scored = nib.load(evaluated / "predictions" / test_image.name.replace("img", ""))
    np.testing.assert_array_equal(np.asarray(predicted.dataobj), np.asarray(scored.dataobj))
    np.testing.assert_array_equal(predicted.affine, nib.load(test_image).affine)


def test_another_inferer_takes_the_place_of_the_runs_own(
    finished_run: Path, evaluated: Path, test_image: Path, tmp_path: Path
) -> None:
    """inferer=fast is all of that option and no key of the run's; its labels and scores are those of the reference."""
    changes = (f"ckpt={finished_run}", "inferer=fast", "inferer.batch_size=3", "inferer.even=false")
    outcome = run_command(predict.main, *changes, f"input={test_image}", f"output={tmp_path}")
    assert outcome.status == 0, outcome
    assert "memory in addition to the network: about" in outcome.out
    outcome = run_command(evaluation.main, *changes, f"output={tmp_path}/scores")
    assert outcome.status == 0, outcome
    assert re.search(r"case 1 of 1  \d+  mean Dice [\d.]+  [\d.]+ s a case\n", outcome.out)
    name = test_image.name.replace("img", "")
    want = np.asarray(nib.load(evaluated / "predictions" / name).dataobj)
    for path in (tmp_path / test_image.name, tmp_path / "scores" / "predictions" / name):
        assert (np.asarray(nib.load(path).dataobj) == want).mean() >= 0.999
    found, old = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "scores", evaluated))
    assert found["dice"]["mean"] == pytest.approx(old["dice"]["mean"], abs=1e-3)
    assert found["meta"]["inferer"]["_target_"] == "sct.inference.FastSlidingWindow"
    assert found["meta"]["tokens/alive_1"] == pytest.approx(old["meta"]["tokens/alive_1"], rel=1e-2)


def test_prediction_of_a_turned_image_is_turned(finished_run: Path, test_image: Path, tmp_path: Path) -> None:
    source = nib.load(test_image)
    turned = source.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "A"), (("L", "R"), ("P", "A"), ("I", "S"))))
    (tmp_path / "in").mkdir()
    nib.save(source, tmp_path / "in" / "as_it_was.nii.gz")
    nib.save(turned, tmp_path / "in" / "turned.nii.gz")
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={tmp_path}/in", f"output={tmp_path}/out")
    assert outcome.status == 0, outcome
    plain = nib.as_closest_canonical(nib.load(tmp_path / "out" / "as_it_was.nii.gz"))
    back = nib.as_closest_canonical(nib.load(tmp_path / "out" / "turned.nii.gz"))
    np.testing.assert_array_equal(np.asarray(plain.dataobj), np.asarray(back.dataobj))


def test_predict_never_writes_over_its_input(finished_run: Path, test_image: Path) -> None:
    before = test_image.read_bytes()
    outcome = run_command(predict.main, f"ckpt={finished_run}", f"input={test_image}", f"output={test_image.parent}")
    assert_one_message(outcome, "overwrite", test_image.name)
    assert test_image.read_bytes() == before


def test_profile_of_an_experiment_and_of_a_run(smoke: list[str], finished_run: Path, tmp_path: Path) -> None:
    settings = ("profile.repeats=1", "profile.warmup=0", f"run_dir={tmp_path}")
    outcome = run_command(profile.main, *smoke, *settings)
    assert outcome.status == 0, outcome
    result = json.loads((tmp_path / "profile.json").read_text())
    assert result["macs"]["total"] == sum(result["macs"][part] for part in ("encoder", "completion", "decoder"))
    assert result["params"] > 0
    assert set(result["latency_ms"]) == {"inference", "training"}
    outcome = run_command(profile.main, f"ckpt={finished_run}", "profile.latency=false")
    assert outcome.status == 0, outcome
    assert json.loads((finished_run / "profile.json").read_text())["macs"] == result["macs"]


def test_tensorboard_has_what_a_run_measures(smoke: list[str], tmp_path: Path) -> None:
    outcome = run_command(train.main, *smoke, "trainer.tensorboard=true", f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {name for row in rows for name in row if name != "step"} <= set(tags["scalars"])
    wanted = {
        "train/loss_dice",
        "train/loss_ce",
        "train/lr",
        "train/grad_norm",
        "train/grad_norm_reducer",
        "time/data_s",
    }
    wanted |= {"memory/peak_mb", "tokens/alive_1", "tokens/foreground_kept_1", "tokens/kept_1", "val/dice/mean"}
    assert wanted <= set(tags["scalars"])
    assert "val/overlay" in tags["images"]
    assert any(tag.startswith("config") for tag in tags["tensors"])


@pytest.mark.parametrize("swap", [("encoder=dense", "completion=scatter"), ("encoder=identity",), ("completion=mim",)])
def test_groups_swap_on_the_command_line(smoke: list[str], tmp_path: Path, swap: tuple[str, ...]) -> None:
    outcome = run_command(train.main, *smoke, *swap, "trainer.max_steps=1", f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists()
