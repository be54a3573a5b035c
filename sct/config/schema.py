"""The schema of a command's config: every key that may stand outside a group, with its type and default."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from sct.config.trust import check_plugins
from sct.errors import UserError

# sct.runtime.precision says what they are in torch, which takes seconds to import
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass
class PathsConfig:
    data: str = "data"
    outputs: str = "outputs"
    cache: str = "${paths.outputs}/cache"


@dataclass
class PruningConfig:
    """What every pruning method shares, so that swapping the encoder keeps places and ratio."""

    blocks: list[int] = field(default_factory=lambda: [3, 6, 9])
    ratio: float = 0.9


@dataclass
class TrainerConfig:
    """How a run is trained. Steps are the clock: one step is one optimizer update.

    precision: auto is bf16 where the device computes in it natively and every kind of layer agrees with fp32 there,
    else fp32, see sct.models.selfcheck
    """

    max_steps: int = 1000
    device: str = "auto"
    precision: str = "auto"
    accumulate: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    compile: bool = False
    deterministic: bool = True
    log_every: int = 10
    validate_every: int = 100
    save_every: int = 100
    best_metric: str = "val/dice/mean"
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

    `latency=false` leaves out time and memory, `training=false` the training step. `repeats` runs are timed
    after `warmup` untimed ones. `trace` writes a torch.profiler trace for TensorBoard. `windows` real windows of
    the data set's `split`, instead of one image of noise, are what methods need whose cost depends on the image:
    MACs are averaged over them, tokens alive are given as a distribution, time is taken on the first `batch_size`.
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
    its encoder (`pretrained`: a local state dict, or timm:NAME). `plugins` are the packages whose code a saved config
    may name, see sct.config.trust. `found` is written by a training: what it read from the data set's files and a run
    keeps, such as the names of the labels.
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


@dataclass
class InferenceConfig:
    """What evaluation and prediction share; `null` keeps what the run was trained with."""

    ckpt: str = MISSING
    weights: str = "best"
    device: str = "auto"
    precision: str | None = None
    inferer: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_plugins(self.plugins)
        if self.precision is not None:
            check_precision(self.precision, key="precision")


@dataclass
class EvalConfig(InferenceConfig):
    split: str = "test"
    output: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    save_predictions: bool = True
    figures: int = 3


@dataclass
class PredictConfig(InferenceConfig):
    input: str = MISSING
    output: str = MISSING
    backend: str | None = None


@dataclass
class ExportConfig:
    """What is exported and how; `windows` real windows, of `input` or of the validation cases, check the result."""

    ckpt: str = MISSING
    format: str = MISSING
    output: str | None = None
    weights: str = "best"
    batch: int | None = None
    half: bool = False
    precision: str = "fp32"
    authors: str = "not named"
    input: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    windows: int = 4
    agreement: float = 0.999
    plugins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_plugins(self.plugins)
        check_precision(self.precision, key="precision")
        if self.precision == "auto":
            raise UserError(
                "precision=auto: a graph is checked in one number format, to be run on any machine. Leave precision "
                "out for fp32, or give precision=bf16 with format=openvino."
            )
        if self.batch is not None and self.batch < 1:
            raise UserError(f"batch={self.batch} must be at least 1 window in a call, or null for any number.")
        if self.windows < 1:
            raise UserError(f"windows={self.windows} must be at least 1: an export is checked on real windows.")
        if not 0 <= self.agreement <= 1:
            raise UserError(f"agreement={self.agreement} must be a share of the voxels, from 0 to 1.")


@dataclass
class ReportConfig:
    runs: Any = MISSING
    split: str = "test"
    baseline: str | None = None
    scores: list[str] = field(default_factory=lambda: ["dice", "hd95"])
    classes: bool = False
    papers: str | None = None
    plot: bool = False
    cost: str = "macs"
    output: str = "outputs/report"


@dataclass
class VerifyConfig:
    ckpt: str | None = None
    split: str = "test"
    card: str | None = None
    retrain: bool = False
    tolerance: float = 0.0
    output: str | None = None
    plugins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_plugins(self.plugins)
        if (self.ckpt is None) == (self.card is None):
            raise UserError("Give ckpt=RUN, or card=FILE with retrain=true.")
        if self.card is not None and not self.retrain:
            raise UserError(f"card={self.card} alone has no weights to score: set retrain=true, or give ckpt=RUN.")


def check_precision(name: str, *, key: str = "trainer.precision") -> None:
    """UserError for what is no number format."""
    if name not in PRECISIONS:
        raise UserError(f"{key}={name} must be one of {', '.join(PRECISIONS)}.")


def register_schemas() -> None:
    """Makes the schemas known to Hydra; the root configs name them in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=Config)
    store.store(name="eval_schema", node=EvalConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="verify_schema", node=VerifyConfig)
