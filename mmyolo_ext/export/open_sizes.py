"""What keeps a traced graph open to pictures of another size."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.onnx.symbolic_helper import parse_args

OPERATOR = 'aten::unflatten'


@contextmanager
def open_unflatten(opset: int) -> Iterator[None]:
    """Within it, ``Tensor.unflatten`` is exported such that sizes behind the split stay open.

    The exporter's own form finds the axis by arithmetic inside the graph, through which its shape inference does not
    see; it then takes the sizes of the traced picture for constants, and grids of cells with them.
    """
    torch.onnx.register_custom_op_symbolic(OPERATOR, _unflatten, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(OPERATOR, opset)


@parse_args('v', 'i', 'is')
def _unflatten(g, tensor, dim: int, sizes: list[int]):
    rank = tensor.type().dim()
    dim %= rank
    shape = g.op('Shape', tensor)
    before, after = _part(g, shape, 0, dim), _part(g, shape, dim + 1, rank)
    parts = [*before, _constant(g, sizes), *after]
    return g.op('Reshape', tensor, g.op('Concat', *parts, axis_i=0))


def _part(g, shape, start: int, end: int) -> list:
    """Entries ``start`` to ``end`` of a shape, as a list of at most one value."""
    return [g.op('Slice', shape, _constant(g, [start]), _constant(g, [end]))] if start < end else []


def _constant(g, numbers: list[int]):
    return g.op('Constant', value_t=torch.tensor(numbers))
