"""The schema of a command's config: every key that may stand outside a group, with its type and default."""

from collections.abc import Sequence
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
    compile: torch.compile of the network
    deterministic: the same operations in the same order in every run, in exchange for some speed
    log_every: steps between two logged rows
    validate_every: steps between two validations
    save_every: steps between two checkpoints
    best_metric: score of a validation by which the best weights are chosen: val/dice/mean or val/dice/CLASS
    tensorboard: also write all numbers and pictures for TensorBoard
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
    resume: null starts a new run; auto goes on with the newest unfinished run of the same config; once does the same
        and repeats no finished run; or a run folder to go on with
    init: a run or checkpoint whose weights a new run starts with, such as the dense twin
    pretrained: published 2-D weights for the encoder of a new run: a local .pth, .pt or .safetensors file, or timm:NAME
    run_dir: the folder of the run itself, instead of paths.outputs/name/time
    ckpt: a trained run or checkpoint to profile, instead of a new network; for sct.profile only
    data: the data set, its preprocessing and its batches
    encoder: the vision transformer and its pruning method
    completion: how the sparse tokens become a dense grid again
    decoder: how the dense grid becomes logits of every voxel
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
class PlanConfig:
    """What `sct.data plan` reads and writes.

    name: the files configs/data/NAME.yaml and configs/experiment/NAME.yaml of the working directory are written
    data: the data set: a layout and its settings; data.KEY=VALUE on the command line is kept as it is
    device: what will train: auto (a GPU where there is one), cpu or cuda
    memory: GiB of the GPU, or of the main memory of a processor; null: what is here
    cores: cores of the processor; null: those here
    overwrite: replace the files of an earlier plan of this name
    paths: folders for data, outputs and caches
    plugins: packages of your own whose code the data set may name, such as [mypkg]; see docs/how-to/own-code.md
    """

    name: str = "mine"
    data: dict[str, Any] = MISSING
    device: str = "auto"
    memory: float | None = None
    cores: int | None = None
    overwrite: bool = False
    paths: PathsConfig = field(default_factory=PathsConfig)
    plugins: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_plugins(self.plugins)
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"device={self.device} must be auto, cpu or cuda: what will train.")
        if self.memory is not None and self.memory < 1:
            raise UserError(f"memory={self.memory} must be at least 1 GiB, or null for what is here.")
        if self.cores is not None and self.cores < 1:
            raise UserError(f"cores={self.cores} must be at least 1, or null for those here.")


@dataclass
class InferenceConfig:
    """What evaluation and prediction share; `null` keeps what the run was trained with.

    ckpt: a run folder or a checkpoint file
    weights: best or last, where ckpt is a run folder
    device: auto (a GPU where there is one), cpu, cuda or cuda:NUMBER
    precision: number format: auto, fp32, bf16 or fp16; null: that of the training
    inferer: another inferer (inferer=fast), or single settings of it (inferer.overlap=0.25); the others are as in the
        run
    plugins: packages of your own whose code the run may name, such as [mypkg]; see docs/how-to/own-code.md
    postprocess: chosen, the post-processing that was chosen for the run, if any; none, the labels as predicted
    """

    ckpt: str = MISSING
    weights: str = "best"
    device: str = "auto"
    precision: str | None = None
    inferer: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    postprocess: str = "chosen"

    def __post_init__(self) -> None:
        check_plugins(self.plugins)
        if self.precision is not None:
            check_precision(self.precision, key="precision")
        self.check_postprocess()

    def check_postprocess(self) -> None:
        """UserError for what this command does not do."""
        check_postprocess(self.postprocess, choices=("chosen", "none"))


@dataclass
class EvalConfig(InferenceConfig):
    """What `sct.eval` scores and writes.

    split: cases to score: val or test
    output: folder of tables, predictions and figures; null: RUN/eval/SPLIT
    data: single settings of the data, such as data.root=PATH; the others are as in the run
    save_predictions: write the label maps
    figures: number of cases that are drawn, the first of the split
    lesions: also count the connected parts of every class, found, missed and false
    postprocess: chosen, none, or choose: first chooses the post-processing of the run, on its validation cases
    shard: i/n, part i of n of the cases, counted from 0; the tables are written when the last part ends; null: all, or
        the part of a process of torchrun, srun or a Slurm array
    """

    split: str = "test"
    output: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    save_predictions: bool = True
    figures: int = 3
    lesions: bool = False
    shard: str | None = None

    def check_postprocess(self) -> None:
        check_postprocess(self.postprocess, choices=("chosen", "none", "choose"))


@dataclass
class PredictConfig(InferenceConfig):
    """What `sct.predict` reads and writes.

    ckpt: a run folder, a checkpoint file, or a folder or file that sct.export wrote
    input: an image of the data set's format (a DICOM series is a folder or a zip file), a folder of images, or a .txt
        file with the path of one on every line
    output: folder of the label maps, each with the name of its input; or a file, where one image is predicted
    format: kind of the label maps: nifti, nrrd, mha or dicom-seg (DICOM SEG beside a NIfTI file); null: that of the
        input
    series: UID of the DICOM series to predict where input holds several
    recursive: also images in the folders below a folder
    shard: i/n, part i of n of the cases, counted from 0; null: all, or the part of a process of torchrun, srun or a
        Slurm array
    backend: torch, onnx or openvino: predict with the export in RUN/export/BACKEND; null: with the run's own network
    """

    input: str = MISSING
    output: str = MISSING
    format: str | None = None
    series: str | None = None
    recursive: bool = False
    shard: str | None = None
    backend: str | None = None


@dataclass
class ExportConfig:
    """What is exported and how; `windows` real windows, of `input` or of the validation cases, check the result.

    ckpt: a run folder or a checkpoint file
    format: torch, onnx or openvino (a graph with a fixed number of tokens), or bundle (for monai.bundle, any network)
    output: a new or empty folder; null: RUN/export/FORMAT, where sct.predict backend=... looks
    weights: best or last, where ckpt is a run folder
    batch: windows in one call of the graph; null: any number
    half: store the weights in 16 bits, half the size of the file; openvino only
    precision: number format of the graph: fp32, or bf16 with openvino
    authors: who signs a bundle
    input: a file or folder whose windows check the export; null: the validation cases of the run
    data: single settings of the data, such as data.root=PATH; the others are as in the run
    windows: number of windows that check the export
    agreement: least share of equal labels, 0 to 1; below it the export fails
    plugins: packages of your own whose code the run may name, such as [mypkg]; see docs/how-to/own-code.md
    """

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
    """What `sct.report` puts into its table.

    runs: run folders, folders of runs, or patterns in quotes; a list in brackets
    split: split of the evaluations: val or test
    baseline: row that the others are compared with: its label, or a part that no other label has; null: none
    scores: columns: any of dice, iou, accuracy, sensitivity, specificity, nsd, hd95, and lesion for lesion-wise ones
    classes: also a column for every class
    papers: a YAML file {label: {column: figure}} with figures of papers, which get columns of their own
    plot: also draw Dice against cost
    cost: cost in the plot: macs or inference (images/s)
    output: folder of table.md, table.csv, table.tex and the plot
    """

    runs: Any = MISSING
    split: str = "test"
    baseline: str | None = None
    scores: list[str] = field(default_factory=lambda: ["dice", "nsd", "hd95"])
    classes: bool = False
    papers: str | None = None
    plot: bool = False
    cost: str = "macs"
    output: str = "outputs/report"


@dataclass
class VerifyConfig:
    """What `sct.verify` compares.

    ckpt: an evaluated run
    split: which of its evaluations: val or test
    card: a card file instead of ckpt, with retrain=true
    retrain: train the run again from its card, and compare the weights too
    tolerance: largest difference of a score
    output: folder of the new run with retrain=true; null: a temporary folder
    plugins: packages of your own whose code the run may name, such as [mypkg]; see docs/how-to/own-code.md
    """

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


def check_postprocess(name: str, *, choices: Sequence[str]) -> None:
    """UserError for what is none of the choices."""
    if name not in choices:
        hint = " A run chooses with  python -m sct.eval ckpt=RUN postprocess=choose" if name == "choose" else ""
        raise UserError(f"postprocess={name} must be one of {', '.join(choices)}.{hint}")


def check_precision(name: str, *, key: str = "trainer.precision") -> None:
    """UserError for what is no number format."""
    if name not in PRECISIONS:
        raise UserError(f"{key}={name} must be one of {', '.join(PRECISIONS)}.")


def register_schemas() -> None:
    """Makes the schemas known to Hydra; the root configs name them in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=Config)
    store.store(name="plan_schema", node=PlanConfig)
    store.store(name="eval_schema", node=EvalConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="verify_schema", node=VerifyConfig)
