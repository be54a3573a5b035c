"""Wall-clock time and peak memory of a network, in total and by part, for inference and for a training step.

Letters: B batch, Q classes, S spatial size.
"""

import platform
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function

from sct.models.segmenter import Segmenter
from sct.runtime.precision import autocast
from sct.runtime.resident import peak_resident_mb, reset_peak

T = TypeVar("T")


class Stopwatch:
    """Measures the duration of named runs in milliseconds; waits for the device before and after each run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.samples: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, run: Callable[[], T]) -> T:
        self.synchronize()
        start = time.perf_counter()
        with record_function(name):
            result = run()
            self.synchronize()
        self.samples[name].append((time.perf_counter() - start) * 1e3)
        return result

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def summary(self) -> dict[str, dict[str, float]]:
        """{name: {"median", "p10", "p90"}} in milliseconds."""
        shares = {"median": 50, "p10": 10, "p90": 90}
        return {
            name: {key: float(np.percentile(values, share)) for key, share in shares.items()}
            for name, values in self.samples.items()
        }


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A forward pass of `image` (B, C_in, *S) in evaluation mode; each part gets the output of the part before."""

    segmenter: Segmenter
    image: Tensor
    dtype: torch.dtype = torch.float32

    def step(self) -> Tensor:
        """One forward pass -> logits (B, Q, *S)."""
        self.segmenter.eval()
        with torch.inference_mode(), autocast(self.image.device, self.dtype):
            return self.segmenter(self.image)

    def parts(self, watch: Stopwatch) -> None:
        """Times encoder, completion and decoder one by one."""
        network = self.segmenter.eval()
        with torch.inference_mode(), autocast(self.image.device, self.dtype):
            encoded = watch.time("encoder", lambda: network.encoder(self.image))
            dense = watch.time("completion", lambda: network.completion(encoded))
            watch.time("decoder", lambda: network.decoder(self.image, dense))


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training step on image (B, C_in, *S) and target (B, *S), and the forward and backward pass of each part.

    Each part gets the detached output of the part before, and its backward pass starts from gradients of ones. Loss
    and optimizer belong to the complete step only. The weights change as in training.
    """

    segmenter: Segmenter
    image: Tensor
    target: Tensor
    criterion: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    dtype: torch.dtype = torch.float32

    def step(self) -> None:
        """Forward, loss, backward and the optimizer's step."""
        self.segmenter.train()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.image.device, self.dtype):
            loss = self.criterion(self.segmenter(self.image), self.target, image=self.image)["loss"]
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def parts(self, watch: Stopwatch) -> None:
        """Times encoder, completion and decoder one by one."""
        network = self.segmenter.train()
        self.optimizer.zero_grad(set_to_none=True)
        encoded = detached(watch.time("encoder", lambda: self.forward_backward(network.encoder, self.image)))
        dense = detached(watch.time("completion", lambda: self.forward_backward(network.completion, encoded)))
        watch.time("decoder", lambda: self.forward_backward(network.decoder, self.image, dense))

    def forward_backward(self, part: Callable[..., T], *inputs: object) -> T:
        """The output of a part, after a backward pass through it with gradients of ones."""
        with autocast(self.image.device, self.dtype):
            output = part(*inputs)
        trained = [tensor for tensor in tensors(output) if tensor.requires_grad]
        torch.autograd.backward(trained, [torch.ones_like(tensor) for tensor in trained])
        return output


def measure(run: Inference | Training, *, warmup: int, repeats: int) -> dict[str, dict[str, float]]:
    """Times of "total", "encoder", "completion" and "decoder" -> {"median", "p10", "p90"} in milliseconds.

    Total and parts are timed in turn, so that a change of the machine's speed affects all of them.
    """
    device = run.image.device
    for _ in range(warmup):
        run.step()
        run.parts(Stopwatch(device))
    watch = Stopwatch(device)
    for _ in range(repeats):
        watch.time("total", run.step)
        run.parts(watch)
    return watch.summary()


def peak_memory_mb(run: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of `run` in MiB, or None if the system does not report it.

    CUDA: everything allocated on the device, weights included. CPU: growth of the resident memory of this process,
    without the memory it already had (weights; gradients and optimizer states if they exist).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    before = reset_peak()
    run()
    peak = peak_resident_mb()
    return None if before is None or peak is None else max(0.0, peak - before)


def write_trace(runs: list[Inference | Training], folder: Path) -> None:
    """Writes a torch.profiler trace of every run, total and parts, as a file for TensorBoard into `folder`."""
    with torch.profiler.profile(on_trace_ready=torch.profiler.tensorboard_trace_handler(str(folder))):
        for run in runs:
            with record_function(type(run).__name__.lower()):
                measure(run, warmup=0, repeats=1)


def device_name(device: torch.device) -> str:
    """The device's model name from its manufacturer."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def tensors(value: object) -> list[Tensor]:
    """All tensors in a nest of dataclasses, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in tensors(getattr(value, field.name))]
    if isinstance(value, list | dict):
        items = value.values() if isinstance(value, dict) else value
        return [tensor for item in items for tensor in tensors(item)]
    return []


def detached(value: Any) -> Any:
    """The same nest with detached tensors (leaves); each keeps its `requires_grad`."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(value.requires_grad)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: detached(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, list):
        return [detached(item) for item in value]
    if isinstance(value, dict):
        return {name: detached(item) for name, item in value.items()}
    return value
