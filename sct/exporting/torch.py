"""torch.export: the network as one graph of tensor operations, run by torch without this project's code.

Letters: B batch, C channels, S size of the window (2 or 3 dims).
"""

from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass

from sct.errors import UserError
from sct.exporting.base import INPUT, Format, Source, in_batches
from sct.inference import Model
from sct.runtime.plain import clipped

FILE = "model.pt2"


class TorchExport(Format):
    """A file for `torch.export.load`."""

    name = "torch"
    files = (FILE,)

    def write(self, folder: Path, *, source: Source) -> None:
        torch.export.save(program_of(source), folder / FILE)

    def load(self, folder: Path, *, device: torch.device, precision: str, batch: int | None) -> Model:
        # imported here: torch's compiler takes more than a second, which other predictions do not need
        from torch.export.pt2_archive._package import load_pt2

        from sct.exporting.archive import WRONG, check_archive

        check_archive(folder / FILE)
        try:
            # not torch.export.load: where this fails, it goes on to a format of earlier versions, which holds pickles
            loaded = load_pt2(folder / FILE).exported_programs["model"]
            # the program also records devices: always the CPU, on which it was written
            program = move_to_device_pass(loaded, device)
        except WRONG as error:
            raise UserError(f"{folder / FILE} can't be loaded ({clipped(error)}). Export the run again.") from error
        return in_batches(program.module(), batch=batch)


@torch.no_grad()
def program_of(source: Source) -> ExportedProgram:
    """The graph of windows (B, C, *S) -> logits; B is any number, or the source's `batch`."""
    # imported here: torch's compiler takes more than a second, which a prediction does not need
    from torch._dynamo.exc import UserError as NotFree

    # with a batch of 0 or 1, torch.export would fix B as a constant
    example = torch.zeros(source.batch or 2, *source.window)
    free = {INPUT: {0: Dim("batch", min=1)}} if source.batch is None else None
    try:
        return torch.export.export(source.network, (example,), dynamic_shapes=free)
    except NotFree as error:
        raise UserError(
            f"This network can't be exported for any number of windows at once ({str(error).splitlines()[0]}). Give "
            "the number of windows in one call, such as batch=4."
        ) from error
