"""Which rows of a stitched map are kept while windows are added to it in order, and when rows are final.

A row is all voxels with one index of the first axis. A place is one position of the stitched map, see
`sct.inference.stages`.
"""

from collections import Counter
from collections.abc import Sequence

from sct.inference.stages import Stages
from sct.inference.wanted import Start


def row_groups(starts: Sequence[Start], *, batch_size: int) -> list[list[int]]:
    """First rows of the windows in groups; chunks are yielded after each group.

    Rows with few windows share a group as long as their windows fit in one batch.
    """
    groups: list[list[int]] = []
    in_group = batch_size
    for row, number in sorted(Counter(at[0] for at in starts).items()):
        if in_group + number > batch_size:
            groups.append([])
            in_group = 0
        groups[-1].append(row)
        in_group += number
    return groups


def rows_kept(groups: Sequence[Sequence[int]], *, depth: int, length: int, stages: Stages) -> int:
    """Rows of places to store: rows in the windows of one group, `depth` voxels deep, and earlier rows still needed.

    length: rows of the padded image. Rows that no window holds are stored too, until the next group.
    """
    following = [*(group[0] for group in groups[1:]), length]
    ends = [max(group[-1] + depth, row) // stages.stride[0] for group, row in zip(groups, following, strict=True)]
    firsts = [0, *(first_place(max(0, group[0] - stages.reach - 1), stages=stages) for group in groups[1:])]
    return max(end - first for end, first in zip(ends, firsts, strict=True))


def first_place(row: int, *, stages: Stages) -> int:
    """The first row of places that the logits of a row of the image depend on."""
    return max(0, row - stages.reach) // stages.stride[0]
