"""A trained run as one object: what the commands, the figures and notebooks use a trained network by.

Letters: C channels of the image, S spatial size.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from sct.config.command import compose_checked, open_overrides
from sct.config.trust import SHIPPED_ALONE, Trust
from sct.data.cases import Case, Volume
from sct.data.check import check_cases
from sct.data.formats.base import FileFormat
from sct.data.formats.memory import NAME, in_memory
from sct.errors import UserError
from sct.inference import Model
from sct.inference.cases import find_inputs, predict_cases
from sct.inference.depth import depth_map
from sct.inference.segmentation import Segmentation
from sct.inference.volume import predict_volume
from sct.models.segmenter import Segmenter
from sct.runs.backends import Loaded, Trained, find_trained
from sct.runs.experiment import Experiment
from sct.runtime.distributed import pick_device
from sct.runtime.memory import keep_large_blocks
from sct.runtime.precision import NumberFormat, autocast

if TYPE_CHECKING:  # scores and pictures take time to import, and a prediction needs neither
    from sct.runs.evaluation import Evaluation

# stands for a path, which may hold characters that mean something on a command line
SHOWN = "RUN"


class Run(Experiment):
    """A trained network with all that its use takes.

    source: the checkpoint file, or exported folder, that the weights are from; folder: where the run wrote, and writes;
    settings: how it was opened, which cards record.
    """

    def __init__(self, trained: Trained, *, device: torch.device, settings: dict[str, Any]) -> None:
        super().__init__(trained.config, data=trained.data, device=device, trust=trained.trust)
        self.source, self.folder, self.settings = trained.source, trained.folder, settings
        self._trained: Trained | None = trained
        self._loaded: Loaded | None = None
        self._lock = Lock()

    def load(self) -> Loaded:
        """The network and its number format; loaded at the first call, which may come from any thread."""
        with self._lock:
            if self._loaded is None:
                assert self._trained is not None
                self._loaded = self._trained.load()
                self._trained = None  # it holds the weights once more
            return self._loaded

    @property
    def model(self) -> Model:
        """What maps windows (B, C, *S) to logits (B, Q, *S): the run's own network, or an exported one."""
        return self.load().model

    @property
    def network(self) -> Segmenter:
        """The run's own network in evaluation mode; UserError for an export, whose parts can't be reached."""
        model = self.model
        if not isinstance(model, Segmenter):
            raise UserError(f"{self.source} is an exported graph without parts. Open the run itself for that.")
        return model

    @property
    def number_format(self) -> NumberFormat:
        """What the network computes in, and why."""
        return self.load().number_format

    def predict(
        self,
        image: str | Path | np.ndarray,
        *,
        affine: np.ndarray | None = None,
        spacing: Sequence[float] | None = None,
        return_depth: bool = False,
    ) -> Segmentation:
        """Labels of one image on the image's own grid.

        image: a file of the run's format, or an array (C, *S), or (*S) of one channel. An array's voxels are placed by
        `affine` (4, 4), or have `spacing` in mm along axes to the right, to the front and up (RAS+).
        return_depth: also how many pruning stages the patch of every voxel survived, see `Segmentation.depth`.

        Raises UserError for an image of another number of channels or axes, with values that are not finite, and for
        an array without affine or spacing where the network needs one.
        """
        if isinstance(image, str | Path):
            if affine is not None or spacing is not None:
                raise UserError("affine and spacing are for arrays: a file has its own. Leave them out.")
            (case,) = find_inputs(Path(image), file_format=self.data.format)
            self.data.check_files([case], remember=False)
            return self.segment(case, self.data.load_case(case), form=self.data.format, return_depth=return_depth)
        data = self.data
        form = in_memory(
            image,
            num_channels=data.num_channels,
            spatial_dims=data.spatial_dims,
            files=data.format,
            needs_spacing=data.spacing is not None,
            affine=affine,
            spacing=None if spacing is None else tuple(spacing),
        )
        case = Case(id=str(NAME), image=NAME, label=None)
        preprocess = replace(data.preprocess, file_format=form)
        check_cases(
            [case],
            label_map=data.label_map,
            num_channels=data.num_channels,
            file_format=form,
            preprocess=preprocess,
            memory=None,
        )
        prepared = preprocess(case)
        return self.segment(case, prepared.volume(), form=form, return_depth=return_depth)

    def segment(self, case: Case, volume: Volume, *, form: FileFormat, return_depth: bool = False) -> Segmentation:
        """Labels of a preprocessed volume on the grid of its image, which `form` reads and writes."""
        data, device = self.data, self.device
        encoder = self.network.encoder if return_depth else None
        with torch.no_grad(), autocast(device, self.number_format.dtype):
            labels = predict_volume(
                self.model, volume, self.inferer, roi_size=data.roi_size, outputs=data.outputs, device=device
            )
            depth = depth_map(encoder, volume, self.inferer, data=data, device=device) if encoder is not None else None
        return Segmentation(
            labels,
            volume.source_affine,
            tuple(data.outputs.legend),
            form.label_suffix,
            depth,
            writer=lambda path, values: form.write_labels(path, values, like=case.image),
        )

    def predict_files(self, inputs: str | Path, *, output: str | Path) -> list[Path]:
        """Writes the label map of a file, or of every image of a folder, into the folder `output`; returns the paths.

        Reads the next image and writes the last one while it computes. Never writes over an image.
        """
        cases = find_inputs(Path(inputs), file_format=self.data.format)
        self.data.check_files(cases, remember=False)
        torch.backends.cudnn.benchmark = True  # windows have one size: the fastest kernel for it is soon found
        if len(cases) == 1:
            keep_large_blocks()
        # a thread keeps the number of helpers that it first asks for: before the loading changes it for a while
        torch.get_num_threads()
        with ThreadPoolExecutor(1) as pool:
            loaded = pool.submit(self.load)
            return predict_cases(
                cases,
                data=self.data,
                load=lambda: (loaded.result().model, loaded.result().number_format.dtype),
                inferer=self.inferer,
                device=self.device,
                output=Path(output),
            )

    def evaluate(
        self,
        split: str = "test",
        *,
        output: str | Path | None = None,
        save_predictions: bool = True,
        figures: int = 3,
    ) -> Evaluation:
        """Scores of the cases of a split, `val` or `test`, on the grids of their files.

        output: a folder for what `sct.eval` writes: tables, the label maps (with `save_predictions`), pictures of the
        first `figures` cases, and the card. Without it nothing is written.
        """
        from sct.runs.evaluation import evaluate

        return evaluate(
            self,
            split=split,
            folder=None if output is None else Path(output),
            save_predictions=save_predictions,
            figures=figures,
        )


def open_run(
    ckpt: str,
    *,
    weights: str = "best",
    device: str = "auto",
    precision: str | None = None,
    backend: str | None = None,
    changes: dict[str, Any] | None = None,
    trust: Trust = SHIPPED_ALONE,
) -> Run:
    """The run that `ckpt` means: a run folder, a checkpoint file or an exported folder; see `find_trained`."""
    chosen = pick_device(device)
    changes = {key: plain(settings) for key, settings in (changes or {}).items()}
    trained = find_trained(
        ckpt,
        weights=weights,
        precision=precision,
        backend=backend,
        changes=changes,
        device=chosen,
        trust=trust,
    )
    settings = {"weights": weights, "device": device, "precision": precision, "inferer": {}, "data": {}, **changes}
    return Run(trained, device=chosen, settings=settings)


def plain(settings: Any) -> Any:
    """Settings of a command as plain containers."""
    return OmegaConf.to_container(settings) if isinstance(settings, DictConfig) else settings


def load(
    path: str | Path,
    *,
    weights: str,
    device: str,
    precision: str | None,
    backend: str | None,
    overrides: Sequence[str],
    plugins: Sequence[str],
) -> Run:
    """As `open_run`, with the overrides of a command line; see `sct.load`."""
    given = open_overrides(list(overrides), groups=("inferer", "data"))
    number_format = [] if precision is None else [f"precision={precision}"]
    trusted = [f"plugins=[{','.join(plugins)}]"] if plugins else []
    config = compose_checked("eval", overrides=[f"ckpt={SHOWN}", *number_format, *trusted, *given])
    return open_run(
        str(path),
        weights=weights,
        device=device,
        precision=precision,
        backend=backend,
        changes={"inferer": config.inferer, "data": config.data},
        trust=Trust.of_command(config),
    )
