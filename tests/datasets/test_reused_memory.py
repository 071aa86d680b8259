"""Memory that is used again, and never while somebody looks at it."""

import pytest
import torch

from mmyolo_ext.datasets import shared_memory
from mmyolo_ext.datasets.shared_memory import empty_batch


@pytest.mark.parametrize('keep', [lambda t: t, lambda t: t[1, :, 2:], lambda t: t[0].numpy(), lambda t: iter(t)])
def test_memory_that_is_looked_at_is_not_used_again(keep):
    first = empty_batch((3, 3, 8, 6)).fill_(7)
    held, address = keep(first), first.data_ptr()
    del first
    others = [empty_batch((3, 3, 8, 6)).fill_(9) for _ in range(3)]
    assert address not in {other.data_ptr() for other in others}
    assert (torch.as_tensor(held if not hasattr(held, '__next__') else next(held)) == 7).all()


def test_memory_that_is_given_up_is_used_again():
    first = empty_batch((2, 3, 8, 6))
    address = first.data_ptr()
    del first
    assert empty_batch((2, 3, 8, 6)).data_ptr() == address
    assert empty_batch((3, 2, 6, 8)).data_ptr() == address, 'as many bytes, another shape'
    assert empty_batch((2, 3, 8, 5)).shape == (2, 3, 8, 5)


def test_little_is_kept():
    batches = [empty_batch((side, 3, 8, 6)) for side in range(1, 9)]
    del batches
    assert len(shared_memory._free) == shared_memory.MAX_FREE
