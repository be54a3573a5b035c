"""A trained run as one object: commands, figures and notebooks use trained networks through it.

Letters: C channels of the image, S spatial size.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sct.config.check import to_dict
from sct.config.command import compose_checked, open_overrides
from sct.config.requests import check_choice
from sct.config.trust import SHIPPED_ALONE, Trust
from sct.data.cases import Case, Volume
from sct.data.check import load_new
from sct.data.formats.base import FileFormat
from sct.data.formats.memory import NAME, in_memory, oriented_affine
from sct.errors import UserError
from sct.inference import Model
from sct.inference.depth import depth_map
from sct.inference.inputs import find_inputs
from sct.inference.look import Look, look_at
from sct.inference.postprocess import Postprocessing
from sct.inference.segmentation import Segmentation
from sct.inference.volume import predict_volume
from sct.models.segmenter import Segmenter
from sct.runs.backends import Loaded, Trained, find_trained
from sct.runs.card import weights_digest
from sct.runs.changes import plain, resolved
from sct.runs.experiment import Experiment
from sct.runs.look import calibrate
from sct.runs.postprocessing import choose
from sct.runtime.distributed import pick_device
from sct.runtime.precision import NumberFormat, autocast
from sct.runtime.shards import parse_shard

if TYPE_CHECKING:  # the import takes time, and a prediction needs no scores and pictures
    from sct.runs.evaluation import Evaluation

# groups of a run's config of which single settings can be changed
OPEN_GROUPS = ("inferer", "data", "encoder")
# replaces the path, which may have characters with a special meaning on a command line
SHOWN = "RUN"

logger = logging.getLogger(__name__)


class Run(Experiment):
    """A trained network with its config, data set and inferer.

    source: checkpoint file or exported folder with the weights; folder: the run's folder; settings: the arguments that
    opened the run, for cards; postprocessing: steps for every label map; look: how the first look is used, None: not;
    changed: settings of the pruning method that differ from the training's.
    """

    def __init__(self, trained: Trained, *, device: torch.device, settings: dict[str, Any]) -> None:
        super().__init__(trained.config, data=trained.data, device=device, trust=trained.trust)
        self.source, self.folder, self.settings = trained.source, trained.folder, settings
        self.postprocessing, self.look, self.changed = trained.postprocessing, trained.look, trained.changed
        self.trained_root = trained.root
        # known without loading, where a network is an exported graph
        self._exported_weights = trained.weights
        self._trained: Trained | None = trained
        self._loaded: Loaded | None = None
        self._lock = Lock()

    def load(self) -> Loaded:
        """The network and its number format; the first call, from any thread, loads them."""
        with self._lock:
            if self._loaded is None:
                assert self._trained is not None
                self._loaded = self._trained.load()
                self._trained = None  # frees its copy of the weights
            return self._loaded

    @property
    def model(self) -> Model:
        """Maps windows (B, C, *S) to logits (B, Q, *S): the run's network, or an exported one."""
        return self.load().model

    @property
    def network(self) -> Segmenter:
        """The run's network in evaluation mode; UserError for an export, which gives no access to its parts."""
        model = self.model
        if not isinstance(model, Segmenter):
            raise UserError(f"{self.source} is an exported graph without separate parts. Open the run itself instead.")
        return model

    @property
    def number_format(self) -> NumberFormat:
        """The number format of the network, and the reason for it."""
        return self.load().number_format

    def predict(
        self,
        image: str | Path | np.ndarray,
        *,
        affine: np.ndarray | None = None,
        spacing: Sequence[float] | None = None,
        orientation: str | None = None,
        return_depth: bool = False,
    ) -> Segmentation:
        """Labels of one image on the grid of the image.

        image: a file of the run's format, or an array (C, *S), or (*S) with one channel. For an array, give `affine`
        (4, 4) from voxels to mm, or `spacing` in mm and `orientation`, where the axes of a volume lead: "LPS" for the
        left, the back (posterior) and up (superior). Without `orientation` a volume is taken as RAS, with a warning: a
        wrong guess mirrors the image, and left and right organs are confused.
        return_depth: also return the number of pruning stages that each voxel's patch survived, see
        `Segmentation.depth`.

        UserError if the image has another number of channels or axes, has values that are not finite, or is an array
        without affine and spacing although the network needs one of them.
        """
        if isinstance(image, str | Path):
            if affine is not None or spacing is not None or orientation is not None:
                raise UserError("affine, spacing and orientation are for arrays: a file contains them. Leave them out.")
            (case,) = find_inputs(Path(image), file_format=self.data.format)
            return self.segment(case, load_new(case, data=self.data), form=self.data.format, return_depth=return_depth)
        data = self.data
        if spacing is not None and np.ndim(spacing) != 1:
            raise UserError(f"spacing={spacing}: give one number of mm for each axis, such as (2.0, 2.0, 3.0).")
        if orientation is not None and spacing is None:
            raise UserError("orientation goes with spacing; an affine already contains it. Leave orientation out.")
        if spacing is not None and affine is None and data.axes is not None:
            if orientation is None:
                logger.warning(
                    "the array has a spacing and no orientation: its axes are taken as RAS (to the right, to the "
                    "front, up). Give affine=, or orientation='RAS', 'LPS', ..."
                )
            affine, spacing = oriented_affine(spacing, orientation or "RAS"), None
        form = in_memory(
            image,
            num_channels=data.num_channels,
            spatial_dims=data.file_dims,
            files=data.format.of_one_file,
            needs_spacing=data.spacing is not None,
            affine=affine,
            spacing=None if spacing is None else tuple(spacing),
        )
        case = Case(id=str(NAME), image=NAME, label=None)
        volume = load_new(case, data=data, file_format=form)
        return self.segment(case, volume, form=form, return_depth=return_depth)

    def segment(self, case: Case, volume: Volume, *, form: FileFormat, return_depth: bool = False) -> Segmentation:
        """Labels of a preprocessed volume on the grid of its image; `form` reads and writes the files of the image."""
        data, device = self.data, self.device
        encoder = self.network.encoder if return_depth else None
        view = look_at(self.model, volume.image, self.look, inferer=self.inferer, data=data, device=device)
        with torch.no_grad(), autocast(device, self.number_format.dtype):
            labels = predict_volume(
                self.model,
                volume,
                self.inferer,
                roi_size=data.roi_size,
                outputs=data.outputs,
                device=device,
                postprocessing=self.postprocessing,
                view=view,
            )
            depth = None
            if encoder is not None:
                depth = depth_map(encoder, volume, self.inferer, data=data, device=device, view=view)
        return Segmentation(
            labels,
            volume.source_affine,
            tuple(data.outputs.legend),
            form.label_endings(like=case.image),
            depth,
            view,
            writer=lambda path, values: form.write_labels(path, values, like=case.image),
        )

    def predict_files(
        self, inputs: str | Path, *, output: str | Path, recursive: bool = False, shard: str | None = None
    ) -> list[Path]:
        """Writes the label map of a file, of every image of a folder, or of a list; returns the paths, also of those
        that were there already.

        inputs: a file, a folder, or a .txt file with one path a line; output: a folder, or a file for a single image
        recursive: also images in folders below the folder; shard: `i/n`, part i of n alone, counted from 0

        Reads the next image and writes the last one while it computes. Never writes over an image. Of a folder or a
        list, label maps of the same image, weights and settings are not made again, and an image that fails leaves the
        others alone: UserError at the end that lists all that failed.
        """
        from sct.runs.prediction import predict_files

        return predict_files(
            self,
            Path(inputs),
            output=Path(output),
            recursive=recursive,
            shard=None if shard is None else parse_shard(shard),
        )

    @property
    def is_exported(self) -> bool:
        """Whether the network is a graph that was exported from a run."""
        return self._exported_weights is not None

    @cached_property
    def weights_digest(self) -> str:
        """Equal for equal weights, whatever device they are on."""
        return self._exported_weights or weights_digest(self.network.state_dict())

    def choose_postprocessing(self) -> Postprocessing:
        """Finds the steps that raise the mean Dice of the validation cases, and uses them from now on.

        Writes them to `postprocessing.json` in the run's folder: wherever the run is opened again, they are used.
        """
        self.postprocessing = choose(self)
        return self.postprocessing

    def calibrate_look(self, *, keep: float = 0.999, margin: int = 2) -> Look:
        """Finds the threshold of the first look that keeps every organ of the validation cases; uses it from now on.

        keep: least share of an organ's voxels, in each case, in what is predicted; margin: patches round those worth
        predicting that are predicted as well, see `Look`. Writes both to `look.json` in the run's folder, with a bound
        on what may be missed.
        """
        self.look = calibrate(self, keep=keep, margin=margin)
        return self.look

    def evaluate(
        self,
        split: str = "test",
        *,
        output: str | Path | None = None,
        save_predictions: bool = True,
        figures: int = 3,
        lesions: bool = False,
    ) -> Evaluation:
        """Scores of the cases of a split, `val` or `test`, on the grids of their files.

        output: a folder for the files of `sct.eval`: tables, label maps (with `save_predictions`), pictures of the
        first `figures` cases, and the card. Without `output` nothing is written.
        lesions: also count connected parts of each class: found, missed and false ones.
        """
        from sct.runs.evaluation import evaluate

        return evaluate(
            self,
            split=split,
            folder=None if output is None else Path(output),
            save_predictions=save_predictions,
            figures=figures,
            lesions=lesions,
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
    postprocess: str = "chosen",
    first_look: str = "calibrated",
    local_rank: int = 0,
) -> Run:
    """Opens the run of `ckpt`, which is a run folder, a checkpoint file or an exported folder; see `find_trained`.

    postprocess: `chosen` for the steps that the run has chosen, or `none`; first_look: `calibrated` for the run's
    first look, if it is calibrated, or `none`; local_rank: number of this process among those of its machine, each of
    which has a GPU of its own
    """
    check_choice("postprocess", postprocess, choices=("chosen", "none"))
    check_choice("first_look", first_look, choices=("calibrated", "none"))
    chosen = pick_device(device, local_rank=local_rank)
    changes = {key: plain(settings) for key, settings in (changes or {}).items()}
    trained = find_trained(
        ckpt,
        weights=weights,
        precision=precision,
        backend=backend,
        changes=changes,
        device=chosen,
        trust=trust,
        postprocess=postprocess == "chosen",
        look=first_look == "calibrated",
    )
    # resolved, as all that is saved: a reference would be looked up again where the card is read
    used = {
        group: resolved(changes[group], of=to_dict(trained.config)[group]) for group in changes if group != "encoder"
    }
    settings = {"weights": weights, "device": device, "precision": precision, "inferer": {}, "data": {}, **used}
    if trained.changed:
        settings["encoder"] = {"reducer": trained.changed}
    return Run(trained, device=chosen, settings=settings)


def load(
    path: str | Path,
    *,
    weights: str,
    device: str,
    precision: str | None,
    backend: str | None,
    postprocess: str,
    first_look: str,
    overrides: Sequence[str],
    plugins: Sequence[str],
) -> Run:
    """`open_run` with the overrides of a command line; see `sct.load`."""
    opened = open_overrides(list(overrides), groups=OPEN_GROUPS)
    number_format = [] if precision is None else [f"precision={precision}"]
    trusted = [f"plugins=[{','.join(plugins)}]"] if plugins else []
    config = compose_checked("eval", overrides=[f"ckpt={SHOWN}", *number_format, *trusted, *opened])
    return open_run(
        str(path),
        weights=weights,
        device=device,
        precision=precision,
        backend=backend,
        changes={group: config[group] for group in OPEN_GROUPS},
        trust=Trust.of_command(config),
        postprocess=postprocess,
        first_look=first_look,
    )
