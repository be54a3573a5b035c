"""The training loop: fit, one step, validation, saving."""

import copy
import logging
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_

from sct.config.schema import TrainerConfig
from sct.data.cases import Batch
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.evaluation.tokens import known_means
from sct.inference import Inferer
from sct.models.encoder import ViTEncoder
from sct.models.segmenter import Segmenter
from sct.models.selfcheck import choose_precision
from sct.models.weights.pretrained import load_pretrained
from sct.runs.folder import UNFINISHED
from sct.runtime import checkpoint
from sct.runtime.distributed import Processes, in_parallel
from sct.runtime.files import write_text
from sct.runtime.precision import NumberFormat, autocast
from sct.runtime.progress import Pace
from sct.runtime.resident import peak_resident_mb
from sct.runtime.saver import Saver
from sct.runtime.signals import Ending, Interrupted
from sct.training.goal import goal_of
from sct.training.loggers import RunLogger, add_losses, flat_settings, short
from sct.training.optim import gradient_norms, set_learning_rate, update_average, warmed_decay, warmup_notice
from sct.training.saving import restore, save_best, state_of
from sct.training.validation import is_better

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a segmenter. Random draws depend on (seed, step, process) only: a resumed run repeats exactly."""

    def __init__(
        self,
        *,
        settings: TrainerConfig,
        seed: int,
        config: dict[str, Any],
        processes: Processes,
        data: SegmentationData,
        segmenter: Segmenter,
        criterion: nn.Module,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        schedule: Callable[..., float],
        inferer: Inferer,
    ) -> None:
        self.settings, self.seed, self.config = settings, seed, config
        self.processes, self.data, self.inferer = processes, data, inferer
        self.device = processes.device
        self.criterion = criterion.to(self.device)
        self.segmenter = segmenter.to(self.device)
        self.optimizer = make_optimizer(self.segmenter)
        self.schedule, self.base_lr = schedule, self.optimizer.defaults["lr"]
        # bad settings are refused here, before the first step
        schedule(0, max_steps=settings.max_steps)
        self.goal = goal_of(data, network=self.segmenter, criterion=criterion)
        self.goal.check_best_metric(settings.best_metric)
        self.format = self.common_format()
        self.dtype = self.format.dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.ema = copy.deepcopy(self.segmenter).requires_grad_(False) if settings.ema_decay is not None else None
        self.step, self.saver = 0, Saver()
        self.saved_step: int | None = None  # of the last checkpoint that this process has read or written
        self.to_validate = False  # whether the validation of the last step is still to come
        self.best: dict[str, float] = {}
        # the network for training steps: compiled or wrapped for several processes, with the weights of `segmenter`
        self.model: nn.Module = self.segmenter
        if settings.compile:
            self.model.compile()
        if processes.world_size > 1:
            self.model = in_parallel(self.model)
        self.ending = Ending()
        self.run_dir: Path
        self.log: RunLogger

    def common_format(self) -> NumberFormat:
        """The number format for all processes: of the first process without bf16, else of the main process."""
        chosen = choose_precision(self.settings.precision, network=self.segmenter, device=self.device, learns=True)
        formats = self.processes.gather(chosen)
        return next((other for other in formats if other.name != "bf16"), formats[0])

    def fit(self, run_dir: Path, *, ending: Ending | None = None) -> dict[str, float]:
        """Trains from the current step to `max_steps`; returns the best validation row.

        Interrupted if a signal comes to `ending` in any process: all is saved, and the run is marked to be continued.
        """
        self.run_dir, self.ending = run_dir, ending or Ending()
        self.log = self.open_log(run_dir)
        steps = self.batches()  # fills the cache before the time of steps is measured
        with closing(steps), self.ending.held(), self.saver:
            try:
                self.take_steps(steps)
            except Interrupted as interrupted:
                self.save_unfinished(interrupted)
                self.processes.wait()  # one that ends before the others makes torchrun end them
                raise
        self.finish()
        return self.best

    def take_steps(self, steps: Iterator[list[Batch]]) -> None:
        """Trains on the batches of each step, logs, validates and saves; a signal ends it where no work is cut."""
        settings, parts, logged = self.settings, {"data": 0.0, "step": 0.0}, self.step
        pace = Pace(settings.max_steps, unit="step", done=self.step)
        if self.to_validate:  # a signal came before
            self.end_step()
        began = time.perf_counter()
        while (batches := self.next_batches(steps)) is not None:
            parts["data"] += time.perf_counter() - began
            began = time.perf_counter()
            row = self.train_step(batches)
            self.step += 1
            self.to_validate = self.step % settings.validate_every == 0 or self.step == settings.max_steps
            parts["step"] += time.perf_counter() - began
            self.log.advance(f"loss {row['train/loss']:.4f}")
            pace.advance()
            if self.is_logged(self.step):
                row = known_means(self.processes.gather(row))
                self.log.log({**row, **self.speed(parts, num_steps=self.step - logged)}, step=self.step)
                logged = self.step
            if pace.is_due(wanted=self.is_logged(self.step)):
                self.log.tell(f"step {self.step}/{settings.max_steps}  {short(row)}  {pace.text()}")
            if self.end_step():
                pace.pause()
            began = time.perf_counter()

    def next_batches(self, steps: Iterator[list[Batch]]) -> list[Batch] | None:
        """The batches of the next step; None after the last one."""
        # of several processes each must come to the same step before they end
        with self.ending.open() if self.processes.world_size == 1 else nullcontext():
            return next(steps, None)

    def end_step(self) -> bool:
        """Validates and saves if that is due; returns whether it was. Interrupted if a signal has come."""
        if number := self.processes.largest(self.ending.received or 0):
            raise Interrupted(number)
        self.saver.check()
        to_validate = self.to_validate
        to_save = self.step % self.settings.save_every == 0 or self.step == self.settings.max_steps
        if to_validate:
            self.validate()
        if to_save:
            self.save()
        return to_validate or to_save

    def open_log(self, run_dir: Path) -> RunLogger:
        """Opens the run's logs; rows after the current step are removed."""
        settings = self.settings
        log = RunLogger(
            run_dir,
            start_step=self.step,
            to_validate=self.to_validate,
            max_steps=settings.max_steps,
            is_main=self.processes.is_main,
            tensorboard=settings.tensorboard,
        )
        if self.processes.is_main:
            self.format.log()
        log.text("number_format", str(self.format))
        log.text("config", f"```yaml\n{OmegaConf.to_yaml(OmegaConf.create(self.config))}```")
        if notice := warmup_notice(self.config["schedule"], max_steps=settings.max_steps):
            log.tell(notice)
        return log

    def batches(self) -> Generator[list[Batch], None, None]:
        """The micro-batches of every remaining step; the cache is filled before this method returns."""
        loader = iter(
            self.data.train_loader(
                seed=self.seed,
                start_step=self.step,
                num_steps=self.settings.max_steps - self.step,
                rank=self.processes.rank,
                world_size=self.processes.world_size,
                micro_batches=self.settings.accumulate,
                device=self.device,
            )
        )
        remaining = range(self.settings.max_steps - self.step)
        return ([next(loader) for _ in range(self.settings.accumulate)] for _ in remaining)

    def train_step(self, batches: list[Batch]) -> dict[str, float]:
        """One optimizer update; UserError before any weight changes if the loss or the gradients are not finite."""
        self.model.train()
        self.segmenter.set_progress(self.step / self.settings.max_steps)
        lr = self.rate(self.step)
        set_learning_rate(self.optimizer, lr=lr)
        self.optimizer.zero_grad(set_to_none=True)
        row: dict[str, float] = {}
        for number, batch in enumerate(batches):
            torch.manual_seed(draw_seed(self.seed, self.step, number, self.processes.rank))
            image, label = batch["image"].to(self.device), batch["label"].to(self.device)
            is_last = number == len(batches) - 1
            with self.synchronize(is_last):
                with autocast(self.device, self.dtype):
                    prediction = self.model(image)
                losses = self.criterion(prediction, label, image=image)
                self.check_finite(losses, batch)
                if is_last and self.is_logged(self.step + 1):
                    row |= self.goal.statistics(prediction, label, network=self.segmenter)
                # the logits are among the largest tensors: the backward pass frees them when it needs them no more
                del prediction
                self.scaler.scale(losses["loss"] / len(batches)).backward()
            add_losses(row, losses, num_batches=len(batches))
        self.scaler.unscale_(self.optimizer)
        norms = gradient_norms(self.segmenter)
        row |= {"train/lr": lr, **{f"train/{name}": norm.item() for name, norm in norms.items()}}
        self.check_gradient(row["train/grad_norm"], batches)
        if self.settings.clip_norm is not None:
            clip_grads_with_norm_(self.segmenter.parameters(), self.settings.clip_norm, norms["grad_norm"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None and (decay := self.settings.ema_decay) is not None:
            decay = warmed_decay(decay, step=self.step) if self.settings.ema_warmup else decay
            update_average(self.ema, self.segmenter, decay=decay)
        return row

    def rate(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        return self.base_lr * self.schedule(step, max_steps=self.settings.max_steps)

    def is_logged(self, step: int) -> bool:
        """Whether the numbers of a step (counted from 1) are logged."""
        return step % self.settings.log_every == 0 or step == self.settings.max_steps

    def synchronize(self, is_last: bool) -> Any:
        """A context in which gradients are averaged over the processes only for the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            return self.model.no_sync()
        return nullcontext()

    def check_finite(self, losses: dict[str, Tensor], batch: Batch) -> None:
        bad = not torch.isfinite(losses["loss"]).item()
        if self.processes.any(bad):
            values = ", ".join(f"{name}={value.item():.4g}" for name, value in losses.items())
            self.stop(f"The loss is not finite ({values})", cases=batch["case"] if bad else [])

    def check_gradient(self, norm: float, batches: list[Batch]) -> None:
        # under fp16 the scaler skips such a step and lowers its scale
        if not self.scaler.is_enabled() and not torch.isfinite(torch.tensor(norm)):
            self.stop("The gradient is not finite", cases=[case for batch in batches for case in batch["case"]])

    def stop(self, reason: str, *, cases: list[str]) -> None:
        """Raises a UserError in all processes, with all cases of this step; checkpoints do not change."""
        names = sorted({name for part in self.processes.gather(cases) for name in part})
        raise UserError(
            f"{reason} at step {self.step + 1}, cases {', '.join(names)}. The checkpoints of {self.run_dir} are "
            "unchanged. Look at these cases; a lower optimizer.lr, trainer.clip_norm=1 or trainer.precision=fp32 "
            "may help."
        )

    def speed(self, parts: dict[str, float], *, num_steps: int) -> dict[str, float]:
        """Seconds a step for each part (`time/...`), of `parts` in all, and peak memory in MiB (`memory/peak_mb`)."""
        row = {f"time/{name}_s": seconds / num_steps for name, seconds in parts.items()}
        for name in parts:
            parts[name] = 0.0
        if self.device.type == "cuda":
            row["memory/peak_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        elif (peak := peak_resident_mb()) is not None:
            row["memory/peak_mb"] = peak
        return row

    def validate(self) -> None:
        """Judges the network on the validation cases; saves the weights if they are the best so far, or if all are."""
        network = self.ema if self.ema is not None else self.segmenter
        self.processes.share_buffers(network)  # the checkpoint has the main process's buffers
        row = self.goal.validate(
            network, inferer=self.inferer, processes=self.processes, dtype=self.dtype, ending=self.ending
        )
        self.log.log(row, step=self.step)
        self.log.tell(f"step {self.step}  validation  " + short(row))
        if self.processes.is_main and self.settings.tensorboard:
            for name, picture in self.goal.pictures(network, device=self.device).items():
                self.log.image(name, picture, step=self.step)
        is_best = is_better(row, self.best, metric=self.settings.best_metric)
        if is_best or not self.settings.choose_best:
            self.best = {"step": self.step, **row}
            if self.processes.is_main:
                save_best(self, network)
        self.to_validate = False

    def save(self) -> None:
        """Saves everything that is needed to resume the run exactly."""
        if self.processes.is_main:
            self.saver.save_step(state_of(self), self.run_dir, step=self.step, previous=self.saved_step)
            self.saved_step = self.step

    def save_unfinished(self, interrupted: Interrupted) -> None:
        """Saves the state at a signal, marks the run as to be continued and adds to the exception how that is done."""
        if self.step > 0:
            self.save()
            self.saver.wait()
        if self.processes.is_main:
            write_text(self.run_dir / UNFINISHED, f"step {self.step}, {signal.Signals(interrupted.number).name}\n")
        self.log.close()
        interrupted.advice = (
            f"Saved at step {self.step} of {self.settings.max_steps}. Go on with  python -m sct.train "
            f"resume={self.run_dir}  or with the same command and resume=auto."
        )

    def start_from(self, weights: dict[str, Tensor], *, source: str) -> None:
        """Loads another run's weights before the first step, where names and shapes agree."""
        checkpoint.initialize(self.segmenter, weights, source=source)
        self.begin_average()

    def start_pretrained(self, source: str) -> None:
        """Loads published weights into the encoder before the first step."""
        encoder = self.segmenter.encoder
        if not isinstance(encoder, ViTEncoder):
            raise UserError(f"pretrained={source} needs the transformer encoder of sct, and model=... has none.")
        load_pretrained(encoder, source)
        self.begin_average()

    def begin_average(self) -> None:
        """Sets the moving average to the current weights."""
        if self.ema is not None:
            self.ema.load_state_dict(self.segmenter.state_dict())

    def restore(self, run_dir: Path) -> None:
        """Resumes from the newest checkpoint of a run folder that is whole, if there is one."""
        restore(self, run_dir)

    def finish(self) -> None:
        """Marks the run as finished, writes settings and results to TensorBoard and closes the logs."""
        if self.processes.is_main:
            write_text(self.run_dir / "finished", f"{self.step}\n")
        results = {f"best/{name}": value for name, value in self.best.items() if name != "step"}
        self.log.hparams(flat_settings(self.config), results)
        self.log.close()


def draw_seed(*numbers: int) -> int:
    """A seed for the random draws in the network; it depends only on `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
