"""Builds the graph of an ONNX model, node by node."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Graph:
    """Nodes in the order in which they are computed, and the constants that they take.

    A value is known by its name, which is all that the methods take and give.

    Attributes:
      nodes: so far.
      constants: so far.
    """

    def __init__(self):
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
    ) -> str:
        """Adds a node with one result and returns the result's name, made up if not given."""
        name = f"{operator}_{len(self.nodes)}" if name is None else name
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], name=name, **(attributes or {}))
        )
        return name

    def add_split(
        self,
        operator: str,
        inputs: Sequence[str],
        num_outputs: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Adds a node with several results and returns their names."""
        name = self.add(operator, inputs, attributes)
        names = [f"{name}.{i}" for i in range(num_outputs)]
        self.nodes[-1].output[:] = names
        return names

    def constant(self, value: Any, dtype: Any, *, name: str | None = None) -> str:
        """Adds a constant and returns its name."""
        name = f"constant_{len(self.constants)}" if name is None else name
        array = np.asarray(value, dtype, order="C")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Gives a value another shape, in which 0 stands for the length that was there."""
        return self.add("Reshape", [x, self.constant(shape, np.int64)])
