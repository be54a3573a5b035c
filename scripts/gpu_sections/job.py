"""Input and output of a section of the report: sizes, device, and notes that survive a crash of its process."""

import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from duel import CONTESTANTS, Contestant

from sct.runtime.distributed import pick_device
from sct.runtime.files import write_text

ROOT = Path(__file__).parents[2]
# characters of a traceback that are kept: its end has the error
LAST_CHARACTERS = 4000

EXPERIMENTS = {
    "fast": ("+experiment=btcv_fast_stp",),
    "stp_mta": ("+experiment=btcv_stp_mta",),
    "dense_unetr": ("+experiment=btcv_dense_unetr",),
}
MONAI_UNETR = ("+experiment=btcv_dense_unetr", "model=monai_unetr")
QUARTER = ("inferer.overlap=0.25",)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured. Ratios are relative to the first contestant.

    windows: edges in voxels; training: overrides for every contestant in training; compile_modes: arguments of
    torch.compile; rivals: contestants of scripts/duel.py; ct_shape, ct_voxel_size (mm): the phantom CT;
    phantom_shape, loader: phantoms and settings of the loader's section; tests: arguments for pytest, all of tests/gpu
    if empty; test_settings: environment variables of the tests
    """

    networks: dict[str, tuple[str, ...]]
    precision: str
    windows: Sequence[int]
    batches: Sequence[int]
    warmup: int
    repeats: int
    training: tuple[str, ...]
    training_steps: int
    compile_modes: dict[str, dict[str, str]]
    compile_batches: Sequence[int]
    rivals: dict[str, Contestant]
    rounds: int
    ct_shape: Sequence[int]
    ct_voxel_size: Sequence[float]
    phantom_shape: Sequence[int]
    loader: tuple[str, ...]
    loader_steps: int
    tests: Sequence[str]
    test_settings: dict[str, str]


REAL = Sizes(
    networks={**EXPERIMENTS, "monai_unetr": MONAI_UNETR},
    precision="bf16",
    windows=(96, 128),
    batches=(1, 4),
    warmup=3,
    repeats=11,
    training=("trainer.precision=bf16",),
    training_steps=7,
    compile_modes={
        "default": {"mode": "default"},
        "reduce-overhead": {"mode": "reduce-overhead"},
        "max-autotune-no-cudagraphs": {"mode": "max-autotune-no-cudagraphs"},
    },
    compile_batches=(1, 4),
    # the contestants of scripts/duel.py, all in bf16
    rivals={
        name: replace(CONTESTANTS[name], predict=("precision=bf16", *overlap))
        for name, overlap in {"fast": (), "dense_unetr": QUARTER, "monai_unetr": QUARTER}.items()
    },
    rounds=2,
    ct_shape=(512, 512, 147),
    ct_voxel_size=(0.791, 0.791, 3.0),
    phantom_shape=(200, 200, 110),
    loader=(),
    loader_steps=6,
    tests=(),
    test_settings={},
)
NARROW = ("encoder.dim=24", "encoder.num_heads=2", "encoder.depth=4", "pruning.blocks=[1,2,3]")
NARROW_FAST = (*NARROW, "completion.dim=24", "completion.num_heads=2", "decoder.width=4", "decoder.voxels=4")
# the same on a CPU in seconds: only checks that the report works
SMALL = Sizes(
    networks={
        "fast": (*EXPERIMENTS["fast"], *NARROW_FAST),
        "dense_unetr": (*EXPERIMENTS["dense_unetr"], *NARROW, "decoder.feature_size=4"),
    },
    precision="fp32",
    windows=(16,),
    batches=(1, 2),
    warmup=1,
    repeats=2,
    training=("trainer.precision=fp32", "data.roi_size=[16,16,16]", "data.batch_size=1", "data.crops_per_volume=1"),
    training_steps=1,
    compile_modes={"eager": {"backend": "eager"}},
    compile_batches=(1,),
    rivals={"fast": Contestant((*EXPERIMENTS["fast"], *NARROW_FAST, "data.roi_size=[16,16,16]"), ("precision=fp32",))},
    rounds=1,
    ct_shape=(24, 24, 12),
    ct_voxel_size=(3.0, 3.0, 4.0),
    phantom_shape=(24, 24, 16),
    loader=("data.roi_size=[16,16,16]", "data.batch_size=1", "data.crops_per_volume=2"),
    loader_steps=2,
    # without the fixtures of the other tests, whose imports take long
    tests=("tests/gpu/test_gpu_attention.py", "-k", "gradients or 12", "--confcutdir=tests/gpu"),
    test_settings={"SCT_GPU_TESTS_ON": "cpu"},
)


@dataclass
class Job:
    """A running section. Every note is written to `file` at once: the report reads it even if this process dies.

    folder: for files of the section; seconds: its time limit; earlier: results of earlier sections by name; found: its
    results; errors: its errors by attempt; doing: the current attempt
    """

    file: Path
    folder: Path
    device_name: str
    sizes: Sizes
    seconds: float
    earlier: dict[str, dict[str, Any]]
    found: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    doing: str = "its beginning"

    @property
    def device(self) -> torch.device:
        return pick_device(self.device_name)

    def note(self, **found: Any) -> None:
        """Adds results; the values must be plain values for JSON."""
        self.found |= found
        self.save()

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Notes an error inside the block under this name; the section then continues after the block."""
        self.doing = name
        self.save()
        try:
            yield
        # scripts raise SystemExit for a mistake
        except (Exception, SystemExit):
            self.errors[name] = traceback.format_exc()[-LAST_CHARACTERS:]
        self.save()

    def save(self) -> None:
        write_text(self.file, json.dumps({"found": self.found, "errors": self.errors, "doing": self.doing}))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; numbers are not formatted, None becomes a dash."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |\n" for line in lines)
