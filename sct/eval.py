"""`python -m sct.eval ckpt=RUN`: scores a trained segmenter on cases it never saw."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sct import card, checkpoint, cli
from sct.data.cases import Case, window_shape
from sct.data.module import SegmentationData
from sct.distributed import pick_device
from sct.errors import UserError
from sct.factory import build_inferer, load_trained
from sct.figures import panel
from sct.inference import to_source_grid
from sct.metrics import Row, score_case
from sct.models.grid import foreground_patches, pruning_depth
from sct.models.segmenter import Segmenter
from sct.precision import autocast, precision_dtype
from sct.run import log_to
from sct.scores import markdown_table, write_report
from sct.validation import kept_shares

logger = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> None:
    """Writes cases.csv, summary.json, table.md, predictions and figures for one split."""
    log_to(None)
    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split} must be val or test.")
    device = pick_device(cfg.device)
    changes = {key: OmegaConf.to_container(cfg[key]) for key in ("data", "inferer")}
    run_cfg, data, segmenter = load_trained(cfg.ckpt, weights=cfg.weights, changes=changes, device=device)
    data.prepare()
    folder = Path(cfg.output) if cfg.output else default_folder(cfg)
    rows: list[Row] = []
    kept: list[dict[str, float]] = []
    for number, case in enumerate(data.cases(cfg.split)):
        case_rows, case_kept = evaluate_case(
            case,
            data=data,
            segmenter=segmenter,
            run_cfg=run_cfg,
            cfg=cfg,
            device=device,
            folder=folder,
            draw=number < cfg.figures,
        )
        rows += case_rows
        kept.append(case_kept)
    tokens = {name: sum(row[name] for row in kept) / len(kept) for name in kept[0]}
    summary = write_report(
        folder,
        rows,
        title=f"{run_cfg.name}: {cfg.split}",
        meta={"ckpt": str(cfg.ckpt), "weights": cfg.weights, "split": cfg.split, "seed": run_cfg.seed, **tokens},
        groups=data.class_groups,
        scores=data.scores,
    )
    leave_card(folder, cfg=cfg, segmenter=segmenter, summary=summary)
    logger.info("\n%s\nWritten to %s", markdown_table(summary, scores=data.scores), folder)


def leave_card(folder: Path, *, cfg: DictConfig, segmenter: Segmenter, summary: Mapping[str, Any]) -> None:
    """Writes the result card: the run's own, and how it was evaluated with what result."""
    run = run_folder(cfg)
    if not (run / card.FILE).exists():
        logger.warning("%s has no %s, so this evaluation gets none: it can't be verified later", run, card.FILE)
        return
    settings = OmegaConf.to_container(cfg)
    assert isinstance(settings, dict)
    kept = {str(key): settings[key] for key in ("split", "weights", "device", "precision", "inferer", "data")}
    digest = card.weights_digest(segmenter.state_dict())
    card.write_card(folder, card.result_card(card.read_card(run), evaluation=kept, weights=digest, summary=summary))


def default_folder(cfg: DictConfig) -> Path:
    """<run>/eval/<split>."""
    return run_folder(cfg) / "eval" / cfg.split


def run_folder(cfg: DictConfig) -> Path:
    """The run's folder, also when a checkpoint file of the run is given."""
    path = checkpoint.find(cfg.ckpt, weights=cfg.weights)
    return path.parent.parent if path.parent.name == checkpoint.FOLDER else path.parent


@torch.no_grad()
def evaluate_case(
    case: Case,
    *,
    data: SegmentationData,
    segmenter: Segmenter,
    run_cfg: DictConfig,
    cfg: DictConfig,
    device: torch.device,
    folder: Path,
    draw: bool,
) -> tuple[list[Row], dict[str, float]]:
    """Predicts one case on its own grid, scores it, and leaves its label map and figure in `folder`.

    Returns the rows, and what of the tokens and of the patches with foreground every pruning stage kept.
    """
    volume = data.load_case(case)
    assert volume.label is not None
    assert case.label is not None
    dtype = precision_dtype(cfg.precision or run_cfg.trainer.precision, key="precision")
    with autocast(device, dtype):
        stitched = build_inferer(run_cfg)(
            WithDepth(segmenter),
            volume.image,
            roi_size=data.roi_size,
            num_classes=data.outputs.num_channels + 1,
            device=device,
        )
    num_stages = segmenter.encoder.spec.num_depths
    patch_size = window_shape([segmenter.encoder.spec.patch_size] * data.spatial_dims, num_dims=volume.label.ndim)
    logits, depth = stitched[:-1], patch_means(stitched[-1], patch_size=patch_size)
    labels = to_source_grid(
        logits,
        outputs=data.outputs,
        affine=volume.affine,
        source_shape=volume.source_shape,
        source_affine=volume.source_affine,
    )
    truth, grid = data.format.read_label(case.label)
    if cfg.save_predictions:
        data.format.save_labels(folder / "predictions" / case.id, labels, like=case.image)
    if draw:
        panel(
            volume.image.numpy(),
            volume.label.numpy(),
            data.outputs.labels(logits).cpu().numpy(),
            depth.numpy() if num_stages else None,
            names=data.outputs.legend,
            path=folder / "figures" / f"{case.id}.png",
            num_stages=num_stages,
            spacing=volume.spacing,
            title=f"{run_cfg.name}, case {case.id}",
            slices_first=volume.label.ndim > data.spatial_dims,
        )
    rows = score_case(
        labels,
        truth.astype(labels.dtype),
        outputs=data.outputs,
        spacing=list(grid.spacing),
        unit=grid.unit,
        case_id=case.id,
    )
    found = [row.dice for row in rows if not row.absent]
    logger.info("%s  mean Dice %.4f", case.id, sum(found) / max(1, len(found)))
    foreground = foreground_patches(volume.label.unsqueeze(0), patch_size=patch_size)
    return rows, kept_shares(depth.unsqueeze(0), foreground, num_stages=num_stages)


class WithDepth:
    """A segmenter that gives the pruning depth as one more channel, so that both are stitched alike."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __call__(self, image: Tensor) -> Tensor:
        """image (B, C, *S) -> logits and depth (B, Q + 1, *S)."""
        prediction = self.segmenter.predict(image)
        depth = pruning_depth(prediction.encoded).unsqueeze(1).to(prediction.logits.dtype)
        return torch.cat([prediction.logits, F.interpolate(depth, size=image.shape[2:])], dim=1)


def patch_means(depth: Tensor, *, patch_size: tuple[int, ...]) -> Tensor:
    """Stitched depth (*S), a mean over overlapping windows, as whole stages on a grid of patches."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[depth.ndim]
    return pool(depth[None, None].float(), patch_size, ceil_mode=True)[0, 0].round().long().cpu()


def main() -> None:
    cli.run(evaluate, config_name="eval", open_groups=("data", "inferer"))


if __name__ == "__main__":
    main()
