"""What the channels of a network's logits mean for a data set: classes that exclude each other, or regions.

Letters: B batch, Q channels of the logits, S spatial size (2 or 3 dims).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sct.data.cases import LabelMap, Values
from sct.errors import UserError

# by how much the background's logit wins where nothing was predicted
CERTAIN = 10.0


class Outputs(ABC):
    """Published by a data set, read by losses, inference, scores and figures.

    Labels are maps of the values of `label_map` everywhere: in files, cache, crops and batches, and in predictions.
    Scores are of two such maps, so that a written file scores as the map in memory.
    overlapping: a voxel may be in several channels (sigmoid), or is in exactly one (softmax)
    """

    overlapping: ClassVar[bool]
    label_map: LabelMap

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """Channels of the logits."""

    @property
    @abstractmethod
    def scored(self) -> dict[str, tuple[int, ...]]:
        """What is scored, by name: the label values that belong to it."""

    @property
    @abstractmethod
    def legend(self) -> tuple[str, ...]:
        """What a picture calls every label value."""

    @abstractmethod
    def targets(self, labels: Tensor) -> Tensor:
        """What a loss compares logits (B, Q, *S) with, of labels (B, *S)."""

    @property
    @abstractmethod
    def background(self) -> Tensor:
        """Logits (Q) of a voxel in which there is nothing, at a probability above 0.999."""

    @abstractmethod
    def decisions(self, logits: Tensor) -> Tensor:
        """Which channels win in logits (Q, *S), as one whole number a voxel (*S).

        Where voxels have the same decision, so has whatever is interpolated linearly between them.
        """

    @abstractmethod
    def labels_of(self, decisions: Tensor) -> Tensor:
        """Label values (*S) int16 of decisions (*S)."""

    def labels(self, logits: Tensor) -> Tensor:
        """Label values (*S) int16 of logits (Q, *S)."""
        return self.labels_of(self.decisions(logits))

    @property
    def names(self) -> tuple[str, ...]:
        """What is scored, by name."""
        return tuple(self.scored)


@dataclass(frozen=True)
class Classes(Outputs):
    """A channel per label value, background included; the largest logit wins."""

    label_map: LabelMap
    overlapping = False

    @property
    def num_channels(self) -> int:
        return len(self.label_map)

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        return {name: (value,) for value, name in enumerate(self.label_map.foreground, start=1)}

    @property
    def legend(self) -> tuple[str, ...]:
        return self.label_map.names

    def targets(self, labels: Tensor) -> Tensor:
        """The labels (B, *S) themselves."""
        return labels

    @property
    def background(self) -> Tensor:
        return torch.tensor([CERTAIN, *[0.0] * len(self.label_map.foreground)])

    def decisions(self, logits: Tensor) -> Tensor:
        """The channel of the largest logit, the first of equals; of voxels with a NaN any channel."""
        if logits.stride(0) == 1:  # a voxel's channels side by side
            return logits.max(dim=0).indices.to(torch.int16)
        # far faster on a CPU than torch.max of channels that lie apart
        best = logits[0].clone()
        labels = torch.zeros(best.shape, dtype=torch.int16, device=best.device)
        for value, candidate in enumerate(logits[1:], start=1):
            labels.masked_fill_(candidate > best, value)
            torch.maximum(best, candidate, out=best)
        return labels

    def labels_of(self, decisions: Tensor) -> Tensor:
        return decisions


def numbered(num_classes: int) -> Classes:
    """Classes that have no names, for benchmarks."""
    return Classes(LabelMap(("background", *map(str, range(1, num_classes)))))


@dataclass(frozen=True)
class Regions(Outputs):
    """A channel per region, a union of label values; regions may overlap. A voxel is in a region where p > 0.5.

    Predicted regions become a label map by painting: the largest region (most values) first, each with its first
    value that no region painted later has. Nested regions, such as BraTS's whole tumour [1, 2, 3], tumour core
    [2, 3] and enhancing tumour [3], so give the labels 1, 2, 3 back. Scores are of painted maps: an enhancing tumour
    that is predicted outside the core is painted 3, and 3 counts in all three regions.

    painted: where it is given, the regions are painted in their order instead, each with its value of these.

    Raises `UserError` where a region is empty, names an unknown value or the background, or where painting the
    regions of a label value gives other regions than its own.
    """

    label_map: LabelMap
    members: tuple[tuple[str, tuple[int, ...]], ...]
    painted: tuple[int, ...] | None = None
    overlapping = True

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("data.regions={} has no region. Name one, or set it to null for the classes of the labels.")
        for name, values in self.members:
            if not values or not set(values) <= set(range(1, len(self.label_map))) or len(set(values)) < len(values):
                known = ", ".join(f"{value} {label}" for value, label in enumerate(self.label_map.names) if value)
                raise UserError(
                    f"data.regions.{name}={list(values)} must be some of the label values, each once: {known}."
                )
        for value, label in enumerate(self.label_map.names):
            own, found = self._regions_of(value), self._regions_of(painted := self._painted(value))
            if found != own:
                order = "the largest first" if self.painted is None else f"with the values {list(self.painted)}"
                raise UserError(
                    f"data.regions: a voxel in {' and '.join(own)} is of label {value} ({label}), but painted region "
                    f"by region, {order}, it becomes {painted}, which is in {' and '.join(found) or 'no region'}. "
                    + (
                        "Let the regions be nested or disjoint."
                        if self.painted is None
                        else "Let the regions be nested or disjoint, and order regions_class_order as nnU-Net does: "
                        "a region before those that lie in it, each with a value that is in no later one."
                    )
                )

    @classmethod
    def from_settings(
        cls,
        label_map: LabelMap,
        regions: Mapping[str, Sequence[int | str]],
        *,
        painted: Sequence[int] | None = None,
    ) -> "Regions":
        """Regions by name, their members as label values or as names of the label map."""
        members = tuple((name, _values(name, own, label_map)) for name, own in regions.items())
        return cls(label_map, members, None if painted is None else tuple(painted))

    @property
    def num_channels(self) -> int:
        return len(self.members)

    @property
    def scored(self) -> dict[str, tuple[int, ...]]:
        return dict(self.members)

    @property
    def legend(self) -> tuple[str, ...]:
        named = [(name, ", ".join(self._regions_of(value))) for value, name in enumerate(self.label_map.names)]
        return tuple(f"{name} ({regions})" if regions else name for name, regions in named)

    def targets(self, labels: Tensor) -> Tensor:
        """Masks (B, Q, *S), bool, of labels (B, *S)."""
        masks = [any_of(labels, values) for values in self.scored.values()]
        return torch.stack(masks, dim=1)

    @property
    def background(self) -> Tensor:
        return torch.full((self.num_channels,), -CERTAIN)

    def decisions(self, logits: Tensor) -> Tensor:
        """The regions that a voxel is in, a bit each."""
        regions = torch.zeros(logits.shape[1:], dtype=torch.int64, device=logits.device)
        for channel, logit in enumerate(logits):
            regions += (logit > 0).long() << channel
        return regions

    def labels_of(self, decisions: Tensor) -> Tensor:
        """The regions painted one over the other."""
        labels = torch.zeros(decisions.shape, dtype=torch.int16, device=decisions.device)
        for channel, value in self._paint():
            labels.masked_fill_((decisions & (1 << channel)) > 0, value)
        return labels

    def _paint(self) -> list[tuple[int, int]]:
        """Channels in the order in which they are painted, each with its value."""
        if self.painted is not None:
            return list(enumerate(self.painted))
        order = sorted(range(self.num_channels), key=lambda channel: -len(self.members[channel][1]))
        painted = []
        for place, channel in enumerate(order):
            later = {value for other in order[place + 1 :] for value in self.members[other][1]}
            values = self.members[channel][1]
            painted.append((channel, next((value for value in values if value not in later), values[0])))
        return painted

    def _painted(self, value: int) -> int:
        """What a voxel of this label is after painting its regions."""
        own = [painted for channel, painted in self._paint() if value in self.members[channel][1]]
        return own[-1] if own else 0

    def _regions_of(self, value: int) -> tuple[str, ...]:
        return tuple(name for name, values in self.members if value in values)


def any_of(labels: Values, values: Sequence[int]) -> Values:
    """Where labels (*S) have one of the values: (*S) bool."""
    mask = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask


def _values(region: str, members: Sequence[int | str], label_map: LabelMap) -> tuple[int, ...]:
    if not isinstance(members, list | tuple):
        raise UserError(f"data.regions.{region}={members} must be a list of label values or names.")
    unknown = [member for member in members if isinstance(member, str) and member not in label_map.names]
    if unknown:
        raise UserError(f"data.regions.{region} names {unknown}; the labels are {list(label_map.names)}.")
    return tuple(label_map.names.index(member) if isinstance(member, str) else member for member in members)
