"""ONNX Runtime as a contestant."""

from __future__ import annotations

import onnxruntime
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from fastbn.bench import _work as constants
from fastbn.bench._predict import PredictWork
from fastbn.bench._work import Runner

# Old versions, which old and new runtimes read.
OPSET, IR = 17, 8


class OnnxPredictor(Runner):
    """A session on the CPU; the batch norms are folded into the weights."""

    def __init__(self, work: PredictWork, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(
            network(work).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {"x": work.rows()}

    def once(self) -> None:
        self.last = self.session.run(["p"], self.inputs)


def network(work: PredictWork) -> ModelProto:
    """Return Gemm, LeakyRelu except in the last layer, and Softmax, for any number of rows."""
    nodes, weights, a = [], [], "x"
    for index, (weight, bias) in enumerate(work.folded()):
        w, b, z = f"weight{index}", f"bias{index}", f"z{index}"
        weights += [numpy_helper.from_array(weight, w), numpy_helper.from_array(bias, b)]
        nodes.append(helper.make_node("Gemm", [a, w, b], [z]))
        a = f"a{index}"
        nodes.append(helper.make_node("LeakyRelu", [z], [a], alpha=constants.SLOPE))
    nodes[-1] = helper.make_node("Softmax", [z], ["p"], axis=1)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("x", work.sizes[0]), ("p", work.sizes[-1]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    checker.check_model(model)
    return model
