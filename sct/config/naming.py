"""The name of a run: that of its experiment, or, where the command changes a group of it, what runs instead."""

from collections.abc import Mapping

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

# what may change what runs: the groups that say what a network is and what it sees, and sets of settings with such
NETWORK = ("encoder", "completion", "decoder")
NAMED = ("data", *NETWORK, "model")
CHANGES = {*NAMED, "variant", "debug"}


def run_name(cfg: DictConfig, *, given: Mapping[str, str]) -> str:
    """The name of the run that a command line describes, such as `hippocampus_evit_mta_unetr`; given: override by key.

    A name from the command line, or from a sweep or any other file than the experiment's, stays as it is. So does the
    experiment's own name as long as all groups are the experiment's. Where one is not, by `encoder=evit` or by
    `+variant=evit_mta`, the name is made of what runs: data, encoder, completion and decoder, or data and model.
    """
    if "name" in given or not given.keys() & CHANGES:
        return str(cfg.name)
    name, choices = experiment_alone(given)
    if cfg.name != name or chosen(*NAMED) == choices:
        return str(cfg.name)
    return name_of_choices(cfg)


def earlier_name(cfg: DictConfig, *, given: Mapping[str, str]) -> str:
    """The name that earlier versions gave the run: always the experiment's, where `run_name` has made one."""
    if "name" in given or not given.keys() & CHANGES or cfg.name != name_of_choices(cfg):
        return str(cfg.name)
    return experiment_alone(given)[0]


def name_of_choices(cfg: DictConfig) -> str:
    return "_".join(chosen("data", *(NETWORK if cfg.model is None else ("model",))).values())


def chosen(*groups: str) -> dict[str, str]:
    """What the command has chosen of some groups."""
    return {group: str(HydraConfig.get().runtime.choices[group]) for group in groups}


def experiment_alone(given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Name and choices of the command's experiment, or of none, without any change."""
    overrides = [given["experiment"]] if "experiment" in given else []
    cfg = compose(config_name=HydraConfig.get().job.config_name, overrides=overrides, return_hydra_config=True)
    return str(cfg.name), {group: str(cfg.hydra.runtime.choices[group]) for group in NAMED}
