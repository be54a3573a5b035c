"""The result of profiling: numbers, profile.json, and a table for the terminal."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sct.profiling.macs import PARTS
from sct.runtime.files import write_text

Latency = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The result of profiling; `profile.json` has exactly these fields.

    params_by_part, macs: for "encoder", "completion", "decoder"; macs are for one image, with "total" and
    "convention" in addition. macs_layers: total MACs of linear and convolution layers alone; macs_attention_layers: of
    these, those in the self-attention of the encoder (SA-GFLOPs of the APFormer paper).
    tokens_alive: patch tokens after each block, mean over the images; tokens_alive_spread: "p10", "p50" and "p90" of
    these numbers over the images.
    latency_ms: "inference" and "training" -> "total" and parts -> "median", "p10", "p90"; for one batch.
    throughput: images per second, from the median. peak_memory_mb: see `sct.profiling.timing.peak_memory_mb`.
    gain_bound: total / (total - encoder) for "macs", "inference", "training": the speed-up of the network if the
    encoder cost nothing; None if the measured time of the encoder is not below the total.
    """

    image_shape: list[int]
    params: int
    params_trainable: int
    params_by_part: dict[str, int]
    macs: dict[str, Any]
    macs_layers: int
    macs_attention_layers: int
    tokens_alive: list[float]
    tokens_alive_spread: dict[str, list[float]]
    latency_ms: dict[str, Latency]
    throughput: dict[str, float]
    peak_memory_mb: dict[str, float | None]
    gain_bound: dict[str, float | None]
    environment: dict[str, str | int]

    def write(self, path: Path) -> None:
        """Writes `profile.json`."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    def table(self) -> str:
        """The text that `sct.profile` prints."""
        return format_profile(self)


def format_profile(profile: Profile) -> str:
    """The profile as text: costs by part, tokens alive, throughput, memory, the largest possible gain from pruning."""
    env = profile.environment
    size = " x ".join(map(str, profile.image_shape))
    header = ["", "params M", "MACs G", "share"]
    for name in profile.latency_ms:
        header += [f"{name} ms", "p10 - p90"]
    rows = [header, *(part_row(profile, part) for part in (*PARTS, "total"))]
    lines = [
        f"image {size}, batch {env['batch_size']}, {env['precision']}, {env['device_name']} "
        f"({env['device']}), {env['threads']} threads, torch {env['torch']}",
        "",
        *aligned(rows),
        "",
        f"MACs of one image, convention {profile.macs['convention']}; linear and convolution layers alone: "
        f"{profile.macs_layers / 1e9:.2f} G, in self-attention {profile.macs_attention_layers / 1e9:.2f} G",
        f"{profile.params_trainable / 1e6:.2f} M parameters are trained",
        "tokens alive after each block: " + " ".join(map(brief, profile.tokens_alive)),
    ]
    if env["windows"]:
        spread = zip(*profile.tokens_alive_spread.values(), strict=True)
        counts = " ".join("/".join(map(brief, row)) for row in spread)
        lines.append(f"p10/p50/p90 over {env['windows']} windows of the data: {counts}")
    for name, rate in profile.throughput.items():
        memory = profile.peak_memory_mb[name]
        peak = "not available here" if memory is None else f"{memory:.0f} MiB"
        kind = "allocated" if str(env["device"]).startswith("cuda") else "growth of resident memory"
        lines.append(f"{name}: {rate:.3g} images/s, peak memory {peak} ({kind})")
    bounds = [
        f"{name} " + ("unknown" if bound is None else f"{bound:.2f}x") for name, bound in profile.gain_bound.items()
    ]
    lines.append("largest possible speed-up of the network, if the encoder cost nothing: " + ", ".join(bounds))
    return "\n".join(lines)


def brief(number: float) -> str:
    return f"{number:.4g}"


def part_row(profile: Profile, part: str) -> list[str]:
    params = profile.params if part == "total" else profile.params_by_part[part]
    macs, total = profile.macs[part], profile.macs["total"]
    row = [part, f"{params / 1e6:.2f}", f"{macs / 1e9:.2f}", f"{macs / total:.0%}"]
    for table in profile.latency_ms.values():
        times = table[part]
        row += [f"{times['median']:.1f}", f"{times['p10']:.1f} - {times['p90']:.1f}"]
    return row


def aligned(rows: list[list[str]]) -> list[str]:
    """The rows as lines with columns of equal width: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
