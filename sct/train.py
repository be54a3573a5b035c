"""`python -m sct.train +experiment=NAME`: trains a segmenter."""

import torch
from omegaconf import DictConfig, OmegaConf

from sct import cli, distributed
from sct.config import TrainerConfig, build, check_config, to_dict
from sct.factory import build_inferer, build_segmenter
from sct.run import open_run
from sct.trainer import Trainer


def train(cfg: DictConfig) -> float:
    """Trains what the config describes; returns the best validation score, for sweepers."""
    processes = distributed.join(cfg.trainer.device)
    try:
        check_config(cfg)
        cfg, run_dir = open_run(cfg, processes=processes)
        settings = trainer_settings(cfg)
        set_determinism(settings.deterministic, device=processes.device)
        data = build(cfg.data, key="data")
        # one process prepares files and checks them, the others find the result
        if processes.is_main:
            data.prepare()
        processes.broadcast(None)
        data.prepare()
        torch.manual_seed(cfg.seed)
        trainer = Trainer(
            settings=settings,
            seed=cfg.seed,
            run_dir=run_dir,
            config=to_dict(cfg),
            processes=processes,
            data=data,
            segmenter=build_segmenter(cfg, data=data),
            criterion=build(cfg.loss, key="loss"),
            make_optimizer=build(cfg.optimizer, key="optimizer"),
            schedule=build(cfg.schedule, key="schedule"),
            inferer=build_inferer(cfg),
        )
        trainer.log.tell(f"run folder {run_dir}")
        best = trainer.fit()
        trainer.log.tell(
            f"best {settings.best_metric} {best[settings.best_metric]:.4f} at step {best['step']}; "
            f"evaluate with  python -m sct.eval ckpt={run_dir}"
        )
        return best[settings.best_metric]
    finally:
        distributed.leave()


def trainer_settings(cfg: DictConfig) -> TrainerConfig:
    """The typed trainer section, also where the config was read back from a file."""
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainerConfig), cfg.trainer))
    assert isinstance(settings, TrainerConfig)
    return settings


def set_determinism(on: bool, *, device: torch.device) -> None:
    """The same operations in the same order; on CUDA a few have no such form and only warn."""
    torch.use_deterministic_algorithms(on, warn_only=device.type == "cuda")
    torch.backends.cudnn.benchmark = not on


def main() -> None:
    cli.run(train, config_name="train")


if __name__ == "__main__":
    main()
