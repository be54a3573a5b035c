"""Every command in README and docs runs, in small.

Those of pages that make files are in test_python.py, those of the papers' tables in test_paper_tables.py. A command
that can't run here is composed and checked, or its options are parsed: `NOT_RUN` says which and why. A command that no
rule knows fails its test.
"""

import re
import runpy
import shlex
import shutil
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from typing import Any, NoReturn

import nibabel as nib
import numpy as np
import pytest
from commands import own_settings
from dicom_files import needs_dicom, write_series
from doc_pages import PAPER_TABLES, ROOT, SHELL, blocks, commands, inline_code, makes_files, pages
from exported_runs import needs
from omegaconf import DictConfig, OmegaConf
from shrunk import OWN_DATA, first_job, replaced, small, succeed

from sct import eval as evaluation
from sct import export, predict, profile, report, train, verify
from sct.config.check import check_config
from sct.config.command import compose_config
from sct.data import __main__ as data

Words = tuple[str, ...]

# words of commands that are not run: a training is composed and checked, of others the options are parsed
NOT_RUN = {
    "torchrun": "several processes",
    "srun": "Slurm",
    "hydra/launcher=slurm": "Slurm",
    "+sweep=optuna_stp": "the extra sweep; only the rest of the command is composed",
    "model=nnunet": "a package that is not in the tested set",
    "pretrained=vit_small.safetensors": "published weights",
    "pretrained=timm:vit_small_patch16_224": "published weights",
    "data.split=split.json": "a file of the user's",
    "data=pictures": "pictures of the user's; tests/test_picture_set_end_to_end.py trains on some",
    "data=images": "scans of the user's; tests/test_pretraining_end_to_end.py trains on some",
    "attention": "a run of APFormer; tests/plots draws this figure",
    "gate": "a run of APFormer; tests/plots draws this figure",
    "positions": "a run of APFormer; tests/plots draws this figure",
    "stages": "a run of DToP; tests/plots draws this figure",
}
# all other scripts measure for minutes, and have tests of their own: their options are parsed
RUN_SCRIPTS = ("draw_readme",)
INSTALLING = (("python", "-m", "venv", ".venv"), ("source", ".venv/bin/activate"))


# a command within a sentence begins so, and has something behind its name
INLINE = re.compile(r"(python (-m sct\.\w+|scripts/\w+\.py)|sct-\w+|pip|make) \S.*")


def every_command() -> dict[Words, str]:
    """Each different command of all pages, in blocks and in sentences, and the first place where it stands."""
    found: dict[Words, str] = {}
    for page in pages():
        if page == PAPER_TABLES:
            continue
        for block in blocks(page, *SHELL):
            for words in commands(block) if not makes_files(page) else []:
                found.setdefault(words, block.place)
        for code in inline_code(page):
            if INLINE.fullmatch(code):
                found.setdefault(tuple(shlex.split(code)), str(page.relative_to(ROOT)))
    return found


COMMANDS = every_command()
NUMBERS = {words: number for number, words in enumerate(COMMANDS)}


def runs(words: Iterable[str]) -> bool:
    return not set(words) & set(NOT_RUN)


def takes_long(words: Words) -> bool:
    """Whether a command, shrunk, takes seconds and has tests elsewhere: exports, and what is done with experiments.

    By default these are composed and checked, and run with -m long.
    """
    # the demo, and what the user's folder of the tests has
    short = ("+experiment=demo", "+experiment=mine")
    named = any(w.startswith(("+experiment=", "+sweep=")) and w not in short for w in words)
    shipped = named or "data=btcv" in words
    works = words[2:3] in (("sct.train",), ("sct.profile",), ("sct.data",)) and "-c" not in words
    exports = {"format=onnx", "format=torch", "format=openvino", "backend=onnx"} & set(words)
    return bool(exports) or (shipped and works)


def compose(command: str, arguments: list[str]) -> DictConfig:
    """The config of a command, which is good with the values that stand in the text."""
    if command == "train":
        arguments = first_job(arguments)
    cfg = compose_config("train" if command == "profile" else command, overrides=arguments)
    OmegaConf.to_object(cfg)  # the schema refuses what does not go together
    if command in ("train", "profile"):
        check_config(cfg)
    return cfg


def run_train(arguments: list[str], *, number: int) -> None:
    resumed = next((a.partition("=")[2] for a in arguments if a.startswith("resume=outputs/")), None)
    if {"--help", "-c"} & set(arguments):
        succeed(train.main, *arguments)
    elif resumed:
        copy = shutil.copytree(resumed, f"out/{number}")
        further = ["trainer.max_steps=2"] * any(a.startswith("trainer.max_steps=") for a in arguments)
        succeed(train.main, f"resume={copy}", *further)
    else:
        cfg = compose("train", arguments)
        if runs(arguments):
            succeed(train.main, *small(first_job(arguments), cfg=cfg), f"run_dir=out/{number}")


def run_profile(arguments: list[str], *, number: int) -> None:
    brief = ("profile.repeats=1", "profile.warmup=0", "profile.training=false")
    if not any(a.startswith("ckpt=") for a in arguments):
        arguments = [*small(arguments, cfg=compose("profile", arguments)), f"run_dir=out/{number}"]
    succeed(profile.main, *arguments, *brief)


def run_data(arguments: list[str], *, number: int) -> None:
    if arguments[0] == "plan" and "--help" not in arguments:
        # one root stands for the layout at hand: a Decathlon folder, unless the command names another layout
        arguments = [f"data.root={OWN_DATA}" if word == "data.root=data/phantom_smoke" else word for word in arguments]
        succeed(data.main, *arguments, "overwrite=true")
        return
    own = ("--help" in arguments, "data=mine" in arguments, "data=nnunet" in arguments)
    if "data=msd" in arguments:
        arguments = [arguments[0], "data=msd", f"data.root={OWN_DATA}"]
    elif not any(own):
        arguments = [arguments[0], *small(arguments[1:], cfg=compose("train", arguments[1:]))]
    folder = [] if own[0] else [f"run_dir=out/{number}"]
    succeed(data.main, *arguments, *folder)


def run_export(arguments: list[str], *, number: int) -> None:
    needs(next(a.partition("=")[2] for a in arguments if a.startswith("format=")))
    folder = [] if any(a.startswith("output=") for a in arguments) else [f"output=out/{number}"]
    succeed(export.main, *arguments, *folder, "windows=1")


def run_predict(arguments: list[str], *, number: int) -> None:
    if "input=series" in arguments and not Path("series").exists():
        needs_dicom()
        image = nib.load("scan.nii.gz")
        write_series(Path("series"), np.asarray(image.dataobj), affine=image.affine)
    backend = next((a.partition("=")[2] for a in arguments if a.startswith("backend=")), None)
    if backend:
        needs(backend)
        run = shutil.copytree("outputs/demo/make", f"out/run{number}")
        succeed(export.main, f"ckpt={run}", f"format={backend}", "windows=1")
        arguments = [f"ckpt={run}" if a.startswith("ckpt=") else a for a in arguments]
    succeed(predict.main, *arguments)


def run_report(arguments: list[str], *, number: int) -> None:
    succeed(report.main, *arguments, f"output=out/{number}")


def run_eval(arguments: list[str], *, number: int) -> None:
    succeed(evaluation.main, *arguments)


def run_verify(arguments: list[str], *, number: int) -> None:
    # noise was added to the demo's weights after its training
    succeed(verify.main, *(a.replace("demo/make", "runs/dense") for a in arguments))


def run_plots(arguments: list[str], *, number: int) -> None:
    from sct.plots.__main__ import main

    if runs(arguments) and "--help" not in arguments:
        with own_settings():
            main([*arguments, "--output", f"out/figure{number}"])
    elif "--help" not in arguments:
        import_module(f"sct.plots.commands.{arguments[0]}").parser().parse_args(arguments[1:])


def run_compare(arguments: list[str], *, number: int) -> None:
    from sct.compare.__main__ import parse

    if "--help" not in arguments:
        _, overrides = parse(arguments)
        compose("train", overrides)


PROGRAMS: dict[str, Callable[..., None]] = {
    "train": run_train,
    "eval": run_eval,
    "predict": run_predict,
    "export": run_export,
    "profile": run_profile,
    "report": run_report,
    "verify": run_verify,
    "data": run_data,
    "plots": run_plots,
    "compare": run_compare,
}


class Parsed(Exception):
    """The options of a script are good."""


def run_script(name: str, arguments: list[str], *, number: int, patch: pytest.MonkeyPatch) -> None:
    patch.syspath_prepend(ROOT / "scripts")
    path = str(ROOT / "scripts" / f"{name}.py")
    if name in RUN_SCRIPTS:
        arguments = [*arguments, "--output", f"out/{number}.png"]
        with own_settings():
            runpy.run_path(path)["main"](arguments)
        return
    parse_args = ArgumentParser.parse_args

    def stop(*given: Any, **options: Any) -> NoReturn:
        parse_args(*given, **options)
        raise Parsed

    patch.setattr(ArgumentParser, "parse_args", stop)
    patch.setattr(sys, "argv", [path, *arguments])
    with pytest.raises(Parsed):
        runpy.run_path(path, run_name="__main__")


def check_installation(words: Words) -> None:
    """What pip and make are told exists: extras of the package, files, targets of the Makefile."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words[1:]:
        named = re.search(r"\[(.*)\]$", word)
        assert not named or set(named[1].split(",")) <= set(extras), f"no extra {word}"
        assert not word.endswith(".txt") or (ROOT / word).is_file(), word
    if words[0] == "make":
        assert set(words[1:]) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def program(words: Words) -> tuple[str, list[str]]:
    """What a command runs, and the words behind it: the name of a command of sct, or of a script."""
    words = tuple(dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
    first = Path(words[0]).name
    if first.startswith("sct-"):
        return first.removeprefix("sct-").replace("plot", "plots"), list(words[1:])
    if first in ("torchrun", "srun"):
        return first, list(words[words.index("sct.train") + 1 :])
    if first == "python" and words[1] == "-m" and words[2].startswith("sct."):
        return words[2].removeprefix("sct."), list(words[3:])
    if first == "python" and words[1].startswith("scripts/"):
        return words[1], list(words[2:])
    return first, list(words[1:])


def params(chosen: Iterable[Words]) -> list[Any]:
    return [pytest.param(words, id=f"{COMMANDS[words]} {' '.join(words)}"[:110]) for words in chosen]


@pytest.mark.parametrize("words", params(words for words in COMMANDS if not takes_long(words)))
def test_command(words: Words, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = NUMBERS[words]
    name, arguments = program(tuple(replaced(words, number=number)))
    if name in PROGRAMS:
        PROGRAMS[name](arguments, number=number)
    elif name in ("torchrun", "srun"):
        compose("train", arguments)
    elif name.startswith("scripts/"):
        run_script(Path(name).stem, arguments, number=number, patch=monkeypatch)
    elif name in ("pip", "make") or words in INSTALLING:
        check_installation((name, *arguments))
    else:
        pytest.fail(f"no rule for {' '.join(words)}")


@pytest.mark.parametrize("words", params(words for words in COMMANDS if takes_long(words)))
def test_config_of_a_long_command(words: Words) -> None:
    name, arguments = program(words)
    compose(*(("train", arguments[1:]) if name == "data" else (name, arguments)))


@pytest.mark.long
@pytest.mark.parametrize("words", params(words for words in COMMANDS if takes_long(words)))
def test_long_command(words: Words, place: Path) -> None:
    name, arguments = program(tuple(replaced(words, number=NUMBERS[words])))
    PROGRAMS[name](arguments, number=NUMBERS[words])


def test_what_is_not_run_stands_in_the_text() -> None:
    said = {word for words in COMMANDS for word in words} | {Path(words[0]).name for words in COMMANDS}
    assert set(NOT_RUN) <= said, "a reason without a command"
