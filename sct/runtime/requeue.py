"""Puts a job of Slurm that is preempted back into the queue."""

import logging
import re
import signal
import subprocess
from collections.abc import Mapping

from sct.runtime.signals import REQUEUE

logger = logging.getLogger(__name__)


def queue_again(environment: Mapping[str, str], *, received: int) -> None:
    """Puts the job of this process back into Slurm's queue if the signal `received` asks for that.

    SIGUSR1 asks for it (`#SBATCH --signal=USR1@120` sends it two minutes before the time limit), and any signal of a
    job that Slurm says is preempted. Other ends are somebody's wish, such as scancel's, and stay ends.
    """
    job = job_of(environment)
    if job is None:
        return
    try:
        if received != REQUEUE and not is_preempted(scontrol("show", "job", job)):
            return
        scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("job %s is not queued again (%s): submit it once more", job, error)
    else:
        logger.info("job %s is queued again", job)


def signals_of_jobs(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The signal by which a job asks to be saved and queued again; none outside a job, or if submitit handles it."""
    if job_of(environment) is None or REQUEUE is None or signal.getsignal(REQUEUE) != signal.SIG_DFL:
        return ()
    return (REQUEUE,)


def job_of(environment: Mapping[str, str]) -> str | None:
    """Slurm's name for the job of this process, or for its task of an array; None outside a job."""
    if "SLURM_ARRAY_JOB_ID" in environment and "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def is_preempted(shown: str) -> bool:
    """Whether `scontrol show job` tells when the job was preempted."""
    found = re.search(r"\bPreemptTime=(\S+)", shown)
    return found is not None and found[1] not in ("None", "Unknown", "N/A")


def scontrol(*arguments: str) -> str:
    """What Slurm's command prints; an exception if it fails or takes more than five seconds."""
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout
