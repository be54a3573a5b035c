"""Commands of the documentation in small: what stands for something is replaced, trainings take one step."""

import re
from collections.abc import Callable, Sequence

from commands import run_command
from doc_pages import CONFIGS
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from sct import eval as evaluation
from sct import export, predict, profile, report, train, verify
from sct.data import __main__ as data

MAINS = {
    "train": train.main,
    "eval": evaluation.main,
    "predict": predict.main,
    "export": export.main,
    "profile": profile.main,
    "report": report.main,
    "verify": verify.main,
    "data": data.main,
}
RUN = "outputs/demo/make"
OWN_DATA = "data/Task99_Mine"
NNUNET = "nnUNet_raw/Dataset001_Mine"
# the settings of configs/debug that shrink a data set and its network, by the data set
DEBUG = {"sct.data.sets.isic.ISIC": "smoke_isic", "sct.data.sets.synapse.Synapse": "smoke_synapse"}
# what is made narrow besides, where a network has it
WIDTHS = {"encoder.stem.width": 8, "decoder.feature_size": 4, "decoder.hidden": 16}
LAST = ("trainer.max_steps=1", "trainer.tensorboard=false", "trainer.precision=fp32")
# proposes values as it goes, and needs a package
SEARCH = "+sweep=optuna_stp"
# overrides that say where things are, or how jobs are sent
PLACES = ("data=", "data.root=", "name=", "run_dir=", "trainer.max_steps=", "hydra")


def succeed(main: Callable[[], None], *arguments: object) -> None:
    """The command ends well."""
    outcome = run_command(main, *arguments)
    assert outcome.status == 0, f"{' '.join(map(str, arguments))}\n{outcome.err}\n{outcome.out}"


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a command: with -m those of the sweep, as Hydra's own sweeper makes them."""
    if "-m" not in arguments:
        return [list(arguments)]
    overrides = [argument for argument in arguments if argument != "-m" and not argument.startswith("hydra")]
    overrides = [override for override in overrides if override != SEARCH]
    names = [override.partition("=")[2] for override in overrides if override.startswith("+sweep=")]
    for name in names:
        params = OmegaConf.load(CONFIGS / "sweep" / f"{name}.yaml").hydra.sweeper.params
        given = {override.split("=")[0] for override in overrides}
        overrides += [f"{key}={value}" for key, value in params.items() if key not in given]
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    return [[*job, "hydra.mode=RUN"] for job in batch]


def first_job(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command; of a sweep those of its first job."""
    return jobs(arguments)[0]


def small(overrides: Sequence[str], *, cfg: DictConfig) -> list[str]:
    """The same training on phantoms, with a narrow network, of one step; nothing else of it changes.

    cfg: what the overrides compose to
    """
    name = "smoke_brats" if cfg.data.get("regions") else DEBUG.get(cfg.data._target_, "smoke")
    debug = OmegaConf.load(CONFIGS / "debug" / f"{name}.yaml")
    sizes = {"data": OmegaConf.to_container(debug.data), "encoder": dict(debug.encoder)}
    flat = {f"{section}.{key}": value for section, part in sizes.items() for key, value in part.items()}
    flat |= {key: width for key, width in WIDTHS.items() if OmegaConf.select(cfg, key) is not None}
    phantoms = [f"data={debug.defaults[0]['override /data']}", "name=small"]
    if cfg.data.get("root") == NNUNET:  # its own small files, in place of phantoms
        phantoms = ["data=nnunet", f"data.root={NNUNET}", "name=small"]
        del flat["data.root"]
        flat = {
            key: value for key, value in flat.items() if key.removeprefix("data.") in cfg.data or "data." not in key
        }
    shrunk = [f"{key}={'null' if value is None else value}" for key, value in flat.items()]
    own = [override for override in overrides if not override.startswith(PLACES)]
    mode = ["hydra.mode=RUN"] if "hydra.mode=RUN" in overrides else []
    # what the command says itself comes after what shrinks it
    return [*phantoms, *shrunk, *own, *mode, *LAST]


def replaced(words: Sequence[str], *, number: int) -> list[str]:
    """The words of a command with what is there in place of what stands for it; `number` makes outputs its own."""
    fixed = {
        "ID": "0004",
        "input=FOLDER": "input=scans",
        "input=SERIES": "input=series",
        "runs=outputs/hippocampus": "runs=outputs/runs",
        "runs=outputs/mine": "runs=outputs/runs",
        "baseline=identity": "baseline=dense",
        "profile.windows=16": "profile.windows=2",
        "data.root=PATH": "data.root=data/phantom_smoke",
    }
    found = [fixed.get(word, re.sub(r"(^|=)RUN(?=$|/)", rf"\1{RUN}", word)) for word in words]
    return [re.sub(r"^output=(?!out/).*", f"output=out/{number}", word) for word in found]
