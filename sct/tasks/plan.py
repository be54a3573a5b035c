"""The work of `sct.data plan`: a data set read, its settings decided and written as two config files."""

import copy
import logging
from dataclasses import replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sct.config.check import build
from sct.config.command import by_key
from sct.config.trust import Trust
from sct.data.survey import set_faults
from sct.planning.facts import collect
from sct.planning.machine import find_machine
from sct.planning.plan import make_plan
from sct.planning.shares import choose_split
from sct.planning.write import data_text, experiment_text, own_folder, planned_files, write_plan
from sct.runs.folder import log_to

logger = logging.getLogger(__name__)


def plan_data(cfg: DictConfig) -> None:
    """Reads every file; writes configs/data/NAME.yaml and configs/experiment/NAME.yaml in the working directory."""
    log_to(None)
    files = planned_files(cfg.name, folder=own_folder(), overwrite=cfg.overwrite)
    trust = Trust.of_command(cfg)
    machine = find_machine(device=cfg.device, memory=cfg.memory, cores=cfg.cores)
    data = build(cfg.data, key="data", trust=trust)
    given = given_settings(cfg)
    split = choose_split(data, given=given)
    # before statistics are measured: those belong to the cases of a training, whose folds may be others
    found = data.found()
    data.prepare()
    facts, each = collect(data)
    for fault in set_faults(each, resampled=True):
        logger.warning("%s", fault)
    plan = make_plan(facts, machine=machine, given=given)
    plan = replace(plan, data=(split, *plan.data))
    node = {**plain(cfg.data), **found}
    # what the classes refuse shows before anything is written
    planned = copy.deepcopy(cfg)
    planned.data = {**node, **{choice.key: choice.value for choice in plan.data}}
    build(planned.data, key="data", trust=trust)
    about = f"from {facts.num_cases} training case(s) for {machine}"
    base = HydraConfig.get().runtime.choices["data"]
    texts = data_text(plan, about=about, base=base, node=node), experiment_text(plan, about=about, name=cfg.name)
    write_plan(files, texts)
    logger.info("Written: %s and %s. Train with: python -m sct.train +experiment=%s", *files, cfg.name)


def given_settings(cfg: DictConfig) -> dict[str, Any]:
    """Settings of the data set that the command line gives, by key; root says where the data are and not how."""
    keys = [key.split(".")[1] for key in by_key(HydraConfig.get().overrides.task) if key.startswith("data.")]
    return {key: plain(cfg.data[key]) for key in dict.fromkeys(keys) if key != "root"}


def plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
