"""Times of training steps, and whether a loader is fast enough for them."""

import math
import time
from itertools import islice
from statistics import median
from typing import Any

import benchmark_training
import torch

from gpu_sections.job import EXPERIMENTS, Job, markdown
from sct.config.check import build
from sct.config.command import compose_config
from sct.data.phantoms.phantom import PhantomSpec, write_phantoms
from sct.tasks.train import set_determinism
from sct.training.trainer import Trainer


def training(job: Job) -> None:
    """Times the trainer's step on noise, contestants in turn, with and without deterministic operations."""
    sizes = job.sizes
    trainers, batches = {}, {}
    for name in EXPERIMENTS:
        if name not in sizes.networks:
            continue
        with job.attempt(name):
            overrides = [*sizes.networks[name], *sizes.training]
            trainer = benchmark_training.make_trainer(overrides, device=job.device_name)
            batch = benchmark_training.random_batch(trainer)
            benchmark_training.seconds_of(trainer, [batch])
            memory = {"held_mb": held_mb(trainer), "step_mb": benchmark_training.activations_mb(trainer, batch)}
            trainers[name], batches[name] = trainer, batch
            job.note(**{name: {"windows": len(batch["image"]), **memory, "seconds": {}}})
    for deterministic in (True, False):
        set_determinism(deterministic, device=job.device)
        for turn in range(1 + sizes.training_steps):
            for name, trainer in list(trainers.items()):
                with job.attempt(f"{name}, deterministic={deterministic}"):
                    (took,) = benchmark_training.seconds_of(trainer, [batches[name]])
                    if turn:  # the first step includes the search for algorithms
                        job.found[name]["seconds"].setdefault(str(deterministic), []).append(took)


def held_mb(trainer: Trainer) -> float:
    """MiB of weights and optimizer states."""
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    tensors = [*trainer.segmenter.parameters(), *trainer.segmenter.buffers(), *states]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor)) / 2**20


def loader(job: Job) -> None:
    """Crops per second that one core loads from phantom CTs with BTCV's settings, and the crops that training needs."""
    sizes, folder = job.sizes, job.folder / "phantoms"
    torch.set_num_threads(1)
    with job.attempt("phantoms"):
        spec = PhantomSpec(
            num_train=2, num_val=1, num_test=1, shape=sizes.phantom_shape, voxel_size=(1.5, 1.5, 3.0), seed=0,
            lookalikes=False,
        )  # fmt: skip
        write_phantoms(folder, spec=spec)
    with job.attempt("crops"):
        settings = [f"data.root={folder}", "data.split=null", "data.num_workers=0", *sizes.loader]
        cfg = compose_config("train", overrides=["+experiment=btcv_stp_mta", *settings])
        data = build(cfg.data, key="data")
        data.prepare()
        start = time.perf_counter()
        batches = iter(data.train_loader(seed=0, start_step=0, num_steps=1 + sizes.loader_steps))
        crops = len(next(batches)["image"])
        job.note(crops=crops, filling_s=time.perf_counter() - start)
        seconds = []
        for _ in range(sizes.loader_steps):
            start = time.perf_counter()
            (_,) = islice(batches, 1)
            seconds.append(time.perf_counter() - start)
        job.note(batch_s=seconds, crops_per_s=crops / median(seconds))
    if "crops_per_s" in job.found:
        job.note(card=demand(job.earlier.get("training", {}), supply=job.found["crops_per_s"]))


def demand(trained: dict[str, Any], *, supply: float) -> dict[str, dict[str, float]]:
    """Crops per second that training used, by contestant, and the cores needed if each loads `supply` per second."""
    taken = {}
    for name, one in trained.items():
        if one["seconds"]:
            fastest = min(median(seconds) for seconds in one["seconds"].values())
            rate = one["windows"] / fastest
            taken[name] = {"crops_per_s": rate, "workers": math.ceil(rate / supply)}
    return taken


def training_table(found: dict[str, Any]) -> str:
    columns = ["network", "windows a step", "operations", "seconds a step", "windows/s", "times the first"]
    columns += ["weights and optimizer MB", "a step adds MB"]
    rows, first = [], None
    for name, one in found.items():
        for deterministic, seconds in one["seconds"].items():
            took = median(seconds)
            first = first or took
            memory = [None if one[key] is None else f"{one[key]:.0f}" for key in ("held_mb", "step_mb")]
            rows.append([
                name, one["windows"], "deterministic" if deterministic == "True" else "any", f"{took:.4f}",
                f"{one['windows'] / took:.1f}", f"{took / first:.2f}", *memory,
            ])  # fmt: skip
    return markdown(columns, rows)


def loader_table(found: dict[str, Any]) -> str:
    rate = f"{found['crops_per_s']:.2f}" if "crops_per_s" in found else None
    text = markdown(["crops a batch", "crops/s of one core"], [[found.get("crops"), rate]])
    if not found.get("card"):
        return text + "\nThe section on training has no steps to compare with.\n"
    rows = [[name, f"{one['crops_per_s']:.1f}", one["workers"]] for name, one in found["card"].items()]
    return text + "\n" + markdown(["training", "crops/s taken", "workers needed"], rows)
