"""Apply an affine chain once to a sum, instead of once to each branch of the sum.

For a chain f(x) = A x + c of convolutions, shuffles and reshapes with the same weights in every branch,

    f₁(a) + f₂(b) = A a + c₁ + A b + c₂ = A (a + b) + (c₁ + c₂),

and where the chain has several biases each is added to its like: A₂(A₁ a + c₁) + d₁ + A₂(A₁ b + c₂) + d₂ =
A₂(A₁(a + b) + c₁ + c₂) + d₁ + d₂. Zero padding of a sum is the sum of the paddings, so that borders are exact too. An Add of Adds
merges one branch after the other, whatever their number. LESRCNN's two `upsample` branches become one: 12 to 18% of its MACs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.constants import constant
from export.graph.editing import hand_over, insert_node, producer, set_weights, weights
from export.passes.noted_shapes import note_shapes, noted_shape

_MOVING = ("DepthToSpace", "SpaceToDepth", "Transpose", "Reshape", "Identity")


def merge_branches(model: ir.Model) -> tuple[ir.Model, str]:
    count = 0
    note_shapes(model)
    while (found := next((match for node in model.graph if (match := _match(node))), None)) is not None:
        _merge(*found)
        count += 1
    return model, f"{count} merged"


_Chain = list[tuple[ir.Node, ir.Node]]  # what the two branches have in common, from the sum backwards


def _match(add: ir.Node) -> tuple[ir.Node, _Chain] | None:
    """Return the Add and the affine chain common to its branches, where that has a convolution in it."""
    if add.op_type != "Add" or add.inputs[0] is add.inputs[1]:
        return None
    chain: _Chain = []
    left, right = add.inputs
    while (pair := _alike(left, right)) is not None:
        chain.append(pair)
        left, right = (node.inputs[0] for node in pair)
    if left is None or right is None or noted_shape(left) is None or noted_shape(left) != noted_shape(right):
        return None  # shapes that broadcast are not what the algebra is about
    while chain and chain[-1][0].op_type != "Conv":
        chain.pop()  # moving the sum past operators that cost nothing gains nothing
    return (add, chain) if chain else None


def _alike(left: ir.Value | None, right: ir.Value | None) -> tuple[ir.Node, ir.Node] | None:
    """Return the nodes that make the two values, where they are the same affine operator but for a bias."""
    one, other = (producer(value, *_MOVING, "Conv") for value in (left, right))
    if one is None or other is None or one is other:
        return None
    same = one.op_type == other.op_type and {k: a.value for k, a in one.attributes.items()} == {
        k: a.value for k, a in other.attributes.items()
    }
    if not same:
        return None
    if one.op_type == "Conv":
        ours, theirs = weights(one), weights(other)
        return (one, other) if ours and theirs and np.array_equal(ours[0], theirs[0]) else None
    shapes = [constant(node.inputs[1]) if len(node.inputs) > 1 else np.empty(0) for node in (one, other)]
    if shapes[0] is None or shapes[1] is None or not np.array_equal(shapes[0], shapes[1]):
        return None
    return one, other


def _merge(add: ir.Node, chain: _Chain) -> None:
    first, other = chain[-1]
    source, graph = first.inputs[0], add.graph
    assert source is not None
    assert graph is not None
    summed = [(one, ours[0], ours[1] + theirs[1]) for one, twin in chain if (ours := weights(one)) and (theirs := weights(twin))]
    first.replace_input_with(0, insert_node(add, "Add", [source, other.inputs[0]], like=source))
    hand_over(add.outputs[0], chain[0][0].outputs[0])
    graph.remove([add, *(twin for _, twin in chain)], safe=True)
    for one, weight, bias in summed:  # now that nothing shares the weights, they keep their names
        set_weights(one, weight, bias)
    graph.sort()
