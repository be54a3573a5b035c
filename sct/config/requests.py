"""The schemas of the other commands: what they take, with types and defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from sct.config.schema import Config, PathsConfig, check_precision
from sct.config.trust import check_plugins
from sct.errors import UserError


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
    first_look: calibrated, the run's first look, if it is calibrated, chooses the windows; none, all windows
    """

    ckpt: str = MISSING
    weights: str = "best"
    device: str = "auto"
    precision: str | None = None
    inferer: dict[str, Any] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    postprocess: str = "chosen"
    first_look: str = "calibrated"

    def __post_init__(self) -> None:
        check_plugins(self.plugins)
        if self.precision is not None:
            check_precision(self.precision, key="precision")
        self.check_choices()

    def check_choices(self) -> None:
        """UserError for what this command does not do."""
        check_choice("postprocess", self.postprocess, choices=("chosen", "none"))
        check_choice("first_look", self.first_look, choices=("calibrated", "none"))


@dataclass
class EvalConfig(InferenceConfig):
    """What `sct.eval` scores and writes.

    split: cases to score: val or test
    output: folder of tables, predictions and figures; null: RUN/eval/SPLIT
    data: single settings of the data, such as data.root=PATH; the others are as in the run
    encoder: single settings of the run's pruning method that carry no weights, such as encoder.reducer.ratio=0.7; the
        files then are in RUN/changed/SETTINGS/eval/SPLIT
    save_predictions: write the label maps
    figures: number of cases that are drawn, the first of the split
    lesions: also count the connected parts of every class, found, missed and false
    selection: also predict with other tokens (random, inverted, the best by the labels) and write selection.json: what
        the choice of tokens is worth; takes five times as long
    postprocess: chosen, none, or choose: first chooses the post-processing of the run, on its validation cases
    first_look: calibrated, none, or calibrate: first calibrates the run's first look, on its validation cases
    first_look_keep: least share of an organ's voxels, in each validation case, that the calibration keeps
    first_look_margin: patches round those worth predicting that are predicted as well; the outermost count as context
    shard: i/n, part i of n of the cases, counted from 0; the tables are written when the last part ends; null: all, or
        the part of a process of torchrun, srun or a Slurm array
    """

    split: str = "test"
    output: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    save_predictions: bool = True
    figures: int = 3
    lesions: bool = False
    selection: bool = False
    first_look_keep: float = 0.999
    first_look_margin: int = 2
    shard: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selection and self.shard is not None:
            raise UserError("selection=true is measured by one process: leave out shard, or measure it without.")

    def check_choices(self) -> None:
        check_choice("postprocess", self.postprocess, choices=("chosen", "none", "choose"))
        check_choice("first_look", self.first_look, choices=("calibrated", "none", "calibrate"))


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
    scores: columns: any of dice, iou, pooled_iou, accuracy, sensitivity, specificity, nsd, hd95, and lesion for
        lesion-wise ones
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

    ckpt: an evaluated run, or RUN/changed/SETTINGS for its evaluation with changed settings
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


# what sct.eval alone does, before it evaluates
FIRST = {"choose": "A run chooses with", "calibrate": "A run calibrates with"}


def check_choice(key: str, name: str, *, choices: Sequence[str]) -> None:
    """UserError for a value of a key that is none of the choices."""
    if name not in choices:
        hint = f" {FIRST[name]}  python -m sct.eval ckpt=RUN {key}={name}" if name in FIRST else ""
        raise UserError(f"{key}={name} must be one of {', '.join(choices)}.{hint}")


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
