"""Where a run's numbers go: metrics.jsonl (complete and exact), TensorBoard, and the terminal."""

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sct.runtime.files import append_line, write_text
from sct.runtime.rows import FILE, read_rows

logger = logging.getLogger(__name__)


class RunLogger:
    """Writes the numbers of every logged step; with `is_main=False` it writes nothing."""

    def __init__(
        self,
        run_dir: Path,
        *,
        start_step: int,
        max_steps: int,
        is_main: bool,
        tensorboard: bool,
        to_validate: bool = False,
    ) -> None:
        self.is_main = is_main
        self.file = run_dir / FILE
        self.writer = None
        self.bar: tqdm | None = None
        if not is_main:
            return
        cut_after(self.file, step=start_step, to_validate=to_validate)
        if tensorboard:
            self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1)
        if sys.stderr.isatty():
            self.bar = tqdm(total=max_steps, initial=start_step, unit="step", dynamic_ncols=True)

    def log(self, values: dict[str, float], *, step: int) -> None:
        """Writes one row of named numbers; `step` is the number of finished steps."""
        if not self.is_main:
            return
        append_line(self.file, json.dumps({"step": step, **values}))
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def tell(self, message: str) -> None:
        """Logs one line, on the terminal above the progress bar."""
        if not self.is_main:
            return
        if self.bar is not None:
            self.bar.clear()
        logger.info(message)

    def advance(self, text: str) -> None:
        """Moves the progress bar by one step."""
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()

    def image(self, name: str, picture: np.ndarray, *, step: int) -> None:
        """Writes a picture (H, W, 3) uint8 to TensorBoard."""
        if self.writer is not None:
            self.writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str) -> None:
        if self.writer is not None:
            self.writer.add_text(name, text)

    def hparams(self, settings: dict[str, Any], results: dict[str, float]) -> None:
        """Writes the settings of the run and its results to TensorBoard's HPARAMS page."""
        if self.writer is not None:
            self.writer.add_hparams(settings, results, run_name=".")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self.writer.close()


def cut_after(file: Path, *, step: int, to_validate: bool = False) -> None:
    """Removes the rows after `step` and an incomplete last line: a resumed run writes these rows again.

    Damaged lines between good ones are removed, too, with a warning that names them. to_validate: the validation of
    `step` is to come, and its row goes.
    """
    if not file.exists():
        return
    rows = read_rows(file)
    if rows.damaged:
        numbers = ", ".join(map(str, rows.damaged))
        logger.warning("%s: removed damaged line(s) %s; all others are kept", file, numbers)

    def is_kept(row: Mapping[str, Any]) -> bool:
        return row["step"] < step or (row["step"] == step and ("train/loss" in row or not to_validate))

    kept = [line.decode() for line, row in zip(rows.lines, rows.values, strict=True) if is_kept(row)]
    write_text(file, "".join(f"{line}\n" for line in kept))


def add_losses(row: dict[str, float], losses: Mapping[str, Tensor], *, num_batches: int) -> None:
    """Adds the losses of one of `num_batches` micro-batches to the means in `row`.

    The total is `train/loss`; its parts are `train/loss_ce` and so on: `train/dice` would look like a score.
    """
    for part, value in losses.items():
        name = "train/loss" if part == "loss" else f"train/loss_{part}"
        row[name] = row.get(name, 0.0) + value.item() / num_batches


def short(row: dict[str, float]) -> str:
    """The main numbers of a row as text."""
    names = ("train/loss", "train/lr", "train/grad_norm", "val/dice/mean", "val/explained")
    return "  ".join(f"{name.split('/', 1)[1]} {row[name]:.4g}" for name in names if name in row)


def flat_settings(config: dict[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names with numbers, booleans or strings as values, for TensorBoard."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flat_settings(value, prefix=f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat
