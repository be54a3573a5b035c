"""Gives the tasks that Slurm started the environment variables of torchrun.

`srun` and submitit set Slurm's variables and none of torchrun's. Without them each task would train alone.
"""

import re
from collections.abc import Mapping

from sct.errors import UserError

# below the range from which systems choose ports automatically
FIRST_PORT, NUM_PORTS = 15000, 15000


def num_tasks(environment: Mapping[str, str]) -> int:
    """Number of tasks that srun started together with this process; 1 if srun did not start this process.

    A shell of `salloc` and the script of `sbatch` are one process, although SLURM_NTASKS has the number of tasks. The
    shell has no SLURM_PROCID. The script has ENVIRONMENT=BATCH and no SLURM_STEP_ID; tasks that srun starts in the
    script inherit ENVIRONMENT and have a SLURM_STEP_ID. In the shell of an interactive step SLURM_STEP_NUM_TASKS is 1.
    """
    in_script = environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment
    if "SLURM_PROCID" not in environment or in_script:
        return 1
    return int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)


def process_rank(environment: Mapping[str, str]) -> int:
    """The rank of this process, known also before the processes have connected; 0 for a single process."""
    task = environment["SLURM_PROCID"] if num_tasks(environment) > 1 else "0"
    return int(environment.get("RANK", task))


def process_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables (RANK, WORLD_SIZE, ...) for one of several tasks.

    Empty for a single task, and if WORLD_SIZE is set already. MASTER_ADDR and MASTER_PORT keep the values that the user
    has set. UserError if Slurm's variables are incomplete.
    """
    size = num_tasks(environment)
    if size == 1 or "WORLD_SIZE" in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    missing = [] if "SLURM_LOCALID" in environment else ["SLURM_LOCALID"]
    missing += [] if nodes or "MASTER_ADDR" in environment else ["SLURM_JOB_NODELIST"]
    if missing:
        raise UserError(
            f"This is one of {size} tasks of Slurm, but {' and '.join(missing)} is not set: this task can't find the "
            "others. Start the command with srun, or as one process with WORLD_SIZE=1 in front of the command."
        )
    hosts = host_names(nodes or "")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(num_local_tasks(environment, size=size, num_hosts=len(hosts))),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or hosts[0],
        "MASTER_PORT": environment.get("MASTER_PORT") or str(port(environment)),
    }


def num_local_tasks(environment: Mapping[str, str], *, size: int, num_hosts: int) -> int:
    """Number of tasks on this node; `size` is the number on all nodes."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    counts = tasks_of_nodes(text or "")
    node = int(environment.get("SLURM_NODEID", "0"))
    # if unknown: Slurm distributes tasks evenly
    return counts[node] if sum(counts) == size and node < len(counts) else -(-size // max(1, num_hosts))


def port(environment: Mapping[str, str]) -> int:
    """A port that is equal for all tasks of a job step and differs from the port of the next step and the next job."""
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return FIRST_PORT + (7 * job + step) % NUM_PORTS


def host_names(node_list: str) -> list[str]:
    """`node[001-003,007],gpu5` as single names, in order."""
    parts = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", node_list)
    return [name for part in parts for name in expanded(part)]


def expanded(part: str) -> list[str]:
    """`rack[1-2]node[01,04]` as single names."""
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if match is None:
        return [part]
    head, ranges, tail = match.groups()
    numbers = []
    for piece in ranges.split(","):
        first, _, last = piece.partition("-")
        numbers += [f"{number:0{len(first)}}" for number in range(int(first), int(last or first) + 1)]
    return [f"{head}{number}{rest}" for number in numbers for rest in expanded(tail)]


def tasks_of_nodes(text: str) -> list[int]:
    """`2(x3),1` as the number of tasks of each node: [2, 2, 2, 1]."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in groups for _ in range(int(times or 1))]
