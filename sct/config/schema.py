"""The schema of a training's config: every key outside the groups, with its type and default."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from sct.config.trust import check_plugins
from sct.errors import UserError

# sct.runtime.precision says what they are in torch, which takes seconds to import
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass
class PathsConfig:
    """Where data, outputs and caches are.

    data: folder of the data sets
    outputs: folder of the run folders
    cache: folder of prepared volumes and of the results of data checks
    """

    data: str = "data"
    outputs: str = "outputs"
    cache: str = "${paths.outputs}/cache"


@dataclass
class PruningConfig:
    """What every pruning method shares, so that swapping the encoder keeps places and ratio.

    blocks: blocks after which tokens are pruned, counted from 1; 0 is the embedding
    ratio: share of the tokens alive that is pruned at each pruning block, 0 to below 1
    """

    blocks: list[int] = field(default_factory=lambda: [3, 6, 9])
    ratio: float = 0.9


@dataclass
class TrainerConfig:
    """How a run is trained. Steps are the clock: one step is one optimizer update.

    precision: number format: fp32, bf16, fp16, or auto: bf16 where the device computes in it natively and every kind of
        layer agrees with fp32 there, else fp32
    max_steps: steps of the training
    device: auto (a GPU where there is one), cpu, cuda or cuda:NUMBER
    accumulate: micro-batches of data.batch_size volumes in one step
    clip_norm: largest norm of all gradients together; null: no clipping
    ema_decay: decay of a moving average of the weights, between 0 and 1, such as 0.999: the average is validated and
        kept; null: none
    ema_warmup: after t steps the decay is at most (1 + t) / (10 + t), so that the average forgets the first weights
    deep_supervision: the decoder's coarser levels have a loss of their own in training, as in nnU-Net; of decoders that
        have levels
    compile: torch.compile of the network
    deterministic: the same operations in the same order in every run, in exchange for some speed
    log_every: steps between two logged rows
    validate_every: steps between two validations
    save_every: steps between two checkpoints
    best_metric: score of a validation by which the best weights are chosen: val/dice/mean or val/dice/CLASS, or
        val/explained of a pretraining without labels
    choose_best: whether the weights with the best score are kept as the best ones; false: those of the last validation,
        as in nnU-Net. The best score of a few validation cases is often chance
    tensorboard: also write all numbers and pictures for TensorBoard
    """

    max_steps: int = 1000
    device: str = "auto"
    precision: str = "auto"
    accumulate: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    ema_warmup: bool = False
    deep_supervision: bool = False
    compile: bool = False
    deterministic: bool = True
    log_every: int = 10
    validate_every: int = 100
    save_every: int = 100
    best_metric: str = "val/dice/mean"
    choose_best: bool = True
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name in ("max_steps", "accumulate", "log_every", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"trainer.{name}={getattr(self, name)} must be at least 1.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(f"trainer.clip_norm={self.clip_norm} must be above 0, or null for no clipping.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay={self.ema_decay} must lie between 0 and 1, or null for no average.")


@dataclass
class ProfileConfig:
    """What is profiled and how: the `profile` node of a config.

    convention: how MACs are counted: fvcore (all that fvcore counts, and attention), paper (as the STP paper) or
        modules (linear and convolution layers only)
    batch_size: images in one forward pass
    warmup: untimed runs at the start
    repeats: timed runs
    precision: number format: auto, fp32, bf16 or fp16
    latency: measure time and memory; false: only count
    training: also measure a step of training
    trace: write a trace of torch.profiler for TensorBoard
    windows: real windows of the data set, for methods whose cost depends on the image: MACs are averaged over them,
        tokens alive are given as a distribution, time is taken on the first batch_size; 0: one image of noise
    split: split of the real windows: train, val or test
    """

    convention: str = "fvcore"
    batch_size: int = 1
    warmup: int = 2
    repeats: int = 10
    precision: str = "auto"
    latency: bool = True
    training: bool = True
    trace: bool = False
    windows: int = 0
    split: str = "val"

    def __post_init__(self) -> None:
        check_precision(self.precision, key="profile.precision")
        for name, least in (("batch_size", 1), ("warmup", 0), ("repeats", 1), ("windows", 0)):
            if getattr(self, name) < least:
                raise UserError(f"profile.{name}={getattr(self, name)} must be at least {least}.")
        if 0 < self.windows < self.batch_size:
            raise UserError(f"profile.windows={self.windows} must be 0 or at least batch_size={self.batch_size}.")


@dataclass
class Config:
    """Root of `train` and `profile`: every group of `configs/` is one key.

    A new training starts from random weights, from those of another run (`init`), or with published 2-D weights in
    its encoder (`pretrained`: a local state dict, or timm:NAME).

    name: name of the run: its folder is paths.outputs/name/time; default: the experiment's name, or what runs instead
        where the command changes a group
    seed: seed of the weights, the batches and all else that is random
    resume: null starts a new run; auto goes on with the unfinished run of the same config that has come furthest; once
        does the same and repeats no finished run; or a run folder to go on with
    init: a run or checkpoint whose weights a new run starts with, such as the dense twin
    pretrained: published 2-D weights for the encoder of a new run: a local .pth, .pt or .safetensors file, or timm:NAME
    run_dir: the folder of the run itself, instead of paths.outputs/name/time
    ckpt: a trained run or checkpoint to profile, instead of a new network; for sct.profile only
    data: the data set, its preprocessing and its batches
    encoder: the vision transformer and its pruning method
    completion: how the sparse tokens become a dense grid again
    decoder: how the dense grid becomes logits of every voxel
    look: a small network that says which patches of a scan may hold organs, so that windows elsewhere are not
        predicted; null: none
    model: a whole network instead of encoder, completion and decoder; null: none
    loss: what the training minimises
    optimizer: how the weights are updated
    schedule: the learning rate over the steps
    inferer: how windows cover a whole image in validation and evaluation
    pruning: what all pruning methods share
    trainer: length, precision and records of the training
    profile: what sct.profile measures
    paths: folders for data, outputs and caches
    plugins: packages of your own whose code a saved run may name, such as [mypkg]; see docs/how-to/own-code.md
    found: never given: what a training read from the data set's files and its run keeps, such as the names of the
        labels
    """

    name: str = MISSING
    seed: int = 0
    resume: str | None = None
    init: str | None = None
    pretrained: str | None = None
    run_dir: str | None = None
    ckpt: str | None = None
    data: dict[str, Any] = MISSING
    encoder: dict[str, Any] = MISSING
    completion: dict[str, Any] = MISSING
    decoder: dict[str, Any] = MISSING
    look: Any = None
    model: Any = None
    loss: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    inferer: dict[str, Any] = MISSING
    pruning: PruningConfig = field(default_factory=PruningConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    plugins: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_plugins(self.plugins)


def check_precision(name: str, *, key: str = "trainer.precision") -> None:
    """UserError for what is no number format."""
    if name not in PRECISIONS:
        raise UserError(f"{key}={name} must be one of {', '.join(PRECISIONS)}.")
