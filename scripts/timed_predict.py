"""One prediction as `python -m sct.predict` makes it, with its time and its memory. scripts/duel.py runs it.

    python scripts/timed_predict.py ckpt=RUN input=FILE output=FOLDER

The last line of the output is JSON: `seconds` from the end of the imports to the written label map, loading the weights
included; `peak_mb` of the process, and with CUDA `device_mb`. It imports what the command imports and nothing else, so
that the whole time of its process is that of the command.
"""

import json
import math
import sys
import time
from collections.abc import Sequence

from sct.config.command import compose_config, imported, open_overrides
from sct.runtime.memory import tune_allocator


def main(argv: Sequence[str] | None = None) -> None:
    tune_allocator()
    predict = imported("sct.tasks.predict").predict
    # not above: torch would be imported with garbage collection, as the command does not do it
    import torch

    from sct.runtime.resident import peak_resident_mb

    overrides = open_overrides(sys.argv[1:] if argv is None else argv, groups=["inferer"])
    start = time.perf_counter()
    predict(compose_config("predict", overrides=overrides))
    seconds = time.perf_counter() - start
    # measured here: the system's report to the parent includes the parent's memory from before this program started
    measured = {"seconds": seconds, "peak_mb": peak_resident_mb() or math.nan}
    if torch.cuda.is_initialized():
        measured["device_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
