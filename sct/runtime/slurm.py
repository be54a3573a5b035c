"""The processes that Slurm started, named as torchrun names its own.

`srun` and submitit start every task with Slurm's variables and none of torchrun's. Each would train for itself.
"""

import re
from collections.abc import Mapping

from sct.errors import UserError

# below the ports that systems give to connections by themselves
FIRST_PORT, NUM_PORTS = 15000, 15000


def num_tasks(environment: Mapping[str, str]) -> int:
    """How many tasks srun has started together with this process; 1 where srun has not started it.

    A shell of `salloc` and the script of `sbatch` have the number of tasks in SLURM_NTASKS, and are one process: the
    first has no SLURM_PROCID, the second is told by ENVIRONMENT=BATCH, which its own sruns inherit and add a
    SLURM_STEP_ID to. The shell of an interactive step counts itself in SLURM_STEP_NUM_TASKS.
    """
    in_script = environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment
    if "SLURM_PROCID" not in environment or in_script:
        return 1
    return int(environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or 1)


def process_rank(environment: Mapping[str, str]) -> int:
    """The number of this process among those started with it, also before they have met; 0 where it is alone."""
    task = environment["SLURM_PROCID"] if num_tasks(environment) > 1 else "0"
    return int(environment.get("RANK", task))


def process_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, ... of one of several tasks; empty for one alone, and where they are set already.

    MASTER_ADDR and MASTER_PORT stay where the user has set them. UserError where Slurm's variables say too little.
    """
    size = num_tasks(environment)
    if size == 1 or "WORLD_SIZE" in environment:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    missing = [] if "SLURM_LOCALID" in environment else ["SLURM_LOCALID"]
    missing += [] if nodes or "MASTER_ADDR" in environment else ["SLURM_JOB_NODELIST"]
    if missing:
        raise UserError(
            f"This is one of {size} tasks of Slurm, but {' and '.join(missing)} is not set, so that it can't find the "
            "others. Start the command with srun, or in one process with WORLD_SIZE=1 in front of it."
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
    """Tasks on this node, of `size` on all."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    counts = tasks_of_nodes(text or "")
    node = int(environment.get("SLURM_NODEID", "0"))
    # as even as Slurm distributes them
    return counts[node] if sum(counts) == size and node < len(counts) else -(-size // max(1, num_hosts))


def port(environment: Mapping[str, str]) -> int:
    """The same for all tasks of a step of a job, and another one for the next step and the next job."""
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
    """`2(x3),1` as a number for every node."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
