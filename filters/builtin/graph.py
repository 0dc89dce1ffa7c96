"""The network as ONNX Runtime runs it, made from the weights on disk (8-bit, safetensors).

The network is that of `filters.builtin.training.encoder`, without its dropout and for texts of one
length, so that it needs no mask. A matrix is stored as int8 with one scale for each row, and with
the range of its inputs, measured in training: so inputs are cut to 8 bits by a constant and a
product of whole numbers is exact. (Jacob et al. 2018, static ranges.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from safetensors import SafetensorError, safe_open

from filters.builtin.categories import CATEGORIES
from filters.errors import FilterConfigError

#: 7 of 8 bits for inputs up to the range: kernels for AVX2 add pairs of products in 16 bits. Inputs
#: beyond it (one in ten thousand) go up to 255, and there a pair of products may be cut to 16 bits.
#: Of 10,880 scores that moved 571 by more than 0.001 and one by 0.064, the most, against products
#: in two exact parts on the same machine; less than sums in another order do.
LEVELS = 127
#: Operators that the ONNX standard has not: whole numbers times whole numbers, scaled to floats;
#: attention with several heads. https://onnxruntime.ai/docs/reference/operators/ContribOperators
_RUNTIME = "com.microsoft"
_EPSILON = 1e-12
#: Tokens that a text of one word has, with its start and its end, and one to go on by.
_FEWEST = 4


def read(path: Path) -> tuple[ModelProto, Mapping[str, Any]]:
    """The model and what else the file says of it. Raises FilterConfigError.

    Input `ids`: int64 [texts, tokens]. Output `scores`: float [texts, categories], calibrated.
    """
    tensors, about = contents(path)
    with reading(path):
        graph = _Graph(tensors)
        scores = _network(graph, about)
    if left := sorted(tensors.keys() - graph.used):
        raise FilterConfigError(f"{path}: weights that the network has no place for: {left[0]}")
    return graph.model(scores), about


def contents(path: Path) -> tuple[Mapping[str, np.ndarray[Any, Any]], Mapping[str, Any]]:
    """The weights as they are stored, and what else the file says. Raises FilterConfigError."""
    with reading(path), safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["about"])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Has the file named where what it holds is no classifier."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise FilterConfigError(f"{path}: not a built-in classifier: {error}") from error


def _network(graph: _Graph, about: Mapping[str, Any]) -> str:
    shape = about["shape"]
    if shape["positions"] < _FEWEST:
        raise ValueError(f"{shape['positions']} positions are fewer than {_FEWEST}")
    heads = shape["heads"]
    if not isinstance(heads, int) or heads < 1 or shape["width"] % heads:
        raise ValueError(f"a width of {shape['width']} in {heads!r} heads")
    width, hidden, categories = shape["width"], shape["hidden"], len(CATEGORIES)
    states = graph.op(
        *("Add", graph.embedding("tokens", shape["vocabulary"], width)),
        graph.positions(shape["positions"], width),
    )
    states = graph.norm(states, "norm", width)
    for number in range(shape["layers"]):
        states = _layer(graph, states, f"layers.{number}", shape)
    pools = _pools(graph, states)
    inner = graph.op("Gelu", graph.one_by_one(pools, "hidden", 2 * width, hidden))
    logits = graph.one_by_one(inner, "scores", hidden, categories)
    logits = graph.op("Squeeze", logits, graph.constant([2]))
    slope, shift = (np.asarray(about["calibration"][k], np.float32) for k in ("slope", "shift"))
    if not all(one.shape == (categories,) and np.isfinite(one).all() for one in (slope, shift)):
        raise ValueError(f"calibration: expected {categories} numbers each")
    logits = graph.op("Add", graph.op("Mul", logits, graph.floats(slope)), graph.floats(shift))
    return graph.op("Sigmoid", logits)


def _layer(graph: _Graph, states: str, name: str, shape: Mapping[str, int]) -> str:
    width, inner = shape["width"], shape["inner"]
    mixed = graph.linear(states, f"{name}.query_key_value", width, 3 * width)
    thirds = graph.ops("Split", mixed, outputs=3, axis=-1, num_outputs=3)
    attended = graph.op("MultiHeadAttention", *thirds, domain=_RUNTIME, num_heads=shape["heads"])
    attended = graph.linear(attended, f"{name}.attended", width, width)
    states = graph.norm(graph.op("Add", states, attended), f"{name}.attended_norm", width)
    wide = graph.op("Gelu", graph.linear(states, f"{name}.widen", width, inner))
    narrow = graph.linear(wide, f"{name}.narrow", inner, width)
    return graph.norm(graph.op("Add", states, narrow), f"{name}.norm", width)


def _pools(graph: _Graph, states: str) -> str:
    """Mean and maximum over tokens, [texts, 2 * width, 1].

    The sum is a product with ones: `ReduceMean` adds in another order where a text has company.
    """
    tokens = graph.op("Shape", "ids", start=1)
    ones = graph.op("ConstantOfShape", tokens, value=helper.make_tensor("", 1, [1], [1.0]))
    ones = graph.op("Unsqueeze", ones, graph.constant([0, 1]))
    count = graph.op("Cast", tokens, to=TensorProto.FLOAT)
    mean = graph.op("Div", graph.op("MatMul", ones, states), count)
    both = graph.op("Concat", mean, graph.op("ReduceMax", states, graph.constant([1])), axis=-1)
    return graph.op("Transpose", both, perm=[0, 2, 1])


class _Graph:
    """Nodes and weights, one by one; a value goes by its name. used: weights taken so far."""

    def __init__(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.used: set[str] = set()
        self._tensors = tensors
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._count = 0

    def model(self, scores: str) -> ModelProto:
        """scores: the value that is the output."""
        nodes = [*self._nodes, helper.make_node("Identity", [scores], ["scores"])]
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"])
        out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["texts", "categories"])
        graph = helper.make_graph(nodes, "classifier", [ids], [out], self._constants)
        sets = [helper.make_opsetid("", 20), helper.make_opsetid(_RUNTIME, 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=10)

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        made = [self._name() for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, made, **attributes))
        return made

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        (made,) = self.ops(kind, *inputs, outputs=1, **attributes)
        return made

    def constant(self, values: ArrayLike) -> str:
        name = self._name()
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def floats(self, values: ArrayLike) -> str:
        return self.constant(np.asarray(values, np.float32))

    def embedding(self, name: str, count: int, width: int) -> str:
        """Rows of int8 with a scale each, by id."""
        rows = self.op("Gather", self.constant(self._take(f"{name}.rows", count, width)), "ids")
        scales = self.floats(self._take(f"{name}.scales", count)[:, None])
        scales = self.op("Gather", scales, "ids")
        return self.op("Mul", self.op("Cast", rows, to=TensorProto.FLOAT), scales)

    def positions(self, most: int, width: int) -> str:
        """The places' embeddings, as many as there are tokens."""
        rows = self.floats(self._take("positions.weight", most, width))
        tokens = self.op("Shape", "ids", start=1)
        return self.op("Slice", rows, self.constant([0]), tokens)

    def norm(self, states: str, name: str, width: int) -> str:
        kinds = ("weight", "bias")
        scale, bias = (self.floats(self._take(f"{name}.{kind}", width)) for kind in kinds)
        return self.op("LayerNormalization", states, scale, bias, axis=-1, epsilon=_EPSILON)

    def linear(self, states: str, name: str, given: int, made: int) -> str:
        """A product of whole numbers, [texts, tokens, given] -> [texts, tokens, made]."""
        rows = self._take(f"{name}.rows", made, given)
        step = self.floats(2 * float(self._take(f"{name}.largest")) / LEVELS)
        zero = self.constant(np.uint8((LEVELS + 1) // 2))
        scales = self.floats(self._take(f"{name}.scales", made))
        zeros = self.constant(np.zeros(made, np.int8))
        bias = self.floats(self._take(f"{name}.bias", made))
        cut, weight = self.op("QuantizeLinear", states, step, zero), self.constant(rows.T)
        inputs = (cut, weight, step, scales, zero, zeros, bias)
        return self.op("MatMulIntegerToFloat", *inputs, domain=_RUNTIME)

    def one_by_one(self, columns: str, name: str, given: int, made: int) -> str:
        """A product of floats, [texts, given, 1] -> [texts, made, 1].

        Were the texts the rows, they would be one product, in which the order of a sum, and so
        its last digits, depend on how many they are.
        """
        weight = self.floats(self._take(f"{name}.weight", made, given))
        bias = self.floats(self._take(f"{name}.bias", made)[:, None])
        return self.op("Add", self.op("MatMul", weight, columns), bias)

    def _take(self, name: str, *size: int) -> np.ndarray[Any, Any]:
        self.used.add(name)
        tensor = self._tensors[name]
        if tensor.shape != size:
            raise ValueError(f"{name}: expected {size}, found {tensor.shape}")
        if name.endswith(".rows") and tensor.dtype != np.int8:
            raise ValueError(f"{name}: expected int8, found {tensor.dtype}")
        return tensor

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"
