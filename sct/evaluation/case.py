"""One case of an evaluation: predicted, scored, and its label map and picture written.

Letters: B windows of a batch, C channels of the image, Q channels of the logits, S spatial size.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sct.data.cases import Case
from sct.data.module import SegmentationData
from sct.evaluation.metrics import Row, score_case
from sct.evaluation.pictures import panel
from sct.evaluation.tokens import alive_tokens, kept_shares, known_means, method_numbers, patch_kinds
from sct.inference import Chunk, Inferer, MemoryNotice, Request, logits_for, source_grid
from sct.inference.depth import NOT_SEEN, patch_means, patch_shape, spread
from sct.inference.look import Look, look_at, whole_or
from sct.inference.postprocess import Postprocessing
from sct.models.grid import pruning_depth
from sct.models.segmenter import Segmenter
from sct.runtime.precision import autocast


class WithDepth:
    """A segmenter that gives the pruning depth as one more channel, so that both are stitched alike.

    `numbers` collects the pruning method's own, a row for every batch of windows.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.numbers: list[dict[str, float]] = []

    def __call__(self, image: Tensor) -> Tensor:
        """image (B, C, *S) -> logits and depth (B, Q + 1, *S)."""
        prediction = self.segmenter.predict(image)
        self.numbers.append({**alive_tokens(prediction), **method_numbers(prediction)})
        depth = spread(pruning_depth(prediction.encoded), size=image.shape[2:])
        return torch.cat([prediction.logits, depth.to(prediction.logits.dtype)], dim=1)


@dataclass(frozen=True)
class CaseFiles:
    """What of a case is written below `folder`: its label map, and a picture with a title."""

    folder: Path
    labels: bool
    picture: bool
    title: str


@torch.no_grad()
def evaluate_case(
    case: Case,
    *,
    data: SegmentationData,
    network: Segmenter,
    inferer: Inferer,
    device: torch.device,
    dtype: torch.dtype,
    files: CaseFiles | None,
    notice: MemoryNotice | None = None,
    postprocessing: Postprocessing | None = None,
    lesions: bool = False,
    look: Look | None = None,
) -> tuple[list[Row], dict[str, float]]:
    """Predicts one case on its own grid, post-processes and scores it; writes `files`, and nothing where that is None.

    Returns the rows, and by name: the shares of tokens and of patches with foreground that every pruning stage kept,
    the pruning method's own numbers, mean over windows, and what a first look has chosen, see `View.record`.
    """
    volume = data.load_case(case)
    assert volume.label is not None
    assert case.label is not None
    model = WithDepth(network)
    labels = source_grid(volume, outputs=data.outputs).labels
    num_stages = network.encoder.spec.num_depths
    draw = num_stages > 0 or (files is not None and files.picture)
    depths = torch.full(volume.label.shape, NOT_SEEN)
    drawn = torch.zeros(volume.label.shape if draw else (0,), dtype=torch.int16)
    background = F.pad(data.outputs.background, (0, 1), value=NOT_SEEN)
    view = look_at(network, volume.image, look, inferer=inferer, data=data, device=device)
    for seen in whole_or(view, shape=volume.label.shape):
        box, part = seen.box, volume.part(seen.box)
        grid = source_grid(part, outputs=data.outputs, labels=labels)
        with autocast(device, dtype):
            for chunk in logits_for(
                grid,
                model,
                part.image,
                inferer,
                Request(data.roi_size, background, device, seen.wanted),
                notice=notice,
            ):
                logits = chunk.logits[:-1]
                grid.add(Chunk(chunk.start, logits))
                depths[box][chunk.rows] = chunk.logits[-1]
                if draw:
                    drawn[box][chunk.rows] = data.outputs.labels(logits)
    patch_size = patch_shape(network.encoder, num_dims=volume.label.ndim)
    depth = patch_means(depths, patch_size=patch_size)
    if postprocessing is not None:
        labels = postprocessing.apply(labels, affine=volume.source_affine)
    truth, file_grid = data.format.read_label(case.label)
    shown = data.outputs.label_map.cleared(volume.label)
    if files is not None and files.labels:
        data.format.save_labels(files.folder / "predictions" / case.name, labels, like=case.image)
    if files is not None and files.picture:
        panel(
            volume.image.numpy(),
            shown.numpy(),
            drawn.numpy(),
            depth.numpy() if num_stages else None,
            names=data.outputs.legend,
            path=files.folder / "figures" / f"{case.name}.png",
            num_stages=num_stages,
            spacing=volume.spacing,
            title=f"{files.title}, case {case.name}",
            slices_first=volume.label.ndim > data.spatial_dims,
        )
    rows = score_case(
        labels,
        truth.astype(labels.dtype),
        outputs=data.outputs,
        spacing=list(file_grid.spacing),
        unit=file_grid.unit,
        case_id=case.name,
        tolerance=data.tolerances(),
        lesions=lesions,
    )
    looked = {} if view is None else {f"look/{name}": float(number) for name, number in view.record().items()}
    if not num_stages:
        return rows, {**known_means(model.numbers), **looked}
    kinds = patch_kinds(shown.unsqueeze(0), drawn.unsqueeze(0), patch_size=patch_size)
    shares = kept_shares(depth.unsqueeze(0), kinds, num_stages=num_stages, unit="patches")
    return rows, {**shares, **known_means(model.numbers), **looked}
