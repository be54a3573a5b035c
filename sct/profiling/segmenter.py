"""Measures the costs of a segmenter: parameters, MACs, tokens alive, time and memory, in total and by part.

Letters: B batch, S spatial size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sct.config.schema import ProfileConfig
from sct.models.base import Encoder
from sct.models.segmenter import Segmenter
from sct.models.selfcheck import choose_precision
from sct.models.tokens import Encoded
from sct.profiling.macs import PARTS, count_layers, count_macs, count_parameters
from sct.profiling.profile import Profile
from sct.profiling.timing import Inference, Training, device_name, measure, peak_memory_mb, write_trace
from sct.runtime.precision import NumberFormat


def profile_segmenter(
    segmenter: Segmenter,
    *,
    image_shape: Sequence[int],
    criterion: nn.Module,
    make_optimizer: Callable[[Segmenter], Optimizer],
    settings: ProfileConfig,
    device: torch.device,
    trace_dir: Path | None = None,
    windows: Tensor | None = None,
) -> Profile:
    """Profiles on noise of `image_shape` (C_in, *S), or on `windows` (W, C_in, *S); changes the weights of `segmenter`.

    `criterion` (Prediction, target, image=image) -> {"loss": scalar}. `settings.trace` needs a `trace_dir`. Without
    `settings.latency` the device may be meta, if no method reads the values of the image.
    """
    segmenter = segmenter.to(device)
    if windows is None:
        # drawn on the CPU, so that every device gets the same image
        generator = torch.Generator().manual_seed(0)
        windows = torch.randn((settings.batch_size, *image_shape), generator=generator)
    windows = windows.to(device)
    image = windows[: settings.batch_size]
    batches = windows.split(settings.batch_size)
    macs = mean_counts(partial(count_macs, segmenter, convention=settings.convention), batches)
    layers = mean_counts(partial(count_layers, segmenter), batches)
    with torch.no_grad():
        alive = np.hstack([tokens_alive(segmenter.encoder, segmenter.encoder(batch)) for batch in batches])
    runs: dict[str, Inference | Training] = {}
    chosen = NumberFormat("fp32", "nothing is timed")
    if settings.latency:
        chosen = choose_precision(
            settings.precision,
            network=segmenter,
            device=device,
            key="profile.precision",
            remedy="set profile.precision=auto",
            learns=settings.training,
        )
        chosen.log()
        runs["inference"] = Inference(segmenter=segmenter, image=image, dtype=chosen.dtype)
    if settings.latency and settings.training:
        optimizer = make_optimizer(segmenter)
        runs["training"] = training_run(
            segmenter, image=image, criterion=criterion, optimizer=optimizer, dtype=chosen.dtype
        )
    memory, latency = {}, {}
    # inference first: training steps on noise would change which tokens the network prunes
    for name, run in runs.items():
        # memory before time: on the CPU, memory that an earlier run left allocated would hide the growth
        memory[name] = peak_memory_mb(partial(two_steps, run), device)
        latency[name] = measure(run, warmup=settings.warmup, repeats=settings.repeats)
    if settings.trace:
        assert trace_dir is not None, "settings.trace needs a trace_dir"
        write_trace(list(runs.values()), trace_dir)
    medians = {name: {part: times["median"] for part, times in table.items()} for name, table in latency.items()}
    costs: dict[str, Mapping[str, float]] = {"macs": macs, **medians}
    return Profile(
        image_shape=list(image_shape),
        params=count_parameters(segmenter),
        params_trainable=count_parameters(segmenter, trainable=True),
        params_by_part={part: count_parameters(getattr(segmenter, part)) for part in PARTS},
        macs={"convention": settings.convention, **macs},
        macs_layers=layers["total"],
        macs_attention_layers=layers["self_attention"],
        tokens_alive=alive.mean(axis=1).tolist(),
        tokens_alive_spread={f"p{q}": np.percentile(alive, q, axis=1).tolist() for q in (10, 50, 90)},
        latency_ms=latency,
        throughput={name: settings.batch_size * 1e3 / times["total"] for name, times in medians.items()},
        peak_memory_mb=memory,
        gain_bound={name: gain_bound(cost) for name, cost in costs.items()},
        environment={
            "torch": torch.__version__,
            "device": str(device),
            "device_name": device_name(device),
            "threads": torch.get_num_threads(),
            "precision": chosen.name,
            "precision_reason": chosen.reason,
            "batch_size": settings.batch_size,
            "warmup": settings.warmup,
            "repeats": settings.repeats,
            "windows": settings.windows,
        },
    )


def mean_counts(count: Callable[[Tensor], dict[str, int]], batches: Sequence[Tensor]) -> dict[str, int]:
    """What `count` gives for a batch (B, C_in, *S), as a mean over all images of all batches."""
    counts, sizes = [count(batch) for batch in batches], [len(batch) for batch in batches]
    return {part: round(float(np.average([row[part] for row in counts], weights=sizes))) for part in counts[0]}


def two_steps(run: Inference | Training) -> None:
    """Runs two steps: only in the second training step do optimizer states and activations exist together."""
    run.step()
    run.step()


def training_run(
    segmenter: Segmenter,
    *,
    image: Tensor,
    criterion: nn.Module,
    optimizer: Optimizer,
    dtype: torch.dtype = torch.float32,
) -> Training:
    """A training step on `image` (B, C_in, *S) and random labels (B, *S)."""
    target = torch.randint(segmenter.num_classes, (image.shape[0], *image.shape[2:]), device=image.device)
    return Training(
        segmenter=segmenter,
        image=image,
        target=target,
        criterion=criterion.to(image.device),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(image.device.type, enabled=dtype == torch.float16),
        dtype=dtype,
    )


def tokens_alive(encoder: Encoder, encoded: Encoded) -> np.ndarray:
    """Number of patch tokens alive after each block in each image, (depth, B); class tokens are not counted."""
    alive, counts = np.full(len(encoded.prefix), float(encoder.spec.num_tokens)), []
    changes = encoder.reducer.counted_at if encoder.reducer is not None else ()
    for block in range(encoder.depth + 1):  # 0 is the embedding
        if block in changes:
            alive = encoded.alive[changes.index(block)].cpu().numpy()
        counts.append(alive)
    return np.stack(counts)[1:]


def gain_bound(costs: Mapping[str, float]) -> float | None:
    """The factor by which costs would fall if the encoder cost nothing: total / (total - encoder)."""
    rest = costs["total"] - costs["encoder"]
    return costs["total"] / rest if rest > 0 else None
