"""Prediction: label maps of new images, by a run's own network or by one that was exported from it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from sct.inference.cases import find_inputs, predict_cases
from sct.runs.backends import find_predictor
from sct.runs.build import build_inferer
from sct.runs.folder import log_to
from sct.runtime.distributed import pick_device
from sct.runtime.memory import keep_large_blocks


def predict(cfg: DictConfig) -> None:
    """Writes one label map per input, on the grid and in the format of its input, never over an input."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses what is no number format
    device = pick_device(cfg.device)
    changes = {"inferer": OmegaConf.to_container(cfg.inferer)}
    run_cfg, data, load = find_predictor(cfg, changes=changes, device=device)
    cases = find_inputs(Path(cfg.input), file_format=data.format)
    data.check_files(cases)
    torch.backends.cudnn.benchmark = True  # windows have one size: the fastest kernel for it is soon found
    if len(cases) == 1:
        keep_large_blocks()
    # a thread keeps the number of helpers that it first asks for: before the loading changes it for a while
    torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load)
        del load  # it holds the weights once more
        predict_cases(
            cases,
            data=data,
            load=loaded.result,
            inferer=build_inferer(run_cfg),
            device=device,
            output=Path(cfg.output),
        )
