"""Where the values of forward kernels flow in a traced program.

`kernels_reaching_feedback` walks the graph with all its function bodies (calls, branches, loops)
and says for every assignment to a feedback kernel which forward kernels it depends on, and whether
each got there through the pathway's response or past it.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

from tfweightmirror.pathway import Pathway

DOOR = re.compile(r"(.*/)?pathway_response(_\d+)?")
# What a tensor carries: ("handle", variable) or ("looked", W) or ("heard", W).
Labels: TypeAlias = frozenset[tuple[str, str]]
NOTHING: Labels = frozenset()


@dataclasses.dataclass
class Flow:
    """What is known of a program.

    Attributes:
        kernels: Names of forward kernels.
        feedback: Names of feedback kernels.
        reaching: `{feedback kernel: labels of all values assigned to it}`.
        memory: The same of every other variable, through which values flow on to later reads.
        bodies: Graphs of the functions that the program calls, by name.
    """

    kernels: set[str]
    feedback: set[str]
    reaching: dict[str, Labels] = dataclasses.field(default_factory=dict)
    memory: dict[str, Labels] = dataclasses.field(default_factory=dict)
    bodies: dict[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, graph: Any, arguments: Sequence[Labels]) -> list[Labels]:
        """Labels of the outputs of a function's graph, from those of its inputs."""
        labels: dict[Any, Labels] = {
            tensor.ref(): of for tensor, of in zip(graph.inputs, arguments, strict=True)
        }
        waiting = [o for o in graph.get_operations() if o.type != "Placeholder"]
        while waiting:
            later = []
            for operation in waiting:
                # The gradient of a loop gives the loop inputs that are made behind it.
                if any(tensor.ref() not in labels for tensor in operation.inputs):
                    later.append(operation)
                    continue
                given = [labels[tensor.ref()] for tensor in operation.inputs]
                for tensor, of in zip(operation.outputs, self._pass(operation, given), strict=True):
                    labels[tensor.ref()] = of
            assert len(later) < len(waiting), later
            waiting = later
        return [labels[tensor.ref()] for tensor in graph.outputs]

    def _pass(self, operation: Any, given: list[Labels]) -> list[Labels]:
        """Labels of the outputs of one operation."""
        kind = operation.type
        if kind in ("PartitionedCall", "StatefulPartitionedCall"):
            return self.run(self._body(operation, "f"), given)
        if kind in ("If", "StatelessIf"):
            branches = [
                self.run(self._body(operation, name), given[1:])
                for name in ("then_branch", "else_branch")
            ]
            # Which branch ran tells of the condition.
            return [a | b | _values(given[0]) for a, b in zip(*branches, strict=True)]
        if kind in ("While", "StatelessWhile"):
            return self._loop(operation, given)
        handles = {name for of in given for what, name in of if what == "handle"}
        values = frozenset().union(*map(_values, given))
        if kind == "ReadVariableOp":
            (name,) = handles or {""}
            return [self._read(name)]
        if handles and kind not in ("Identity", "VariableShape", "VarIsInitializedOp"):
            for name in handles:  # An assignment, whatever it is called.
                target = self.reaching if name in self.feedback else self.memory
                target[name] = target.get(name, NOTHING) | values
        if DOOR.fullmatch(operation.name):
            return [frozenset(("heard", name) for _, name in values)]
        passed = values | {("handle", name) for name in handles}
        return [passed] * len(operation.outputs)

    def _loop(self, operation: Any, given: list[Labels]) -> list[Labels]:
        body = self._body(operation, "body")
        condition = self._body(operation, "cond")
        while True:
            going_on = frozenset().union(*map(_values, self.run(condition, given)))
            after = [a | b | going_on for a, b in zip(given, self.run(body, given), strict=True)]
            if after == given:
                return after
            given = after

    def _body(self, operation: Any, attribute: str) -> Any:
        """The graph of a function that `operation` calls."""
        name = operation.get_attr(attribute).name
        if name not in self.bodies:
            functions = operation.graph.as_graph_def().library.function
            (definition,) = [f for f in functions if f.signature.name == name]
            self.bodies[name] = function_def_to_graph(definition, include_library_functions=True)
        return self.bodies[name]

    def _read(self, name: str) -> Labels:
        if name in self.kernels:
            return frozenset({("looked", name)})
        return self.memory.get(name, NOTHING)


def kernels_reaching_feedback(program: Any, pathways: Sequence[Pathway]) -> Flow:
    """Walk a `ConcreteFunction` until nothing new flows, as over many calls of it."""
    names: dict[int, str] = {}
    for pathway in pathways:
        for variable, name in (
            (pathway.kernel, pathway.name),
            (pathway.feedback_kernel, f"B of {pathway.name}"),
        ):
            value = variable.value
            for copy in getattr(value, "values", [value]):
                names[id(copy.handle)] = name
    graph = program.graph
    captured = {inner.ref(): outer for outer, inner in graph.captures}
    arguments = []
    for tensor in graph.inputs:
        outer = captured.get(tensor.ref())
        if outer is not None and outer.dtype == tf.resource:
            name = names.get(id(outer), f"variable {id(outer)}")
            arguments.append(frozenset({("handle", name)}))
        else:
            arguments.append(NOTHING)
    flow = Flow({p.name for p in pathways}, {f"B of {p.name}" for p in pathways})
    while True:
        before = (dict(flow.reaching), dict(flow.memory))
        flow.run(graph, arguments)
        if before == (flow.reaching, flow.memory):
            return flow


def violations(program: Any, pathways: Sequence[Pathway]) -> list[str]:
    """Every way in which the traced mirror does not listen as it should; empty if it does.

    B of each pathway must be assigned from its own W, heard through `pathway_response`, and from
    no forward kernel in any other way.
    """
    flow = kernels_reaching_feedback(program, pathways)
    found = []
    for pathway in pathways:
        reaching = flow.reaching.get(f"B of {pathway.name}", NOTHING)
        found += [
            f"{name} reaches B of {pathway.name} past its response"
            for what, name in sorted(reaching)
            if what == "looked"
        ]
        heard = {name for what, name in reaching if what == "heard"}
        if heard != {pathway.name}:
            found.append(f"B of {pathway.name} hears {sorted(heard)}")
    return found


def _values(labels: Labels) -> Labels:
    return frozenset(label for label in labels if label[0] != "handle")
