"""What a .pt2 file may hold: tensors, and a graph of tensor operations; looked at before torch's loader gets it.

torch's loader unpickles where the archive says so, loads compiled programs, looks up any function of torch that a node
of the graph names, and runs texts of the graph as Python (sizes, guards, names). What `torch.export.save` writes for a
network of this project needs none of that, so anything else is refused.
"""

import io
import json
import pickle
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from sct.errors import UserError
from sct.exporting.operations import is_operation
from sct.runtime.plain import clipped

# names of the files in the archive
NAMES = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|\.data/\w+|byteorder"
)
GRAPH, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = {
    "data/weights/": "data/weights/model_weights_config.json",
    "data/constants/": "data/constants/model_constants_config.json",
}
PAYLOAD = re.compile(r"(weight|tensor)_\d+")
# what a node may call, where an operation of ATen is one of `OPERATIONS`
ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+")
TARGET = re.compile(
    r"torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
    r"|torch\.sym_(max|min|not|int|float|ite|sum)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(floor|ceil|trunc)"
)
# a size that depends on the number of windows; atomic groups, so that no text takes long
SIZE = re.compile(
    r"(?>(?:Symbol|Integer|Rational|Mul|Add|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing|Eq|Equality"
    r"|Ne|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|Where|IntTrueDiv|ToFloat"
    r"|TruncToInt|FloorToInt|CeilToInt)\(|'[suz]\d{1,9}'|(?:positive|integer|nonnegative)=True|true|false|-?\d{1,18}(?!\d)"
    r"|[(), ])*+"
)
GUARD = re.compile(r"L\['\w+'\]\.size\(\)\[\d+\] (==|!=|<=|>=|<|>) \d{1,18}")
# names of nodes and weights become names in a program
NAME = re.compile(r"[\w.+-]*")
# keys whose texts have rules of their own
RULES = {"expr_str": SIZE, "guards_code": GUARD}
CALLED = ("target", "as_operator")
# what a node remembers of its source, shown where it fails
ORIGIN = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack")
STRUCTURES = ("builtins.tuple", "builtins.list", "builtins.dict", None)
WRONG = (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, AssertionError)


def check_archive(path: Path) -> None:
    """UserError for an archive that holds anything else than `torch.export.save` writes for our networks."""
    try:
        reader = PT2ArchiveReader(str(path))
        check_records(reader, size=path.stat().st_size)
        for folder, config in CONFIGS.items():
            check_payloads(reader, folder=folder, config=json.loads(reader.read_bytes(config)))
        # torch's loader unpickles what this refuses
        torch.load(io.BytesIO(reader.read_bytes(SAMPLE)), weights_only=True)
        graph = json.loads(reader.read_bytes(GRAPH))
        assert isinstance(graph, dict), "it holds no graph"
        for key, text in texts(graph, key=""):
            check_text(key, text)
    except (*WRONG, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path} is not what sct.export writes ({type(error).__name__}: {clipped(reason)}). Export the run again."
        ) from error


def check_records(reader: PT2ArchiveReader, *, size: int) -> None:
    """ValueError for unknown files in an archive of `size` bytes, and for more data than the archive has."""
    names = reader.get_file_names()
    if unknown := [name for name in names if not NAMES.fullmatch(name)]:
        raise ValueError(f"it holds {unknown[0]}")
    if len(set(names)) < len(names):
        raise ValueError("it holds two files of one name")
    if (claimed := sum(reader.archive_file.get_record_size(name) for name in names)) > size:
        raise ValueError(f"its files claim {claimed} bytes, and it has {size}")


def check_payloads(reader: PT2ArchiveReader, *, folder: str, config: Any) -> None:
    """ValueError where a weight or constant is no tensor, or larger than its bytes."""
    for name, payload in config["config"].items():
        if payload["use_pickle"] is not False or not PAYLOAD.fullmatch(payload["path_name"]):
            raise ValueError(f"{name} is no tensor, but runs code when it is loaded")
        sizes = [part["as_int"] for part in payload["tensor_meta"]["sizes"]]
        if prod(sizes) and not reader.archive_file.get_record_size(folder + payload["path_name"]):
            raise ValueError(f"{name} claims {sizes} values, and has none")


def texts(node: Any, *, key: str) -> Iterator[tuple[str, Any]]:
    """All texts of the graph with the name of what they belong to; names of entries are texts, too."""
    if isinstance(node, dict):
        for name, child in node.items():
            if name in ORIGIN and isinstance(child, str):
                continue
            yield "", name
            yield from texts(child, key=name)
    elif isinstance(node, list):
        for child in node:
            yield from texts(child, key=key)
    elif isinstance(node, str):
        yield key, node


def check_text(key: str, text: str) -> None:
    """ValueError for a text of the graph that its loader would take for a program."""
    if key in ("in_spec", "out_spec"):
        check_structure(json.loads(text)[1])
    elif key in CALLED:
        if not is_callable(text):
            raise ValueError(f"its graph calls {text!r}, which is no operation of sct/exporting/operations.py")
    elif not RULES.get(key, NAME).fullmatch(text):
        raise ValueError(f"its graph holds {text!r}")


def is_callable(target: str) -> bool:
    """Whether a node may call a function of this name."""
    if found := ATEN.fullmatch(target):
        return is_operation(found[1])
    return TARGET.fullmatch(target) is not None


def check_structure(node: Any) -> None:
    """ValueError where arguments or results of the graph are no tuples, lists or dicts of tensors."""
    names = json.loads(node["context"]) if node["context"] is not None else None
    plain = names is None or (isinstance(names, list) and all(NAME.fullmatch(str(name)) for name in names))
    if node["type"] not in STRUCTURES or not plain:
        raise ValueError(f"its arguments are {node['type']}")
    for child in node["children_spec"]:
        check_structure(child)
