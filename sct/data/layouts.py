"""Which data set's layout a folder has, to tell a user who named another one."""

from pathlib import Path

from sct.errors import UserError
from sct.runtime.plain import read_json

# data=NAME -> a file or folder that this layout alone has
_MARKS = {
    "btcv": ("RawData/Training/img", "dataset_0.json"),
    "isic": ("ISIC2018_Task1-2_Training_Input",),
    "synapse": ("train_npz", "test_vol_h5"),
}
# folders within data.root that are looked at
_LOOKED_AT = 100


def layout_of(root: Path) -> str | None:
    """The name of the data config (data=NAME) for a folder's layout; None where it has none of the known ones."""
    described = root / "dataset.json"
    if described.is_file():
        try:
            content = read_json(described, remedy="")
        except UserError:
            return None
        keys = content.keys() if isinstance(content, dict) else ()
        return "nnunet" if "channel_names" in keys else "msd" if "training" in keys else None
    found = (name for name, marks in _MARKS.items() if any((root / mark).exists() for mark in marks))
    return next(found, None)


def no_data(
    kind: str, *, name: str, root: str | Path, lacks: str, expected: str, setting: str = "data.root"
) -> UserError:
    """The error for a folder without the data of a layout; tells where such data, or data of another layout, are.

    kind: of the data set, in words · name: of its config · lacks: what the folder does not have · expected: what was
    looked for, and where to get it · setting: what the user gave `root` as
    """
    root = Path(root)
    state = f"has {lacks}" if root.is_dir() else "does not exist"
    found = elsewhere(root, name=name, setting=setting)
    hint = f"  {found}\n" if found else ""
    return UserError(f"No {kind} data: looked in {root.resolve()} ({setting}), which {state}.\n{hint}  {expected}")


def elsewhere(root: Path, *, name: str, setting: str) -> str | None:
    """What a folder holds instead of data=NAME, and the setting that takes it; None where nothing is recognised."""
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir())[:_LOOKED_AT]
    except OSError:
        return None
    if (found := layout_of(root)) not in (None, name):
        return f"It has the layout of data={found}: give that."
    inner = next(((path, found) for path in folders if (found := layout_of(path)) is not None), None)
    if inner is None:
        return None
    path, found = inner
    return f"A folder in it has the layout of data={found}: give data={found} {setting}={path.resolve()}"
