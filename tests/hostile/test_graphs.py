"""Graphs of ONNX and OpenVINO from a stranger: weights of their own file alone, and nothing of another kind."""

from contextlib import nullcontext
from typing import Any

import pytest
from exported_runs import needs

from sct.errors import UserError
from sct.exporting.onnx import check_weights
from sct.exporting.openvino import check_xml


@pytest.mark.parametrize("place", ["../other.data", "/etc/passwd", "other.data", "model.onnx.data/../x"])
def test_onnx_takes_weights_from_its_own_file_alone(place, stage):
    needs("onnx")
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="model.onnx.data")
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])], [weight])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [value], [weight]
    )
    path = stage.here / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    check_weights(onnx, path)
    graph.node[0].attribute[0].g.initializer[0].external_data[0].value = place
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(UserError, match="takes weights from"):
        check_weights(onnx, path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="is no ONNX graph"):
        check_weights(onnx, path)


def onnx_places(helper, weight) -> dict[str, Any]:
    """Where a model of ONNX can have a tensor -> such a model."""
    import onnx

    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    dense = helper.make_node("Constant", [], ["y"])
    dense.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=weight))
    index = helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])
    few = onnx.SparseTensorProto(dims=[1], values=weight, indices=index)
    sparse = helper.make_node("Constant", [], ["y"])
    sparse.attribute.append(
        onnx.AttributeProto(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=few)
    )
    call = helper.make_graph([helper.make_node("F", [], ["y"], domain="f")], "g", [], [value])
    function = helper.make_function("f", "F", [], ["y"], [dense], [helper.make_opsetid("", 18)])
    initialized = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [value])
    initialized.sparse_initializer.append(few)
    trained = helper.make_model(call)
    trained.training_info.add(initialization=helper.make_graph([], "g", [], [value], [weight]))
    return {
        "a constant": helper.make_model(helper.make_graph([dense], "g", [], [value])),
        "a sparse constant": helper.make_model(helper.make_graph([sparse], "g", [], [value])),
        "a function": helper.make_model(call, functions=[function]),
        "a sparse weight": helper.make_model(initialized),
        "a training": trained,
    }


@pytest.mark.parametrize("name", ["a constant", "a sparse constant", "a function", "a sparse weight", "a training"])
def test_no_place_in_a_model_of_onnx_takes_weights_from_elsewhere(name, stage):
    needs("onnx")
    import onnx
    from onnx import TensorProto, helper

    path = stage.here / "model.onnx"
    for place, wrong in (("model.onnx.data", False), ("../secret.bin", True)):
        weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        weight.external_data.add(key="location", value=place)
        path.write_bytes(onnx_places(helper, weight)[name].SerializeToString())
        with pytest.raises(UserError, match="takes weights from") if wrong else nullcontext():
            check_weights(onnx, path)


@pytest.mark.parametrize("content", [b"", b"\x08\x09:\x10", b"<net name='x'/>", b"PK\x03\x04", b" <?xml"])
def test_a_graph_of_openvino_is_xml(content, stage):
    """OpenVINO looks at the content, whatever the name, and reads the files of other programs, too."""
    path = stage.here / "model.xml"
    path.write_bytes(b'<?xml version="1.0"?>\n<net name="x" version="11"/>')
    check_xml(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.xml is no graph of OpenVINO"):
        check_xml(path)
