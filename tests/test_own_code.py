"""Code of a user's own package: trained by name, and opened again only where the command names the package."""

import json
import re
import shutil
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import pytest
import torch
from commands import Outcome, assert_one_message, run_command
from omegaconf import OmegaConf
from own_package import MARK, PACKAGE, PAGE, forget, write_package

import sct
from sct import eval as evaluation
from sct import export, predict, profile, train, verify
from sct.config.check import check_config
from sct.config.command import compose_config
from sct.config.trust import Trust
from sct.data import __main__ as data
from sct.errors import UserError
from sct.exporting.manifest import Manifest
from sct.models.segmenter import Segmenter
from sct.plots.commands import base as command
from sct.plots.runs import open_run
from sct.runs.run import open_run as load_run

PLUGIN = f"plugins=[{PACKAGE}]"
LOSS = ["loss.pixel._target_=mypkg.losses.SharpDiceCE", "+loss.pixel.sharpness=3.0"]
IMAGES = "organs/RawData/Training/img"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A user's working directory, with the files of docs/how-to/own-code.md."""
    folder = tmp_path_factory.mktemp("home")
    write_package(folder)
    return folder


@pytest.fixture(autouse=True)
def fresh(home, monkeypatch):
    """Every test is in that directory, and nothing of the package is imported yet."""
    monkeypatch.chdir(home)
    forget(home)
    yield
    forget(home)


@pytest.fixture(scope="module")
def small(smoke) -> list[str]:
    """Where the data of the smoke trainings are, and no more steps than needed."""
    return [*(argument for argument in smoke if argument.startswith("paths.")), "trainer.tensorboard=false"]


@pytest.fixture(scope="module")
def own_run(home, small) -> Path:
    """A training with an own reducer from an own config file, an own loss from the command line, and its evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        trained = run_command(
            train.main, "+experiment=my_largest", "+debug=smoke", *LOSS, *small, PLUGIN, "run_dir=run"
        )
        assert trained.status == 0, trained
        scored = run_command(evaluation.main, "ckpt=run", PLUGIN, "figures=0")
        assert scored.status == 0, scored
    return home / "run"


def assert_refused(outcome: Outcome, *, home: Path, remedy: str = PLUGIN) -> None:
    """The command named the package and the remedy, and imported nothing of the package."""
    assert_one_message(outcome, "mypkg.", f"is of the package {PACKAGE}", remedy)
    assert not (home / MARK).exists()


def test_own_parts_are_trained_and_leave_no_trust_behind(own_run, home):
    cfg = OmegaConf.load(own_run / "config.yaml")
    assert cfg.encoder.reducer._target_ == "mypkg.reducers.Largest"
    assert cfg.loss.pixel.sharpness == 3.0
    assert cfg.encoder.depth == 4  # of the shipped experiment below the own one
    for path in own_run.rglob("*.json"):
        assert "plugins" not in path.read_text(), path
    assert "plugins" not in cfg
    assert "plugins" not in torch.load(own_run / "checkpoints/best.pt", weights_only=True)["config"]


# what opens a saved run -> the command
DOORS = {
    "eval": (evaluation.main, ["ckpt=run", "output=out"]),
    "predict": (predict.main, ["ckpt=run", "input=image.nii.gz", "output=out"]),
    "export": (export.main, ["ckpt=run", "format=torch", "output=out"]),
    "profile": (profile.main, ["ckpt=run"]),
    "verify": (verify.main, ["ckpt=run"]),
    "verify by training again": (verify.main, ["ckpt=run", "retrain=true"]),
    "resume": (train.main, ["resume=run"]),
    "resume with more": (train.main, ["resume=run", "trainer.max_steps=6"]),
    "teacher": (train.main, ["+experiment=demo", "+debug=smoke", "loss.teacher=run", "run_dir=out"]),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_saved_run_does_not_import_a_package_that_the_command_does_not_name(door, own_run, home, small):
    main, arguments = DOORS[door]
    arguments = [*arguments, *(small if "+debug=smoke" in arguments else [])]
    assert_refused(run_command(main, *arguments), home=home)
    assert_refused(run_command(main, *arguments, "plugins=[other]"), home=home, remedy="plugins=[other,mypkg]")
    assert not (home / "out").exists()


def test_what_a_run_says_about_plugins_is_not_read(own_run, home, tmp_path):
    run = Path(shutil.copytree(own_run, tmp_path / "run"))
    for path in run.glob("checkpoints/*.pt"):
        state = torch.load(path, weights_only=True)
        torch.save({**state, "config": {**state["config"], "plugins": [PACKAGE]}}, path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"{text}plugins: [{PACKAGE}]\n")
    overrides = json.loads((run / "overrides.json").read_text())
    (run / "overrides.json").write_text(json.dumps([*overrides, PLUGIN]))
    card = json.loads((run / "eval/test/card.json").read_text())
    card["evaluation"]["plugins"] = card["training"]["config"]["plugins"] = [PACKAGE]
    (run / "eval/test/card.json").write_text(json.dumps(card))
    assert_refused(run_command(evaluation.main, f"ckpt={run}"), home=home)
    assert_refused(run_command(train.main, f"resume={run}"), home=home)
    assert_refused(run_command(verify.main, f"ckpt={run}"), home=home)
    assert_refused(run_command(verify.main, f"ckpt={run}", "retrain=true"), home=home)


def test_what_a_run_has_found_is_no_code(own_run, small, tmp_path):
    """With resume=auto the config is the command's own; only what the run found in its files is taken from the run."""
    run = Path(shutil.copytree(own_run, tmp_path / "run"))
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.found = {"augment": {"flip": {"_target_": "yourpkg.Flip"}}}
    OmegaConf.save(cfg, run / "config.yaml")
    command = ["+experiment=my_largest", "+debug=smoke", *LOSS, *small, f"run_dir={run}", "resume=auto"]
    assert_one_message(run_command(train.main, *command), "found.augment.flip._target_=yourpkg.Flip", "no code")


def test_the_manifest_of_an_export_is_a_saved_config_too(own_run, home, tmp_path):
    config = OmegaConf.to_container(OmegaConf.load(own_run / "config.yaml"))
    manifest = Manifest(
        format="torch",
        roi_size=[16, 16, 16],
        channels=1,
        batch=None,
        precision="fp32",
        inputs={},
        outputs={},
        labels=[],
        channels_out=[],
        overlapping=False,
        config={**config, "plugins": [PACKAGE]},
        weights="",
        checkpoint="",
        step=4,
        card=None,
        versions={},
        check={"passed": True},
    )
    manifest.write(tmp_path)
    arguments = [f"ckpt={tmp_path}", "input=image.nii.gz", f"output={tmp_path}/labels"]
    assert_refused(run_command(predict.main, *arguments), home=home)


def test_a_run_opens_where_the_command_names_the_package(own_run, home, workplace, tmp_path):
    image = next((workplace / "data/phantom_smoke" / IMAGES).glob("*.nii.gz"))
    for main, *arguments in (
        (predict.main, "ckpt=run", f"input={image}", f"output={tmp_path}/labels"),
        (verify.main, "ckpt=run"),
        (profile.main, "ckpt=run", "profile.latency=false"),
    ):
        outcome = run_command(main, *arguments, PLUGIN)
        assert outcome.status == 0, outcome


@pytest.mark.long
def test_an_export_of_own_code_predicts_where_the_command_names_the_package(own_run, home, workplace, tmp_path):
    image = next((workplace / "data/phantom_smoke" / IMAGES).glob("*.nii.gz"))
    written = ["ckpt=run", "format=torch", f"output={tmp_path}/export", "windows=1", "agreement=0"]
    assert run_command(export.main, *written, PLUGIN).status == 0
    forget(home)
    arguments = [f"ckpt={tmp_path}/export", f"input={image}", f"output={tmp_path}/labels"]
    assert_refused(run_command(predict.main, *arguments), home=home)
    assert run_command(predict.main, *arguments, PLUGIN).status == 0


def test_own_code_goes_on_and_teaches(own_run, home, small, tmp_path):
    shutil.copytree(own_run, tmp_path / "run")
    outcome = run_command(train.main, f"resume={tmp_path}/run", "trainer.max_steps=5", PLUGIN)
    assert outcome.status == 0, outcome
    teacher = [f"loss.teacher={own_run}", "data.check=false", "trainer.max_steps=1", f"run_dir={tmp_path}/pupil"]
    outcome = run_command(train.main, "+experiment=demo", "+debug=smoke", *teacher, *small, PLUGIN)
    assert outcome.status == 0, outcome
    # weights alone need no code
    start = [f"init={own_run}", "encoder=largest", "trainer.max_steps=1", f"run_dir={tmp_path}/next"]
    assert run_command(train.main, "+experiment=demo", "+debug=smoke", *start, *small).status == 0


def test_only_the_config_of_the_command_itself_is_trusted_in_whole(own_run, home):
    """A checkpoint is a saved config, whoever opens it."""
    with pytest.raises(UserError, match="is of the package mypkg"):
        load_run("run", trust=Trust())
    assert not (home / MARK).exists()


def test_the_python_interface_takes_plugins(own_run, home, monkeypatch):
    monkeypatch.syspath_prepend(home)
    with pytest.raises(UserError, match=r"Add plugins=\[mypkg\]"):
        sct.load("run")
    assert not (home / MARK).exists()
    with pytest.raises(UserError, match="'os' is no package of your own"):
        sct.load("run", plugins=["os"])
    run = sct.load("run", plugins=[PACKAGE])
    assert type(run.network.encoder.reducer).__name__ == "Largest"
    assert type(run.criterion.pixel).__name__ == "SharpDiceCE"
    untrained = sct.build("my_largest", overrides=["encoder.dim=24", "encoder.num_heads=2"])
    assert type(untrained.network.encoder.reducer).__name__ == "Largest"


def test_figures_have_an_option_of_their_own(own_run, home, monkeypatch):
    options = Namespace(weights="best", root=None, device="cpu", plugins=())
    with pytest.raises(UserError, match=r"Add --plugins mypkg to the command"):
        open_run("run", options=options)
    assert not (home / MARK).exists()
    monkeypatch.syspath_prepend(home)
    options.plugins = command.package_names(PACKAGE)
    assert isinstance(open_run("run", options=options).network, Segmenter)
    with pytest.raises(ArgumentTypeError, match="'os' is no package of your own"):
        command.package_names("mypkg,os")


def test_an_own_data_set_is_checked_and_trains(home, small, own_run, workplace, tmp_path):
    root = (workplace / "data/phantom_smoke" / IMAGES).parent
    sizes = ["data=pairs", f"data.root={root}", "data.roi_size=[16,16,16]", "data.spacing=[5,5,8]"]
    assert "no fault found" in run_command(data.main, "check", *sizes, *small[:3]).out
    settings = ["+experiment=demo", "encoder=largest", "encoder.dim=24", "encoder.num_heads=2", "trainer.max_steps=2"]
    outcome = run_command(train.main, *settings, *sizes, *small, f"run_dir={tmp_path}/run")
    assert outcome.status == 0, outcome
    forget(home)
    assert_refused(run_command(evaluation.main, f"ckpt={tmp_path}/run"), home=home)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("encoder.reducer.ratio=much", ["encoder.reducer.ratio=much must be a number"]),
        ("+encoder.reducer.rato=0.3", ["encoder.reducer.rato", "Largest has no such setting", "'ratio'"]),
        ("loss.pixel._target_=mypkg.losses.Sharp", ["loss.pixel._target_=mypkg.losses.Sharp can't be imported"]),
        (
            "loss.pixel._target_=yourpkg.Loss",
            ["No module named 'yourpkg'", "installed, or lie in the working directory"],
        ),
        ("loss.pixel._target_=mypkg.losses.Tensor.backward", ["not allowed", "of torch, a class can be named"]),
        ("loss.pixel._target_=mypkg.Path", ["not allowed", "pathlib", "belongs to Python"]),
        ("encoder=larges", ["no encoder=larges", "Did you mean 'largest'?", "--config-dir"]),
        ("plugins=[os]", ["plugins: 'os' is no package of your own"]),
        ("plugins=[mypkg.losses]", ["plugins: 'mypkg.losses'", "before the first dot"]),
    ],
)
def test_mistakes_in_own_code_are_named(setting, words, home, small, tmp_path):
    outcome = run_command(train.main, "+experiment=my_largest", *small, f"run_dir={tmp_path}/run", setting)
    assert_one_message(outcome, *words)


def test_a_whole_network_is_named_on_the_command_line(home, monkeypatch):
    monkeypatch.syspath_prepend(home)
    target = "+model._target_=mypkg.reducers.Largest"
    cfg = compose_config("train", overrides=[target, "+model._partial_=true", "+model.blocks=[1]"])
    check_config(cfg, trust=Trust())
    outcome = run_command(train.main, target, "model.ratoi=0.5")
    assert_one_message(outcome, "Unknown key model.ratoi", "plus sign: +model.ratoi=VALUE")


def test_every_command_of_the_page_names_what_the_page_makes(home):
    commands = re.findall(r"^python -m sct\S* .*$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(commands) == 6
    files = {path.relative_to(home).as_posix() for path in home.rglob("*.*") if path.suffix in (".py", ".yaml")}
    assert {"mypkg/losses.py", "mypkg/reducers.py", "mypkg/data.py", "configs/encoder/largest.yaml"} <= files
