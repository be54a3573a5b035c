"""The whole loss of a training step: the decoder's head, early heads, the pruning method's terms, a teacher.

Letters: B batch, Q channels of the logits (classes or regions), S spatial size.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sct.config.parts import part
from sct.config.trust import Trust
from sct.data.outputs import Outputs
from sct.errors import UserError
from sct.losses.base import PixelLoss, known_mean
from sct.losses.deep import level_weights, sampled
from sct.losses.look import look_loss
from sct.losses.worth import Worth, hard_patches, worth_loss
from sct.models.grid import foreground_patches, resize
from sct.models.tokens import HeadOutput, Prediction, Scores
from sct.models.worth import class_counts, patch_worth
from sct.runs.run import open_run


@part
class Criterion(nn.Module):
    """Sums up what a prediction is judged by.

    `outputs` says what the channels are. Heads that classify pixels are judged by `pixel`, (logits (B, Q, *S),
    target) -> parts, heads of class queries by `query`, (HeadOutput, labels) -> parts, None where there are none;
    each gives a "loss" and its named parts. Early heads (DToP) count `early_weight` each, heads that serve training
    alone (Cropr) `auxiliary_weight` each. A gate that says which patches are background (APFormer) is judged by
    cross-entropy with "any foreground in the patch", times `gate_weight`. A first look needs no weight: it shares no
    parameter with the rest. The pruning method's own terms
    (`Encoded.losses`) come weighted. `teacher`, a run folder or checkpoint of a trained network with the same outputs,
    adds `distill_weight` times the KL divergence of the distributions of every voxel from the teacher's; the
    teacher's code may be of the packages `plugins`, which only the command at hand gives.

    Coarser levels of the decoder (`trainer.deep_supervision`) are judged by `pixel`, too: the loss of the head is then
    the mean over the levels with the weights of `deep.level_weights`.

    Voxels that the data set tells to ignore count in none of them. The losses then get the labels with background
    there, and with `known=` a mask of all other voxels. The gate judges a patch by its voxels that count; a patch
    without one is not judged.

    Raises `UserError` where `pixel` or the teacher is for other outputs.

    pixel: loss of heads that classify pixels
    query: loss of heads of class queries (ATM); null: there are none
    early_weight: weight of the loss of each early head (DToP)
    auxiliary_weight: weight of the loss of each head that serves training alone (Cropr)
    gate_weight: weight of the cross-entropy of a gate that finds background patches (APFormer)
    teacher: a trained run or checkpoint to distil from, with the same outputs; null: none
    distill_weight: weight of the KL divergence from the teacher, mean over voxels
    worth: what scores that are taught learn (encoder.reducer.taught): foreground, patches with any foreground;
        boundary, patches with or next to two labels; or loss, patches with more cross-entropy than the image's mean
    worth_weight: weight of the binary cross-entropy of scores that are taught
    """

    def __init__(
        self,
        *,
        outputs: Outputs,
        pixel: PixelLoss,
        query: nn.Module | None = None,
        early_weight: float = 1.0,
        auxiliary_weight: float = 1.0,
        gate_weight: float = 0.1,
        teacher: str | None = None,
        distill_weight: float = 0.5,
        worth: Worth = "foreground",
        worth_weight: float = 0.1,
        plugins: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_kind(pixel, outputs)
        self.outputs, self.pixel, self.query = outputs, pixel, query
        self.early_weight, self.auxiliary_weight = early_weight, auxiliary_weight
        self.gate_weight, self.distill_weight = gate_weight, distill_weight
        self.worth, self.worth_weight = worth, worth_weight
        self.teacher: nn.Module | None = None
        if teacher is not None:
            run = open_run(teacher, device="cpu", precision="fp32", trust=Trust(tuple(plugins)))
            self.teacher = run.network
            if run.data.outputs != outputs:
                raise UserError(
                    f"loss.teacher={teacher} has other outputs ({', '.join(run.data.outputs.names)}) than data "
                    f"({', '.join(outputs.names)}). Take a teacher that was trained for the same."
                )
            self.teacher.requires_grad_(False)

    def forward(self, prediction: Prediction, target: Tensor, *, image: Tensor) -> dict[str, Tensor]:
        """Prediction for image (B, C, *S), labels (B, *S) -> {"loss": their weighted sum, and every part}."""
        labels, known = target, self.outputs.label_map.known(target)
        target = self.outputs.label_map.cleared(target)
        mask = masked_by(known)
        parts = self.judge(prediction.head, target, **mask, logits=prediction.logits)
        if prediction.levels:
            parts["levels"], parts["loss"] = self.judge_levels(prediction.levels, target, known, finest=parts["loss"])
        early = prediction.encoded.early
        heads = {
            "early": (self.early_weight, early.stages if early is not None else []),
            "auxiliary": (self.auxiliary_weight, prediction.encoded.auxiliary),
        }
        for name, (weight, outputs) in heads.items():
            if outputs:
                parts[name] = torch.stack([self.judge(head, target, **mask)["loss"] for head in outputs]).sum()
                parts["loss"] = parts["loss"] + weight * parts[name]
        if (gate := prediction.encoded.gate) is not None:
            parts["gate"] = gate_loss(gate, target, known)
            parts["loss"] = parts["loss"] + self.gate_weight * parts["gate"]
        if taught := [stage for stage in prediction.encoded.scores if stage.taught]:
            parts["worth"] = self.score_loss(taught, target, known, prediction=prediction)
            parts["loss"] = parts["loss"] + self.worth_weight * parts["worth"]
        if prediction.look is not None:
            patch = patch_of(labels, grid=prediction.look.shape[1:])
            counts = class_counts(labels, patch_size=patch, num_values=len(self.outputs.label_map))
            parts["look"] = look_loss(prediction.look.flatten(1), counts)
            parts["loss"] = parts["loss"] + parts["look"]
        for name, value in prediction.encoded.losses.items():
            parts[name] = value
            parts["loss"] = parts["loss"] + value
        if self.teacher is not None:
            parts["distill"] = self.pixel.divergence(prediction.logits, self.teach(image), **mask)
            parts["loss"] = parts["loss"] + self.distill_weight * parts["distill"]
        return parts

    def score_loss(
        self, scores: Sequence[Scores], target: Tensor, known: Tensor | None, *, prediction: Prediction
    ) -> Tensor:
        """How far the scores are from what the patches of the labels (B, *S) are worth."""
        patch = patch_of(target, grid=prediction.encoded.grid)
        if self.worth == "loss":
            targets, overlapping = self.outputs.targets(target), self.outputs.overlapping
            worth = hard_patches(prediction.logits, targets, patch_size=patch, overlapping=overlapping)
        else:
            worth = patch_worth(target, patch_size=patch, kind=self.worth)
        counted = None if known is None else foreground_patches(known, patch_size=patch).flatten(1)
        return worth_loss(scores, worth, known=counted)

    def judge_levels(
        self, levels: Sequence[Tensor], target: Tensor, known: Tensor | None, *, finest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum of the losses of logits (B, Q, *S_i) of coarser levels; the same with the loss `finest`."""
        first, *weights = level_weights(1 + len(levels))
        losses = []
        for weight, logits in zip(weights, levels, strict=True):
            size = logits.shape[2:]
            counted = None if known is None else sampled(known, size)
            losses.append(weight * self.judge(None, sampled(target, size), known=counted, logits=logits)["loss"])
        coarser = torch.stack(losses).sum()
        return coarser, first * finest + coarser

    def judge(
        self, head: HeadOutput | None, target: Tensor, *, known: Tensor | None = None, logits: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss and parts of one head; `logits` (B, Q, *S) are its masks at the size of the target, if they exist.

        "pixel" is the loss of a head that classifies pixels: what methods with different terms have in common.
        known (B, *S): voxels that count, None: all.
        """
        mask = masked_by(known)
        if head is not None and head.classes is not None:
            assert self.query is not None, "a decoder of class queries refuses regions"
            return self.query(head, target, **mask)
        if logits is None:
            assert head is not None
            logits = resize(head.masks, target.shape[1:])
        parts = self.pixel(logits, self.outputs.targets(target), **mask)
        return {**parts, "pixel": parts["loss"]}

    @torch.no_grad()
    def teach(self, image: Tensor) -> Tensor:
        assert self.teacher is not None
        return self.teacher.eval()(image)


def masked_by(known: Tensor | None) -> dict[str, Tensor]:
    """The argument `known` for a loss, only where there is a mask: a user's loss without it serves other data sets."""
    return {} if known is None else {"known": known}


def patch_of(labels: Tensor, *, grid: Sequence[int]) -> tuple[int, ...]:
    """Voxels of a patch along each axis of labels (B, *S) with a grid of patches."""
    return tuple(size // places for size, places in zip(labels.shape[1:], grid, strict=True))


def gate_loss(gate: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
    """Cross-entropy of gate (B, 2, *grid) with "any foreground in the patch" of labels (B, *S), over patches that
    hold a voxel which counts, known (B, *S)."""
    patch_size = patch_of(target, grid=gate.shape[2:])
    foreground = foreground_patches(target, patch_size=patch_size).long()
    if known is None:
        return F.cross_entropy(gate.float(), foreground)
    each = F.cross_entropy(gate.float(), foreground, reduction="none")
    return known_mean(each, foreground_patches(known, patch_size=patch_size))


def check_kind(pixel: PixelLoss, outputs: Outputs) -> None:
    """UserError where a loss of classes meets overlapping regions, or the other way round."""
    kind, names = type(pixel).__name__, ", ".join(outputs.names)
    if outputs.overlapping and not pixel.overlapping:
        raise UserError(
            f"loss.pixel={kind} is for classes that exclude each other (softmax), but data has the overlapping regions "
            f"{names}. Choose loss=dice_bce, or data.regions=null to predict the labels themselves."
        )
    if pixel.overlapping and not outputs.overlapping:
        raise UserError(
            f"loss.pixel={kind} is for overlapping regions (sigmoid), but data has the classes {names}, of which a "
            "voxel has one. Choose loss=dice_ce, or name regions with data.regions."
        )
