"""From a worker to the main process in blocks that are used again, and never while somebody looks at them."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmyolo_ext.datasets import shared_memory, stack_inputs
from mmyolo_ext.datasets.shared_memory import (
    HEADER,
    MAX_BLOCKS,
    as_message,
    empty_image,
    one_batch,
    received,
    take_block,
)

SHAPE = (3, 8, 6)


class Numbers(Dataset):
    """Picture k is all k."""

    def __len__(self):
        return 128

    def __getitems__(self, indices):
        with one_batch(len(indices)):
            return [{'inputs': empty_image(SHAPE).fill_(k), 'number': torch.tensor([k])} for k in indices]


def loader(**options):
    return DataLoader(Numbers(), batch_size=4, num_workers=2, collate_fn=stack_inputs, **options)


def expected(place):
    numbers = torch.arange(4 * place, 4 * place + 4, dtype=torch.uint8)
    return numbers[:, None, None, None].expand(4, *SHAPE)


@pytest.fixture
def blocks(monkeypatch):
    """No blocks of this process yet."""
    monkeypatch.setattr(shared_memory, '_own', [])
    monkeypatch.setattr(shared_memory, '_received', {})
    return shared_memory


def test_batches_that_are_kept_stay_as_they_are():
    batches = list(loader())  # 32, more than two workers have blocks
    assert len(batches) == 32 > 2 * MAX_BLOCKS
    for place, batch in enumerate(batches):
        assert type(batch) is dict and list(batch) == ['inputs', 'number']
        assert torch.equal(batch['inputs'], expected(place))
        assert torch.equal(torch.cat(batch['number']), torch.arange(4 * place, 4 * place + 4))


def test_batches_that_are_not_kept_use_few_blocks(blocks):
    persistent = loader(persistent_workers=True)
    files, addresses = [], []
    for _ in range(3):
        for place, batch in enumerate(persistent):
            assert torch.equal(batch['inputs'], expected(place))
            files.append(len(os.listdir('/proc/self/fd')))
            addresses.append(batch['inputs'].data_ptr())
    assert len(blocks._received) <= 2 * MAX_BLOCKS
    assert set(addresses) <= {memory.ctypes.data + HEADER for memory in blocks._received.values()}, (
        'each lies in a block'
    )
    assert max(files[64:]) <= max(files[:32]), 'no file is left open'


def test_views_keep_a_block(blocks):
    views = [batch['inputs'][1, 0].numpy() for batch in loader()]
    assert [view[0, 0] for view in views] == list(range(1, 128, 4))


def test_blocks_of_workers_that_ended_are_forgotten(blocks):
    for _ in range(3):  # new workers each time
        list(loader())
    assert len({process for process, _ in blocks._received}) <= 2


def test_a_block_is_free_when_the_batch_is_gone_on_both_sides(blocks):
    made = take_block((2, *SHAPE)).fill_(5)
    (block,) = blocks._own
    message = as_message(made)
    assert not block.is_free and message.block is block.tensor
    del made
    assert not block.is_free, 'it is on its way'
    arrived = received(message)
    assert (arrived == 5).all() and arrived.shape == (2, *SHAPE)
    assert arrived.data_ptr() == block.tensor.data_ptr() + HEADER
    part = arrived[1:]
    del arrived
    assert not block.is_free
    del part
    assert block.is_free
    again = take_block((1, *SHAPE))
    assert len(blocks._own) == 1 and as_message(again).block is None, 'the main process has it'


def test_a_batch_that_its_worker_keeps_is_not_written_over(blocks):
    made = take_block((2, *SHAPE)).fill_(5)
    arrived = received(as_message(made))
    del arrived  # the main process is done with it first
    other = take_block((2, *SHAPE)).fill_(6)
    assert (made == 5).all() and (other == 6).all()
    del made
    assert blocks._own[0].is_free


def test_a_batch_that_is_never_sent_frees_its_block(blocks):
    made = take_block((2, *SHAPE))
    del made
    assert blocks._own[0].is_free


def test_only_a_whole_block_is_sent_by_its_number(blocks):
    made = take_block((4, *SHAPE))
    assert isinstance(as_message(made[1:]), torch.Tensor)
    assert isinstance(as_message(made.transpose(2, 3)), torch.Tensor)
    assert isinstance(as_message(torch.zeros(3)), torch.Tensor)
    assert as_message(made).shape == (4, *SHAPE)
    assert isinstance(as_message(made), torch.Tensor), 'sent twice, it is not a block the second time'


def test_a_larger_batch_has_another_block(blocks):
    take_block((2, *SHAPE))
    larger = take_block((4, *SHAPE))
    assert larger.shape == (4, *SHAPE) and len(blocks._own) == 2


def test_where_all_blocks_are_taken_there_is_other_memory(blocks):
    held = [take_block(SHAPE).fill_(k) for k in range(MAX_BLOCKS + 2)]
    assert len(blocks._own) == MAX_BLOCKS and not any(block.is_free for block in blocks._own)
    assert [int(one[0, 0, 0]) for one in held] == list(range(MAX_BLOCKS + 2)) and held[-1].is_shared()


def test_a_larger_batch_takes_the_number_of_a_smaller_one(blocks):
    held = [take_block(SHAPE).fill_(k) for k in range(MAX_BLOCKS)]
    arrived = received(as_message(held[2]))
    held[2] = None
    view = arrived[0].numpy()
    del arrived
    larger = take_block((4, *SHAPE))
    assert larger.is_shared() and len(blocks._own) == MAX_BLOCKS, 'all are taken, one of them in the main process'
    del view
    larger = take_block((4, *SHAPE)).fill_(9)
    message = as_message(larger)
    assert message.number == 2 and message.block is not None, 'it is sent, for the main process has the smaller one'
    assert (received(message) == 9).all() and [int(one[0, 0, 0]) for one in held if one is not None] == [
        0,
        1,
        *range(3, MAX_BLOCKS),
    ]


FORKED = """
import os
from mmyolo_ext.datasets import shared_memory as blocks
made = blocks.take_block((2, 3, 8, 6))
arrived = blocks.received(blocks.as_message(made))
del made
child = os.fork()
if child == 0:
    del arrived
    os._exit(0)
os.waitpid(child, 0)
assert not blocks._own[0].is_free
del arrived
assert blocks._own[0].is_free
"""


def test_a_worker_that_is_forked_meanwhile_frees_nothing():
    subprocess.run([sys.executable, '-c', FORKED], check=True)
