"""Exports from a stranger: looked at before a loader gets them, and compared with what was exported."""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sct import predict
from sct.errors import UserError
from sct.exporting.archive import SIZE, check_archive, is_callable
from sct.exporting.manifest import check_files, read_manifest
from sct.exporting.operations import OPERATIONS
from sct.runtime.files import file_digest

Records = dict[str, bytes]
GRAPH, WEIGHTS = "model/models/model.json", "model/data/weights/model_weights_config.json"
CONSTANTS, SAMPLE = "model/data/constants/model_constants_config.json", "model/data/sample_inputs/model.pt"


@pytest.fixture
def export(stage, torch_export) -> Path:
    return Path(shutil.copytree(torch_export, stage.here / "export"))


def records_of(path: Path) -> Records:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(records: Records, path: Path, *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


def forged(export: Path) -> None:
    """Gives the manifest the digest of the changed file: who changes one file can change the other."""
    manifest = json.loads((export / "export.json").read_text())
    del manifest["digest"]  # who changes a manifest can also do that
    manifest["files"]["model.pt2"] = file_digest(export / "model.pt2")
    (export / "export.json").write_text(json.dumps(manifest))


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Records, Any], None]:
    def apply(records: Records, _: Any) -> None:
        content = json.loads(records[name])
        change(content)
        records[name] = json.dumps(content).encode()

    return apply


def nodes(change: Callable[[dict], None]) -> Callable[[Records, Any], None]:
    return in_json(GRAPH, lambda content: change(content["graph_module"]["graph"]["nodes"][0]))


class Exploit:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


def unpickled(records: Records, stage) -> None:
    """A weight that torch's loader unpickles."""
    content = json.loads(records[WEIGHTS])
    name = next(iter(content["config"]))
    content["config"][name] |= {"use_pickle": True, "path_name": "weight_0"}
    records[WEIGHTS] = json.dumps(content).encode()
    records["model/data/weights/weight_0"] = saved(Exploit(stage.touch()))


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def custom(kind: str) -> Callable[[Records, Any], None]:
    """A constant that is no tensor: an object of TorchScript, or any object."""

    def apply(records: Records, stage) -> None:
        payload = {"path_name": f"{kind}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        records[CONSTANTS] = json.dumps({"config": {"x": payload}}).encode()
        records[f"model/data/constants/{kind}_0"] = pickle.dumps(Exploit(stage.touch()))

    return apply


def first_size(content: Any) -> None:
    """A size that is a program."""
    values = content["graph_module"]["graph"]["sym_int_values"]
    next(iter(values.values()))["as_expr"]["expr_str"] = "__import__('os').system('touch mark')"


def claimed(records: Records, _: Any) -> None:
    content = json.loads(records[WEIGHTS])
    payload = next(iter(content["config"].values()))
    payload["tensor_meta"]["sizes"] = [{"as_int": 2**40}]
    records[WEIGHTS] = json.dumps(content).encode()
    records[f"model/data/weights/{payload['path_name']}"] = b""


ARCHIVES: dict[str, Callable[[Records, Any], None]] = {
    "a weight is a pickle": unpickled,
    "the sample is a pickle": lambda records, stage: records.update({SAMPLE: saved(Exploit(stage.touch()))}),
    "a constant is an object of TorchScript": custom("custom_obj"),
    "a constant is any object": custom("opaque_obj"),
    "weights of an earlier layout": lambda records, stage: records.update(
        {"model/data/weights/model.pt": saved(Exploit(stage.touch()))}
    ),
    "a compiled library": lambda records, _: records.update({"model/data/aotinductor/model/x.so": b"x"}),
    "a second graph": lambda records, _: records.update({"model/models/other.json": records[GRAPH]}),
    "a file above the archive": lambda records, _: records.update({"model/../../mark": b"x"}),
    "an absolute file": lambda records, _: records.update({"model//etc/x": b"x"}),
    "extra files": lambda records, _: records.update({"model/extra/x": b"x"}),
    "a node calls the system": nodes(lambda node: node.update(target="torch.os.system")),
    "a node loads a module": nodes(lambda node: node.update(target="torch.hub.load")),
    "a node opens a file": nodes(lambda node: node.update(target="torch.ops.aten.from_file.default")),
    "a node gets any attribute": nodes(lambda node: node.update(target="_operator.attrgetter")),
    "a node is an extension": nodes(lambda node: node.update(target="#os:system")),
    "an argument is a function": nodes(
        lambda node: node["inputs"][0].update(arg={"as_operator": "torch.os.system"}),
    ),
    "a size is a program": in_json(GRAPH, first_size),
    "a guard is a program": in_json(
        GRAPH, lambda content: content.update(guards_code=["__import__('os').system('x')"])
    ),
    "a name is a program": in_json(
        GRAPH,
        lambda content: content["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=["x):\n  import os\n  os.system('touch mark')\ndef f(y"]
        ),
    ),
    "arguments of any class": in_json(
        GRAPH,
        lambda content: content["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=json.dumps([1, {"type": "os.system", "context": "null", "children_spec": []}])
        ),
    ),
    "a weight claims more than it has": claimed,
    "no graph": lambda records, _: records.pop(GRAPH),
    "a graph of endless depth": lambda records, _: records.update({GRAPH: b"[" * 100_000}),
    "a graph that is none": lambda records, _: records.update({GRAPH: b"[]"}),
    "weights that are none": lambda records, _: records.update({WEIGHTS: b'{"config": {"x": 3}}'}),
    "an archive of an earlier torch": lambda records, _: (records.clear(), records.update({"version": b"8.20"})),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_a_graph_of_tensor_operations_and_nothing_else(name, stage, export):
    path = export / "model.pt2"
    records = records_of(path)
    ARCHIVES[name](records, stage)
    written(records, path)
    with pytest.raises(UserError, match=r"model\.pt2.* Export the run again"):
        check_archive(path)
    assert not stage.mark.exists()


def test_what_is_exported_is_what_is_loaded(export, stage):
    """Also of a forged archive, written anew with the digests that fit: nothing but the contents counts."""
    path = export / "model.pt2"
    check_archive(path)
    check_archive(written(records_of(path), path))
    with pytest.raises(UserError, match="claim"):
        check_archive(
            written({**records_of(path), "model/byteorder": b" " * 10**7}, path, compression=zipfile.ZIP_DEFLATED)
        )


@pytest.mark.parametrize("name", ["a weight is a pickle", "a node calls the system"])
def test_prediction_looks_before_it_loads(name, stage, export, image):
    records = records_of(export / "model.pt2")
    ARCHIVES[name](records, stage)
    written(records, export / "model.pt2")
    command = (predict.main, "ckpt=export", f"input={image}", "output=out")
    stage.refused(*command, words=("its digest is not that in export.json",))
    forged(export)
    stage.refused(*command, words=("is not what sct.export writes",))


def test_an_export_predicts_and_one_without_digests_says_so(stage, export, image):
    command = (predict.main, "ckpt=export", f"input={image}")
    outcome = stage.run(*command, "output=out/1")
    assert (outcome.status, "digest" in outcome.out) == (0, False)
    manifest = json.loads((export / "export.json").read_text())
    del manifest["digest"]  # who changes a manifest can also do that
    assert set(manifest["files"]) == {"model.pt2"}
    del manifest["files"]
    (export / "export.json").write_text(json.dumps(manifest))
    outcome = stage.run(*command, "output=out/2")
    assert (outcome.status, "has no digests" in outcome.out) == (0, True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", {"data": {"root": "${oc.env:SCT_SECRET}"}}),
        ("config", 3),
        ("files", ["model.pt2"]),
        ("format", ["torch"]),
        ("format", "../torch"),
        ("check", {}),
        ("unknown", 1),
        ("roi_size", "16"),
        ("layout", 2),
    ],
)
def test_a_manifest_of_another_shape_is_one_message(key, value, stage, export, image):
    manifest = json.loads((export / "export.json").read_text())
    del manifest["digest"]  # who changes a manifest can also do that
    (export / "export.json").write_text(json.dumps({**manifest, key: value}))
    stage.refused(predict.main, "ckpt=export", f"input={image}", "output=out", words=("export",))


def test_a_manifest_names_no_code(stage, export, image):
    manifest = json.loads((export / "export.json").read_text())
    del manifest["digest"]  # who changes a manifest can also do that
    manifest["config"]["inferer"] = {"_target_": "torch.utils.benchmark.Timer", "stmt": f"pass\r{stage.touch()}"}
    (export / "export.json").write_text(json.dumps(manifest))
    words = ("inferer._target_=torch.utils.benchmark.Timer is not allowed", "export")
    stage.refused(predict.main, "ckpt=export", f"input={image}", "output=out", words=words)


def test_a_folder_of_an_export_without_its_files_is_one_message(stage, export, image):
    (export / "model.pt2").unlink()
    command = (predict.main, "ckpt=export", f"input={image}", "output=out")
    stage.refused(*command, words=("does not exist",))
    manifest = read_manifest(export)
    os.mkfifo(export / "model.pt2")  # reading it would wait for ever
    with pytest.raises(UserError, match="does not exist"):
        check_files(manifest, folder=export, needed=("model.pt2",))


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "Symbol('s1') + x",
        "().__class__",
        "Symbol('a b')",
        "9" * 40,
        "Pow(Integer(9), Integer(9))",
        "lambda: 0",
        "Symbol('s1', positive=True, integer=True",
        "1" * 10_000 + "x",
    ],
)
def test_a_size_is_made_of_numbers_and_symbols(text):
    parsed = SIZE.fullmatch(text)
    # an open bracket is no program, and refused by what reads it
    assert parsed is None or text.count("(") > text.count(")")


def test_targets_of_a_graph():
    for name in (
        "torch.ops.aten.add.Tensor",
        "torch.ops.aten.add_.Tensor",
        "_operator.mul",
        "torch.sym_max",
        "math.floor",
    ):
        assert is_callable(name)
    for name in (
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.set_.source_Tensor",
        "_operator.methodcaller",
        "torch.ops.aten._unsafe_index.Tensor",
        "torch.ops.os.x.y",
        "math.pow",
        "torch.ops.aten.add.Tensor.x",
        # write files, set the seed of the process, read and write where they are told
        "torch.ops.aten.save.default",
        "torch.ops.aten.manual_seed.default",
        "torch.ops.aten.set_data.default",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten._index_put_impl_.default",
        "torch.ops.aten._nested_view_from_buffer.default",
        "torch.ops.aten._sparse_csr_tensor_unsafe.default",
        "torch.ops.aten.max_pool2d_with_indices_backward.default",
        "torch.ops.aten.__setitem__.default",
        "torch.ops.aten.add__.Tensor",
    ):
        assert not is_callable(name), name


def test_an_export_of_torchscript_is_refused(stage, export, image):
    torch.jit.script(torch.nn.Identity()).save(str(export / "model.pt2"))
    forged(export)
    stage.refused(predict.main, "ckpt=export", f"input={image}", "output=out", words=("is not what sct.export writes",))
    torch.jit.script(torch.nn.Identity()).save("best.pt")
    stage.refused(predict.main, "ckpt=best.pt", f"input={image}", "output=out", words=("best.pt can't be read",))


def test_every_operation_exists():
    """A misspelt one would refuse an honest export."""
    assert not [name for name in OPERATIONS if not hasattr(torch.ops.aten, name)]
