"""The kinds `decathlon` and `nnunet` (dataset.json of a little data set, and splits_final.json), and `split` files."""

import contextlib
import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fuzzing.damage import PLAIN, damaged
from fuzzing.kind import Change, Kind, drawn, place
from sct.data.identity import check_ids
from sct.data.sets.btcv import listed_cases
from sct.data.sets.msd import MSD
from sct.data.sets.nnunet import NNUNet
from sct.errors import UserError

JUNK: list[Any] = [
    *(None, 0, -1, 2, 1.5, True, "", "x", "../../etc/passwd", "/etc/hostname", "\0", "a" * 5000, "\ud800", "a/b", ".."),
    *([], [[]], {}, {"0": None}, {"1": "a"}, {"0": "background", "1": "background"}, {"0": ["a"], "1": {}}, [1, 2]),
    *({"background": 0, "a": [1, 2]}, {"background": 0, "a": 1.5}, {"0": "background", "1": "a/b"}, ["a"]),
    *({"\u00b2": "a"}, {"0": "background", "99999999999": "a"}, "imagesTr/c0.nii.gz", [["image", "label"]], 10**30),
    *([{"image": 1, "label": 2}], {"image": "a", "label": "b"}, [{"image": "x"}], {"background": 0, "a": True}),
    *(float("nan"), float("inf"), ".nii.gz", ".nrrd", ["c0"], ["c0", "c0"], [None], {"background": "0", "a": "1"}),
]
TEXTS = ["deep", "utf16", "bom", "byte", "nan", "long", "twice", "comment", "comma"]
OPTIONS: dict[str, Any] = {"roi_size": [4, 4, 4], "val_share": 0.25, "test_share": 0.25, "num_workers": 0}


def description(kind: str) -> dict:
    files = [{"image": f"./imagesTr/c{i}.nii.gz", "label": f"./labelsTr/c{i}.nii.gz"} for i in range(4)]
    if kind == "decathlon":
        return {"labels": {"0": "background", "1": "a"}, "modality": {"0": "MRI"}, "training": files}
    return {
        "labels": {"background": 0, "a": 1},
        "channel_names": {"0": "MRI"},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }


def draw(rng: np.random.Generator, *, kind: str) -> tuple[dict, list[Change]]:
    found: list[Change] = []
    for _ in range(drawn(rng, [0, 1, 1, 1, 2])):
        what = drawn(rng, ["set", "set", "set", "set", "drop", "add", "text", drawn(rng, PLAIN)])
        value = int(rng.integers(1, 256)) if what in PLAIN else place(rng) if what != "text" else drawn(rng, TEXTS)
        found.append((what, place(rng), value))
    return {"kind": kind, "fold": bool(rng.random() < 0.4), "seed": place(rng)}, found


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """Where in a JSON value something may be changed."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(deeper for key, value in items for deeper in places(value, (*path, key)))]


def changed_value(content: Any, what: str, at: int, value: int) -> Any:
    """set a value to junk · drop it · add a key"""
    path = places(content)[at % len(places(content))]
    junk = copy.deepcopy(JUNK[value % len(JUNK)])
    if not path:
        return junk if what == "set" and value % 5 == 0 else content
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if what == "set":
        parent[path[-1]] = junk
    elif what == "drop":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        key = ["dataset", "regions_class_order", "ignore", "channel_names", "modality", "x"][value % 6]
        parent[key] = copy.deepcopy(JUNK[value // 7 % len(JUNK)])
    else:
        parent.append(copy.deepcopy(parent[0]))
    return content


def text_of(content: Any, changes: list[Change]) -> bytes:
    for what, at, value in changes:
        if what in ("set", "drop", "add"):
            content = changed_value(content, what, at, value)
    data = json.dumps(content).encode()
    for what, at, value in changes:
        if what == "text":
            i = at % max(1, len(data))
            data = {
                "deep": b"[" * 100_000,
                "utf16": data.decode("utf-8", "replace").encode("utf-16"),
                "bom": b"\xef\xbb\xbf" + data,
                "byte": data[:i] + b"\xff" + data[i:],
                "nan": b"NaN",
                "long": data.replace(b"4", b"4" * 5000),
                "twice": data.replace(b'"labels"', b'"labels": {"0": "background", "1": "b"}, "labels"')
                if b'"labels"' in data
                else b'{"a": 1, "a": 2}',
                "comment": b"// a comment\n" + data,
                "comma": data[:-1] + b",}",
            }[value]
    return damaged(data, changes)


def write_set(folder: Path, kind: str) -> Path:
    root = folder / "set"
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    suffix = "_0000" if kind == "nnunet" else ""
    for i in range(4):
        voxels = np.full((4, 4, 4), i % 2, np.uint8)
        voxels[0] = 1 - i % 2
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / "imagesTr" / f"c{i}{suffix}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / "labelsTr" / f"c{i}.nii.gz")
    return root


def judge(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """A data set from its description to the cases of every part."""
    root = write_set(folder, base["kind"])
    content, folds = description(base["kind"]), [{"train": ["c0", "c1", "c2"], "val": ["c3"]}]
    if base["kind"] == "decathlon":
        folds = {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3"]}
    written = text_of(folds if base["fold"] else content, changes)
    (root / "dataset.json").write_bytes(json.dumps(content).encode() if base["fold"] else written)
    if base["fold"]:
        (root / "splits_final.json").write_bytes(written)
    own: dict[str, Any] = {**OPTIONS, "cache_dir": str(folder / "cache")}
    if base["fold"]:
        own |= {"fold": 0} if base["kind"] == "nnunet" else {"split": str(root / "splits_final.json")}
    data = (MSD if base["kind"] == "decathlon" else NNUNet)(root=str(root), intensity=lambda s: s, **own)
    try:
        data.prepare()
    except UserError as error:
        if "too few" in str(error):  # it is about the number of cases, and not about a file
            return []
        raise
    return problems(data, root, base, written)


def problems(data: Any, root: Path, base: dict, written: bytes) -> list[str]:
    cases = [case for part in ("train", "val", "test") for case in data.cases(part)]
    ids = [case.id for case in cases]
    found = ["an id that is no plain name"] * any(not i or i.startswith("/") or ".." in i or "\0" in i for i in ids)
    # one split file may name a case in two parts, of which sct warns
    for own in [data.cases(part) for part in ("train", "val", "test")] if base["fold"] else [cases]:
        found += ["a case twice"] * (len({case.name for case in own}) < len(own))
    found += ["a file outside the data set"] * any(root.resolve() not in case.image.resolve().parents for case in cases)
    pairs = json.loads(written.decode("utf-8-sig"), object_pairs_hook=lambda pairs: pairs)
    found += ["a key is there twice"] * has_twice(pairs)
    names = None
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        labels = (
            description(base["kind"])["labels"] if base["fold"] else json.loads(written.decode("utf-8-sig"))["labels"]
        )
        names = [str(name) for name in (labels.values() if base["kind"] == "decathlon" else labels)]
    if names is not None and not set(data.label_map.names) <= {*names, "background", *map(str, labels)}:
        found.append("names of labels that the file does not have")
    return found


def has_twice(value: Any) -> bool:
    """Whether an object of JSON, as pairs, has a key twice."""
    if isinstance(value, tuple):
        return has_twice(value[1])
    if not isinstance(value, list):
        return False
    keys = [one[0] for one in value if isinstance(one, tuple)]
    return len(set(keys)) < len(keys) or any(map(has_twice, value))


def judge_list(folder: Path, base: dict, changes: list[Change]) -> list[str]:
    """MONAI's list of a data set."""
    path = folder / "dataset_0.json"
    path.write_bytes(text_of({"training": description("decathlon")["training"], "validation": []}, changes))
    cases = listed_cases(path)
    check_ids(cases)
    return ["a file outside the data set"] * any(".." in case.image.parts for case in cases)


KINDS = {
    **{kind: Kind(partial(draw, kind=kind), judge) for kind in ("decathlon", "nnunet")},
    "datalist": Kind(partial(draw, kind="decathlon"), judge_list),
}
