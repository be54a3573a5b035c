"""Times windows in networks with random weights: by parts, in several number formats, and compiled."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import benchmark_parts
import torch
from torch import Tensor

from gpu_sections.job import Job, markdown
from sct.profiling.timing import Inference, Stopwatch
from sct.runtime.precision import DTYPES

# label -> number format, whether TF32 is allowed in fp32 sums (torch's default: only in convolutions)
FORMATS = {"fp32": ("fp32", False), "tf32": ("fp32", True), "bf16": ("bf16", True)}


def parts(job: Job) -> None:
    """Times encoder, completion and decoder for windows of several sizes, contestants in turn."""
    sizes = job.sizes
    for size in sizes.windows:
        networks: dict[str, Inference] = {}
        for name, overrides in sizes.networks.items():
            with job.attempt(f"{name}, {size}^3"):
                networks[name] = built(job, overrides, size=size, batch=max(sizes.batches))
        for batch in sizes.batches:
            with job.attempt(f"{size}^3 x {batch}"):
                runs = {name: replace(run, image=run.image[:batch]) for name, run in networks.items()}
                memory = {name: benchmark_parts.memory_mb(run) for name, run in runs.items()}
                times = benchmark_parts.measure(runs, warmup=sizes.warmup, repeats=sizes.repeats)
                job.note(**{f"{size}^3 x {batch}": {k: {"ms": times[k], "memory_mb": memory[k]} for k in runs}})


def built(job: Job, overrides: tuple[str, ...], *, size: int, batch: int) -> Inference:
    """Builds a network and runs it once, so that a failure happens here and does not stop the others."""
    run = benchmark_parts.make(overrides, size=size, batch=batch, precision=job.sizes.precision, device=job.device)
    run.step()
    return run


def formats(job: Job) -> None:
    """Times fp32, TF32 and bf16 with cudnn.benchmark on and off, in turn; compares their logits with fp32."""
    sizes, size = job.sizes, job.sizes.windows[0]
    for name in ("fast", "dense_unetr"):
        with job.attempt(name):
            run = built(job, sizes.networks[name], size=size, batch=1)
            watch, exact = Stopwatch(job.device), torch.empty(0)
            differences = {}
            for turn in range(sizes.warmup + sizes.repeats):
                if turn == sizes.warmup:
                    watch = Stopwatch(job.device)
                for label, (precision, tf32) in FORMATS.items():
                    for tuned in (False, True):
                        set_backends(tf32=tf32, tuned=tuned)
                        logits = watch.time(f"{label}, {tuned}", replace(run, dtype=DTYPES[precision]).step).float()
                        if label == "fp32" and not tuned:
                            exact = logits
                        differences[f"{label}, {tuned}"] = relative(logits, exact)
            found = {key: {"ms": values, "difference": differences[key]} for key, values in watch.samples.items()}
            job.note(**{f"{name}, {size}^3": found})


def set_backends(*, tf32: bool, tuned: bool) -> None:
    """Sets torch's backends for this process, which only runs this section."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = tuned


def relative(ours: Tensor, exact: Tensor) -> float:
    """Norm of the difference / norm of `exact`."""
    return ((ours.float() - exact).norm() / exact.norm().clamp_min(1e-12)).item()


def compiled(job: Job) -> None:
    """Times windows of the fast model with torch.compile, in turn with the same network without it."""
    sizes, size = job.sizes, job.sizes.windows[0]
    for batch in sizes.compile_batches:
        for name, how in sizes.compile_modes.items():
            with job.attempt(f"{name}, {size}^3 x {batch}"):
                torch.compiler.reset()
                plain = built(job, sizes.networks["fast"], size=size, batch=batch)
                expected = plain.step().float()
                faster = replace(plain, segmenter=torch.compile(plain.segmenter, **how))
                start = time.perf_counter()
                found = step_of(faster)()
                first = time.perf_counter() - start
                difference = relative(found, expected)
                watch = Stopwatch(job.device)
                for turn in range(sizes.warmup + sizes.repeats):
                    if turn == sizes.warmup:
                        watch = Stopwatch(job.device)
                    watch.time("plain", step_of(plain))
                    watch.time("compiled", step_of(faster))
                entry = {"first_call_s": first, "difference": difference, "ms": dict(watch.samples)}
                job.note(**{f"{name}, {size}^3 x {batch}": entry})


def step_of(run: Inference) -> Callable[[], Tensor]:
    """A forward pass that tells CUDA graphs that the previous result is no longer needed."""

    def step() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return run.step()

    return step


def parts_table(found: dict[str, Any]) -> str:
    return benchmark_parts.table(found)


def formats_table(found: dict[str, Any]) -> str:
    columns = ["network", "format", "cudnn.benchmark", "ms", "times fp32, off", "logits off by %"]
    rows = []
    for network, variants in found.items():
        first = median(variants["fp32, False"]["ms"])
        for name, one in variants.items():
            label, tuned = name.split(", ")
            took = median(one["ms"])
            rows.append([
                network, label, "on" if tuned == "True" else "off", f"{took:.2f}", f"{took / first:.2f}",
                f"{100 * one['difference']:.3f}",
            ])  # fmt: skip
    return markdown(columns, rows)


def compiled_table(found: dict[str, Any]) -> str:
    columns = ["mode, window", "first call s", "ms", "not compiled ms", "times not compiled", "logits off by %"]
    rows = []
    for name, one in found.items():
        took, plain = median(one["ms"]["compiled"]), median(one["ms"]["plain"])
        rows.append([
            name, f"{one['first_call_s']:.1f}", f"{took:.2f}", f"{plain:.2f}", f"{took / plain:.2f}",
            f"{100 * one['difference']:.3f}",
        ])  # fmt: skip
    return markdown(columns, rows)
