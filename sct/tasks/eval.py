"""Evaluation: scores of a trained segmenter on cases it never saw."""

import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sct.data.cases import Case, window_shape
from sct.data.module import SegmentationData
from sct.errors import UserError
from sct.evaluation.metrics import Row, score_case
from sct.evaluation.pictures import panel
from sct.evaluation.scores import markdown_table, write_report
from sct.evaluation.tokens import kept_shares, known_means, method_numbers
from sct.inference import Chunk, Inferer, MemoryNotice, logits_for, source_grid
from sct.models.grid import foreground_patches, pruning_depth
from sct.models.segmenter import Segmenter
from sct.models.selfcheck import inference_precision
from sct.runs import card
from sct.runs.build import build_inferer, load_trained
from sct.runs.folder import log_to
from sct.runtime import checkpoint
from sct.runtime.distributed import pick_device
from sct.runtime.precision import autocast
from sct.runtime.progress import Pace

logger = logging.getLogger(__name__)

# settings of the data that say where they are and how they are read, not what they are
PLACES = ("root", "cache", "cache_dir", "num_workers", "check")


def evaluate(cfg: DictConfig) -> None:
    """Writes cases.csv, summary.json, table.md, predictions and figures for one split."""
    log_to(None)
    OmegaConf.to_object(cfg)  # the schema refuses what is no number format
    if cfg.split not in ("val", "test"):
        raise UserError(f"split={cfg.split} must be val or test.")
    device = pick_device(cfg.device)
    changes = {key: OmegaConf.to_container(cfg[key]) for key in ("data", "inferer")}
    run_cfg, data, segmenter = load_trained(cfg.ckpt, weights=cfg.weights, changes=changes, device=device)
    torch.backends.cudnn.benchmark = True  # windows have one size: the fastest kernel for it is soon found
    inferer = build_inferer(run_cfg)
    chosen = inference_precision(cfg, run_cfg, network=segmenter, device=device)
    chosen.log()
    data.prepare()
    folder = Path(cfg.output) if cfg.output else default_folder(cfg, run_cfg=run_cfg, data=data)
    rows: list[Row] = []
    kept: list[dict[str, float]] = []
    cases = data.cases(cfg.split)
    pace, notice = Pace(len(cases), unit="case"), MemoryNotice()
    for number, case in enumerate(cases):
        case_rows, case_kept = evaluate_case(
            case,
            data=data,
            segmenter=segmenter,
            inferer=inferer,
            run_cfg=run_cfg,
            cfg=cfg,
            device=device,
            dtype=chosen.dtype,
            folder=folder,
            draw=number < cfg.figures,
            notice=notice,
        )
        pace.advance()
        found = [row.dice for row in case_rows if not row.absent]
        dice = sum(found) / max(1, len(found))
        logger.info("%s  %s  mean Dice %.4f  %s", pace.place(), case.id, dice, pace.text())
        rows += case_rows
        kept.append(case_kept)
    settings = evaluation_settings(cfg)
    summary = write_report(
        folder,
        rows,
        title=f"{run_cfg.name}: {cfg.split}",
        meta={"ckpt": str(cfg.ckpt), **settings, "root": data.root, "seed": run_cfg.seed, **known_means(kept)},
        groups=data.class_groups,
        scores=data.scores,
    )
    training = run_folder(cfg)
    card.write_card(
        folder,
        card.result_card(
            card.read_card(training) if (training / card.FILE).exists() else None,
            evaluation=settings,
            weights=card.weights_digest(segmenter.state_dict()),
            summary=summary,
            data=data,
            device=device,
            chosen=chosen,
        ),
    )
    logger.info("\n%s\nWritten to %s", markdown_table(summary, scores=data.scores), folder)


def evaluation_settings(cfg: DictConfig) -> dict[str, Any]:
    """What decides the scores of a checkpoint."""
    settings = OmegaConf.to_container(cfg)
    assert isinstance(settings, dict)
    return {str(key): settings[key] for key in ("split", "weights", "device", "precision", "inferer", "data")}


def default_folder(cfg: DictConfig, *, run_cfg: DictConfig, data: SegmentationData) -> Path:
    """<run>/eval/<split>, which is the run's own evaluation: UserError where this one is another.

    What precision=auto chooses is a circumstance, as the machine is, and not another evaluation.
    """
    run = run_folder(cfg)
    changed = ["inferer"] if "_target_" in cfg.inferer else [f"inferer.{key}" for key in cfg.inferer]
    changed += [f"data.{key}" for key in cfg.data if key not in PLACES]
    changed += ["precision"] * (cfg.precision not in (None, "auto", run_cfg.trainer.precision))
    if (run / card.FILE).exists():
        own = card.read_card(run)["split"][cfg.split]
        changed += [f"the cases below data.root={data.root}"] * (own != [case.id for case in data.cases(cfg.split)])
    if changed:
        raise UserError(
            f"{', '.join(changed)} differ from the run's, so its own evaluation in {run / 'eval' / cfg.split} would be "
            "written over by another one: give output=FOLDER."
        )
    return run / "eval" / cfg.split


def run_folder(cfg: DictConfig) -> Path:
    """The run's folder, also when a checkpoint file of the run is given."""
    return checkpoint.folder_of(checkpoint.find(cfg.ckpt, weights=cfg.weights))


@torch.no_grad()
def evaluate_case(
    case: Case,
    *,
    data: SegmentationData,
    segmenter: Segmenter,
    inferer: Inferer,
    run_cfg: DictConfig,
    cfg: DictConfig,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path,
    draw: bool,
    notice: MemoryNotice | None = None,
) -> tuple[list[Row], dict[str, float]]:
    """Predicts one case on its own grid, scores it, and leaves its label map and figure in `folder`.

    Returns the rows, what of the tokens and of the patches with foreground every pruning stage kept, and the pruning
    method's own numbers, mean over windows.
    """
    volume = data.load_case(case)
    assert volume.label is not None
    assert case.label is not None
    model = WithDepth(segmenter)
    grid = source_grid(volume, outputs=data.outputs)
    depths = torch.empty(volume.label.shape)
    drawn = torch.empty(volume.label.shape if draw else (0,), dtype=torch.int16)
    # of a window that is skipped nothing survives the first stage
    background = F.pad(data.outputs.background, (0, 1))
    with autocast(device, dtype):
        for chunk in logits_for(
            grid,
            model,
            volume.image,
            inferer,
            roi_size=data.roi_size,
            background=background,
            device=device,
            notice=notice,
        ):
            logits = chunk.logits[:-1]
            grid.add(Chunk(chunk.start, logits))
            depths[chunk.rows] = chunk.logits[-1]
            if draw:
                drawn[chunk.rows] = data.outputs.labels(logits)
    num_stages = segmenter.encoder.spec.num_depths
    patch_size = window_shape([segmenter.encoder.spec.patch_size] * data.spatial_dims, num_dims=volume.label.ndim)
    depth, labels = patch_means(depths, patch_size=patch_size), grid.labels
    truth, file_grid = data.format.read_label(case.label)
    if cfg.save_predictions:
        data.format.save_labels(folder / "predictions" / case.id, labels, like=case.image)
    if draw:
        panel(
            volume.image.numpy(),
            volume.label.numpy(),
            drawn.numpy(),
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
        spacing=list(file_grid.spacing),
        unit=file_grid.unit,
        case_id=case.id,
    )
    foreground = foreground_patches(volume.label.unsqueeze(0), patch_size=patch_size)
    shares = kept_shares(depth.unsqueeze(0), foreground, num_stages=num_stages)
    return rows, {**shares, **known_means(model.numbers)}


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
        self.numbers.append(method_numbers(prediction))
        depth = pruning_depth(prediction.encoded).unsqueeze(1).to(prediction.logits.dtype)
        return torch.cat([prediction.logits, F.interpolate(depth, size=image.shape[2:])], dim=1)


def patch_means(depth: Tensor, *, patch_size: tuple[int, ...]) -> Tensor:
    """Stitched depth (*S), a mean over overlapping windows, as whole stages on a grid of patches."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[depth.ndim]
    return pool(depth[None, None].float(), patch_size, ceil_mode=True)[0, 0].round().long().cpu()
