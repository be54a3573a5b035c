"""Machine and packages of the report."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpu_sections.job import Job, markdown
from sct.profiling.timing import device_name
from sct.runs import card


def run(job: Job) -> None:
    device = job.device
    job.note(
        device=device_name(device),
        processor=device_name(torch.device("cpu")),
        cores=os.cpu_count(),
        system=platform.platform(),
        commit=card.commit().get("id", "unknown") + (", changed" if card.commit().get("changed") else ""),
        **card.versions(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        triton=installed("triton"),
        c_compiler=shutil.which("cc") or shutil.which("gcc"),
        tf32_matmul=torch.backends.cuda.matmul.allow_tf32,
        tf32_cudnn=torch.backends.cudnn.allow_tf32,
    )
    if device.type == "cuda":
        job.note(**card_facts(device))


def card_facts(device: torch.device) -> dict[str, Any]:
    """Properties of the GPU."""
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        answer = f"nvidia-smi failed: {error}"
    return {
        "driver, clock, power limit": answer,
        "compute capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def table(found: dict[str, Any]) -> str:
    return markdown(["what", "value"], list(found.items()))
