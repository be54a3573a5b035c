"""What a saved config may build: doors that were once found open or shut, and others, through every command."""

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import change_config, put
from omegaconf import DictConfig, OmegaConf

import sct
from sct import eval as evaluation
from sct import export, predict, profile, train, verify
from sct.config.check import build, read_object, resolve_target
from sct.config.parts import LISTED, is_part
from sct.config.trust import Trust
from sct.errors import UserError
from sct.models.weights.pretrained import read_weights
from sct.plots.__main__ import main as plot
from sct.runs.run import open_run

SAVED = Trust().saved("run")
LOAD = {"_target_": "monai.transforms.LoadImage", "reader": "pathlib.Path"}


def node_of_timer(stage) -> dict[str, Any]:
    """Runs a command as soon as it is built."""
    return {"_target_": "torch.utils.benchmark.Timer", "stmt": f"pass\r{stage.touch()}", "globals": {}}


# what opens a saved run -> the command and its arguments
COMMANDS = {
    "predict": (predict.main, ["ckpt=run", "input={image}", "output=out"]),
    "eval": (evaluation.main, ["ckpt=run", "output=out"]),
    "export": (export.main, ["ckpt=run", "format=torch", "output=out"]),
    "profile": (profile.main, ["ckpt=run"]),
    "resume": (train.main, ["resume=run"]),
    "resume with more": (train.main, ["resume=run", "trainer.max_steps=6"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_what_a_config_names(name, stage, run, image):
    change_config(run, lambda config: put(config, "data.augment.x", node_of_timer(stage)))
    main, arguments = COMMANDS[name]
    arguments = [argument.format(image=image) for argument in arguments]
    stage.refused(main, *arguments, words=("data.augment.x._target_=torch.utils.benchmark.Timer is not allowed",))


def test_no_figure_runs_what_a_config_names(stage, run, monkeypatch):
    change_config(run, lambda config: put(config, "data.augment.x", node_of_timer(stage)))
    monkeypatch.setattr(sys, "argv", ["sct-plot", "depth", "run", "--case", "0004", "--output", "out"])
    with pytest.raises(SystemExit, match="Timer is not allowed"):
        plot()
    assert not stage.mark.exists()


def test_no_card_runs_what_its_config_names(stage, scored_run):
    card = json.loads((scored_run / "eval/test/card.json").read_text())
    put(card["training"]["config"], "data.augment.x", node_of_timer(stage))
    (stage.here / "card.json").write_text(json.dumps(card))
    stage.refused(verify.main, "card=card.json", "retrain=true", "output=out", words=("Timer is not allowed",))


def test_a_setting_of_an_evaluation_on_a_card_is_no_code(stage, scored_run):
    """What a card says about the evaluation is as little trusted as what it says about the training."""
    path = stage.here / "run/eval/test/card.json"
    copied(scored_run, stage.here / "run")
    card = json.loads(path.read_text())
    card["evaluation"]["inferer"] = node_of_timer(stage)
    path.write_text(json.dumps(card))
    stage.refused(verify.main, "ckpt=run", words=("inferer._target_=torch.utils.benchmark.Timer is not allowed",))


def copied(source: Path, place: Path) -> Path:
    return Path(shutil.copytree(source, place))


def test_the_python_interface_is_no_other_door(stage, run):
    change_config(run, lambda config: put(config, "inferer", node_of_timer(stage)))
    with pytest.raises(UserError, match="is not allowed"):
        sct.load("run")
    with pytest.raises(UserError, match="is not allowed"):
        open_run("run", trust=Trust())
    assert not stage.mark.exists()


def nested(stage) -> dict[str, dict[str, Any]]:
    """Where a target may hide -> settings by key."""
    timer = node_of_timer(stage)
    flip = {"_target_": "monai.transforms.RandFlipd", "keys": ["image", "label"], "prob": 0.5}
    return {
        "the data set": {"data": timer},
        "the encoder": {"encoder": timer},
        "the reducer": {"encoder.reducer": timer},
        "the completion": {"completion": timer},
        "the decoder": {"decoder": timer},
        "a whole network": {"model": timer},
        "the inferer": {"inferer": timer},
        "a list": {"data.augment.x": {"_target_": "monai.transforms.Compose", "transforms": [flip, timer]}},
        "a list in a list": {"data.augment.x": {"_target_": "monai.transforms.Compose", "transforms": [[timer]]}},
        "a mapping without a target": {"data.augment.x": {"y": {"z": timer}}},
        "a part that is built later": {"data.augment.x": {**timer, "_partial_": True}},
        "below a part that Hydra does not enter": {"data.augment.x": {**flip, "_recursive_": False, "prob": timer}},
        "positional arguments": {"data.augment.x": {**flip, "_args_": [timer]}},
        "a key that looks like another one": {"data.class_groups": {1: timer, "1": ["liver"]}},
        "a key that is a number": {"data.class_groups": {1: timer}},
        "a MONAI network": {"model": {"_target_": "sct.models.decoders.monai.MonaiNetwork", "network": timer}},
        "what the training found": {"found.augment": timer},
    }


@pytest.mark.parametrize("place", nested(type("S", (), {"touch": lambda self: ""})()))
def test_a_target_is_found_wherever_it_hides(place, stage, run):
    for key, value in nested(stage)[place].items():
        change_config(run, lambda config, key=key, value=value: put(config, key, value))
    with pytest.raises(UserError):
        assert open_run("run").network
    assert not stage.mark.exists()


REFUSED = [
    # found open once
    "torch.utils.benchmark.Timer",
    "monai.transforms.LoadImage",
    "monai.transforms.LoadImaged",
    "monai.losses.PerceptualLoss",
    "torch.package.PackageExporter",
    "torch.utils.tensorboard.SummaryWriter",
    "monai.data.PersistentDataset",
    "sct.runtime.files.write_text",
    "sct.runtime.checkpoint.save",
    "sct.data.sets.synapse_files.write_slice",
    "sct.runs.folder.log_to",
    # found shut
    "os.system",
    "builtins.eval",
    "posix.system",
    "subprocess.Popen",
    "torch.os.system",
    "torch.hub.load",
    "torch.load",
    "monai.utils.module.sys.exit",
    "monai.bundle.run",
    "sct.runs.card.subprocess.run",
    "omegaconf.omegaconf.yaml.load",
    # others of the libraries: they call what they are told, download, read and write
    "monai.transforms.Lambdad",
    "monai.transforms.SaveImaged",
    "monai.networks.nets.TorchVisionFCModel",
    "monai.networks.nets.FlexibleUNet",
    "monai.apps.DecathlonDataset",
    "monai.bundle.ConfigParser",
    "monai.data.CacheDataset",
    "monai.handlers.CheckpointSaver",
    "torch.nn.Module",
    "torch.utils.data.DataLoader",
    "torch.jit.ScriptFunction",
    "torch.ao.quantization.FakeQuantize",
    "torch.multiprocessing.Process",
    "torch.distributed.TCPStore",
    "torch.distributed.FileStore",
    "torch.profiler.profile",
    "torch.classes.load_library",
    "torch.optim.adamw.AdamW",
    "torch.optim.AdamW.__init__",
    "monai.transforms.compose.Compose",
    # of this project, but no part
    "sct.train.main",
    "sct.load",
    "sct.build",
    "sct.errors.UserError",
    "sct.config.command.run",
    "sct.config.parts.part",
    "sct.config.parts.LISTED",
    "sct.data.module.Path",
    "sct.data.module.torch",
    "sct.models.decoders.unet.nn.Linear",
    "sct.training.optim.torch.optim.AdamW",
    "sct.training.optim.adamw.__globals__",
    "sct.runtime.files.atomic",
    "sct.exporting.bundled.Predictor",
    "sct.exporting.bundled.with_weights",
    "sct.data.phantoms.phantom.write_phantoms",
    "sct.data.__main__.main",
    "sct.plots.style.save",
    "sct.runs.run.Run",
    "sct.models.segmenter.Segmenter",
    # spellings
    "",
    ".",
    "sct",
    "sct.",
    "sct..load",
    " sct.training.optim.adamw",
    "sct.training.optim.adamw ",
    "sct.training.optim.adamw\n",
    "sct/training/optim.adamw",
    "\u0455ct.training.optim.adamw",  # the first letter is Cyrillic
    "__main__.x",
    "torch",
    "monai.transforms",
]


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_no_part_is_refused(path):
    with pytest.raises(UserError, match=r"(?s)not allowed|can't be imported"):
        read_object(path, "loss", SAVED)


@pytest.mark.parametrize("target", [3, None, True, ["os.system"], {"a": "os.system"}])
def test_a_target_is_a_text(target, stage, run):
    change_config(run, lambda config: put(config, "inferer._target_", target))
    with pytest.raises(UserError, match="inferer"):
        open_run("run")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_partial_", "true"),
        ("_partial_", 1),
        ("_recursive_", "os.system"),
        ("_convert_", "eval"),
        ("_mode_", "callable"),
    ],
)
def test_what_hydra_reads_in_a_node_is_checked(key, value, stage, run):
    change_config(run, lambda config: put(config, f"inferer.{key}", value))
    with pytest.raises(UserError, match=f"inferer.{key}"):
        open_run("run")


UNET = {"_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
SIZES = {"channels": [4, 8], "strides": [2]}


@pytest.mark.parametrize(
    "setting",
    [
        {"act": "os.system"},
        {"act": "../../x"},
        {"norm": ["/etc/passwd", {}]},
        {"norm": ["instance", {"affine": "a.b"}]},
        {"norm": ["instance", {"a.b": True}]},
        {"act": "x" * 100},
        {"act": "a\nb"},
    ],
)
def test_a_text_for_a_library_is_an_option_and_no_name_of_code_or_path(setting):
    node = omegaconf({**UNET, **SIZES, **setting})
    with pytest.raises(UserError, match="one option of letters and digits"):
        build(node, key="model", trust=SAVED)
    assert isinstance(build(omegaconf({**UNET, **SIZES, "act": "relu"}), key="model", trust=SAVED), torch.nn.Module)


def omegaconf(node: dict[str, Any]) -> DictConfig:
    return OmegaConf.create(node)


def test_a_part_of_a_size_that_no_machine_has_is_one_message(stage, run, image):
    change_config(run, lambda config: put(config, "encoder.dim", 2**40))
    stage.refused(predict.main, "ckpt=run", f"input={image}", "output=out", words=("encoder", "original"))


def test_a_class_of_a_library_that_is_not_listed_is_built_where_the_command_names_it(stage, run, image):
    """The remedy of the message works, for that class alone."""
    network = {"_target_": "monai.networks.nets.HighResNet", "_partial_": True}
    put_in = {"_target_": "sct.models.decoders.monai.MonaiNetwork", "_partial_": True, "network": network}
    change_config(run, lambda config: put(config, "model", put_in))
    command = [predict.main, "ckpt=run", f"input={image}", "output=out"]
    name = "plugins=[monai.networks.nets.HighResNet]"
    stage.refused(*command, words=("HighResNet is not allowed", f"Add {name} to the command"))
    # it is built, and then of other weights
    stage.refused(*command, name, words=("holds weights of another model",))
    network["_target_"] = "monai.networks.nets.TorchVisionFCModel"
    change_config(run, lambda config: put(config, "model", put_in))
    stage.refused(*command, name, words=("TorchVisionFCModel is not allowed",))


class Exploit:
    """What a pickle can be."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


@pytest.mark.parametrize("where", ["whole", "config", "weights"])
def test_a_pickle_is_not_run(where, stage, run, image):
    for path in (run / "checkpoints").glob("*.pt"):
        if where == "whole":
            path.write_bytes(pickle.dumps(Exploit(stage.touch())))
            continue
        state = torch.load(path, weights_only=True)
        state["config" if where == "config" else "model"] = Exploit(stage.touch())
        torch.save(state, path)
    words = ("can't be read",)
    stage.refused(predict.main, "ckpt=run", f"input={image}", "output=out", words=words)
    stage.refused(train.main, "resume=run", "paths.outputs=out", words=("No checkpoint in",))
    with pytest.raises(UserError, match="can't be read"):
        read_weights("run/checkpoints/best.pt")
    assert not stage.mark.exists()


def test_every_listed_class_exists():
    for path in LISTED:
        assert isinstance(resolve_target(path, key="x", trust=SAVED), type)


def test_what_shipped_configs_name_are_parts():
    """A training of any shipped config can be opened again."""
    configs = Path(sct.__file__).parents[1] / "configs"
    paths = {
        line.split("_target_:")[1].split("#")[0].strip(" '\"}\n").split(",")[0]
        for file in configs.rglob("*.yaml")
        for line in file.read_text().splitlines()
        if "_target_:" in line
    }
    assert len(paths) > 50
    for path in paths:
        SAVED.check_path(path, key="x")
        target = resolve_target(path, key="x", trust=SAVED)
        assert path in LISTED or is_part(target)
