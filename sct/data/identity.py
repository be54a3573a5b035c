"""Who a case is: ids from file names, unique in a data set."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath

from sct.data.cases import Case
from sct.errors import UserError, visible

_SHOWN = 5

# an image and its label file
Pair = tuple[Path, Path | None]


def name_cases(pairs: Sequence[Pair], *, root: Path, stem: Callable[[Path], str]) -> list[Case]:
    """Cases of listed files, in their order.

    An id is the stem of the image's file name where the stems of all images differ, else its path relative to `root`
    without suffix. An image with several label files is one case for each, with the label file as its rater. The same
    image with the same label twice is left to `check_ids`.
    """
    images = list(dict.fromkeys(image for image, _ in pairs))
    shared = {name for name, number in Counter(map(stem, images)).items() if number > 1}
    ids = {image: relative_name(image, root=root, stem=stem) if shared else stem(image) for image in images}
    labels: dict[Path, list[Path]] = {}
    for image, label in pairs:
        if label is not None and label not in labels.setdefault(image, []):
            labels[image].append(label)
    return [
        Case(ids[image], image, label, rater_name(label, among=labels[image], stem=stem) if label else None)
        for image, label in pairs
    ]


def relative_name(path: Path, *, root: Path, stem: Callable[[Path], str]) -> str:
    """The path below `root`, or the whole path of a file elsewhere, with slashes and without suffix."""
    # a link is called as it is called here, wherever its file lies
    absolute, top = (Path(os.path.abspath(place)) for place in (path, root))
    place = absolute.relative_to(top if absolute.is_relative_to(top) else absolute.anchor)
    return (place.parent / stem(path)).as_posix()


def rater_name(label: Path, *, among: Sequence[Path], stem: Callable[[Path], str]) -> str | None:
    """What tells a label file from the others of its image: the stem of its name, or the name of its folder."""
    if len(among) < 2:
        return None
    stems = [stem(path) for path in among]
    return stem(label) if len(set(stems)) == len(stems) else label.parent.name


def check_ids(cases: Sequence[Case]) -> None:
    """UserError that names both files where two cases have one name: one of them would be lost in every list.

    Also for a name that is no place for a file, see `is_place`.
    """
    first: dict[str, Case] = {}
    clashes = []
    for case in cases:
        if not case.id:
            raise UserError(f"{files(case)}: the file has no name before its ending. Rename it, or take it out.")
        if not is_place(case.name):
            raise UserError(
                f"{files(case)}: {case.name!r} can't be the name of a case, since files of results are called so. Take "
                "letters, digits, - and _; no line breaks, and no .. or / that leads out of a folder."
            )
        other = first.setdefault(case.name, case)
        if other is not case:
            clashes.append(f"{case.name}: {files(other)} and {files(case)}")
    if clashes:
        listed = "\n  ".join(clashes[:_SHOWN]) + (f"\n  ... and {len(clashes) - _SHOWN} more" * (len(clashes) > _SHOWN))
        raise UserError(
            f"{len(clashes)} case id(s) stand for two cases:\n  {listed}\nRename the files, or take one of each two "
            "out of the data set."
        )


def is_place(name: str) -> bool:
    """Whether a file called so, below any folder, lies in it, and the name fits in a line of a list.

    Names of cases may come from a stranger, in a list such as dataset.json.
    """
    parts = name.replace("\\", "/").split("/")
    is_relative = not PureWindowsPath(name).drive and not {"", ".", ".."} & set(parts)
    return is_relative and visible(name) == name and not {"\n", "\t"} & set(name)


def files(case: Case) -> str:
    """The files of a case, for a message."""
    return str(case.image) if case.label is None else f"{case.image} with {case.label}"
