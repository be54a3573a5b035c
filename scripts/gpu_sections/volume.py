"""Times one CT from NIfTI file to NIfTI file: each network in fresh processes, in turn."""

import os
from statistics import median
from typing import Any

import duel

from gpu_sections.job import Job, markdown


def run(job: Job) -> None:
    sizes, folder = job.sizes, job.folder / "ct"
    folder.mkdir(parents=True, exist_ok=True)
    records: dict[str, duel.Record] = {}
    volume = duel.phantom(folder, shape=sizes.ct_shape, voxel_size=sizes.ct_voxel_size)
    for name, contestant in sizes.rivals.items():
        with job.attempt(f"{name}, weights"):
            ckpt = duel.untrained(contestant, folder / name, volume=volume)
            where = [f"ckpt={ckpt}", f"input={volume}", f"output={folder / name / 'labels'}"]
            records[name] = duel.Record(ckpt, [*where, f"device={job.device_name}", *contestant.predict])
    threads = os.cpu_count() or 1
    if sizes.rounds > 1:
        for name, record in records.items():
            # for each contestant: the first run of a program on a GPU loads its kernels
            with job.attempt(f"{name}, warm-up"):
                duel.warm_up(record, log=folder / f"{name}.log", threads=threads)
    for number in range(sizes.rounds):
        for name, record in records.items():
            with job.attempt(f"{name}, round {number + 1}"):
                duel.race(record, log=folder / f"{name}.log", threads=threads)
                job.note(**{name: record.plain()})


def table(found: dict[str, Any]) -> str:
    columns = [
        "network",
        "seconds",
        "whole process s",
        "times the first",
        "peak process MB",
        "peak device MB",
        "rounds",
    ]
    rows = []
    first = median(next(iter(found.values()))["seconds"])
    for name, one in found.items():
        took = median(one["seconds"])
        device = f"{max(one['device_mb']):.0f}" if one["device_mb"] else None
        rows.append([
            name, f"{took:.2f}", f"{median(one['process']):.2f}", f"{took / first:.2f}", f"{max(one['peak_mb']):.0f}",
            device, len(one["seconds"]),
        ])  # fmt: skip
    return markdown(columns, rows)
