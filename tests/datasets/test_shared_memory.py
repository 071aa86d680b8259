"""Batches in one tensor, in memory that is reused, but never while something refers to it."""

import os

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader, Dataset

from mmyolo_ext.datasets import shared_memory, stack_inputs
from mmyolo_ext.datasets.shared_memory import (
    HEADER,
    MAX_BLOCKS,
    as_message,
    empty_batch,
    empty_image,
    one_batch,
    received,
)
from mmyolo_ext.registry import FUNCTIONS, MODELS

SHAPE = (3, 8, 6)


class Numbers(Dataset):
    """Image k is all k."""

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
    made = empty_batch((2, *SHAPE)).fill_(5)
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
    again = empty_batch((1, *SHAPE))
    assert len(blocks._own) == 1 and as_message(again).block is None, 'the main process has it'


def test_a_batch_that_its_worker_keeps_is_not_written_over(blocks):
    made = empty_batch((2, *SHAPE)).fill_(5)
    arrived = received(as_message(made))
    del arrived  # the main process is done with it first
    other = empty_batch((2, *SHAPE)).fill_(6)
    assert (made == 5).all() and (other == 6).all()
    del made
    assert blocks._own[0].is_free


def test_a_batch_that_is_never_sent_frees_its_block(blocks):
    made = empty_batch((2, *SHAPE))
    del made
    assert blocks._own[0].is_free


def test_only_a_whole_block_is_sent_by_its_number(blocks):
    made = empty_batch((4, *SHAPE))
    assert isinstance(as_message(made[1:]), torch.Tensor)
    assert isinstance(as_message(made.transpose(2, 3)), torch.Tensor)
    assert isinstance(as_message(torch.zeros(3)), torch.Tensor)
    assert as_message(made).shape == (4, *SHAPE)
    assert isinstance(as_message(made), torch.Tensor), 'sent twice, it is not a block the second time'


def test_a_larger_batch_has_another_block(blocks):
    empty_batch((2, *SHAPE))
    larger = empty_batch((4, *SHAPE))
    assert larger.shape == (4, *SHAPE) and len(blocks._own) == 2


def test_where_all_blocks_are_taken_there_is_other_memory(blocks):
    held = [empty_batch(SHAPE).fill_(k) for k in range(MAX_BLOCKS + 2)]
    assert len(blocks._own) == MAX_BLOCKS and not any(block.is_free for block in blocks._own)
    assert [int(one[0, 0, 0]) for one in held] == list(range(MAX_BLOCKS + 2))


def test_a_larger_batch_takes_the_number_of_a_smaller_one(blocks):
    held = [empty_batch(SHAPE).fill_(k) for k in range(MAX_BLOCKS)]
    arrived = received(as_message(held[2]))
    held[2] = None
    view = arrived[0].numpy()
    del arrived
    larger = empty_batch((4, *SHAPE))
    assert len(blocks._own) == MAX_BLOCKS, 'all are taken, one of them in the main process'
    del view
    larger = empty_batch((4, *SHAPE)).fill_(9)
    message = as_message(larger)
    assert message.number == 2 and message.block is not None, 'it is sent, for the main process has the smaller one'
    assert (received(message) == 9).all() and [int(one[0, 0, 0]) for one in held if one is not None] == [
        0,
        1,
        *range(3, MAX_BLOCKS),
    ]


def test_a_worker_that_is_forked_meanwhile_frees_nothing(blocks):
    made = empty_batch((2, *SHAPE))
    arrived = received(as_message(made))
    del made
    child = os.fork()
    if child == 0:
        del arrived
        os._exit(0)
    os.waitpid(child, 0)
    assert not blocks._own[0].is_free
    del arrived
    assert blocks._own[0].is_free


def samples(shapes):
    torch.manual_seed(0)
    made = []
    for shape in shapes:
        sample = DetDataSample(metainfo={'img_shape': shape})
        boxes = HorizontalBoxes(torch.rand(2, 4).sort().values * 20)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
        sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes([]), labels=torch.zeros(0, dtype=torch.long))
        made.append({'inputs': torch.randint(0, 256, (3, *shape), dtype=torch.uint8), 'data_samples': sample})
    return made


def as_interleaved(batch):
    """The same samples, with the memory layout of images (H, W, C)."""
    for sample in batch:
        sample['inputs'] = sample['inputs'].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return batch


@pytest.mark.parametrize('interleaved', [False, True])
@pytest.mark.parametrize('shapes', [[(32, 64)] * 3, [(20, 30)] * 2, [(32, 64), (64, 32)], [(1, 1)] * 2, [(1, 7)] * 2])
def test_the_network_gets_the_same(shapes, interleaved):
    scale = {'mean': [0] * 3, 'std': [255] * 3, 'bgr_to_rgb': True, 'pad_size_divisor': 32}
    preprocessor = MODELS.build({'type': 'mmdet.DetDataPreprocessor', **scale})
    ours = stack_inputs(as_interleaved(samples(shapes)) if interleaved else samples(shapes))
    ours, theirs = preprocessor(ours, True), preprocessor(pseudo_collate(samples(shapes)), True)
    assert torch.equal(ours['inputs'], theirs['inputs'])
    for one, other in zip(ours['data_samples'], theirs['data_samples'], strict=True):
        assert one.metainfo == other.metainfo
        assert torch.equal(one.gt_instances.bboxes, other.gt_instances.bboxes)


def test_equal_sizes_are_stacked_uint8():
    assert FUNCTIONS.get('mmyolo_ext.stack_inputs') is stack_inputs
    batch = stack_inputs(samples([(8, 6)] * 4))
    assert batch['inputs'].shape == (4, 3, 8, 6) and batch['inputs'].dtype == torch.uint8
    assert isinstance(stack_inputs(samples([(8, 6), (6, 8)]))['inputs'], list)
    interleaved = stack_inputs(as_interleaved(samples([(8, 6)] * 4)))
    assert torch.equal(interleaved['inputs'], batch['inputs']) and interleaved['inputs'].is_contiguous()


def packed(shapes):
    """Samples whose images were written into one batch, with the pixels they should have."""
    made = samples(shapes)
    with one_batch(len(shapes)):
        for sample in made:
            place = empty_image(sample['inputs'].shape)
            sample['inputs'] = place.copy_(sample['inputs'])
    return made


def test_a_batch_in_its_memory_is_not_copied():
    made = packed([(8, 6)] * 4)
    batch = stack_inputs(made)
    assert torch.equal(batch['inputs'], stack_inputs(samples([(8, 6)] * 4))['inputs'])
    assert batch['inputs'].data_ptr() == made[0]['inputs'].data_ptr() and batch['inputs'].is_contiguous()


@pytest.mark.parametrize('order', [[1, 0, 2, 3], [0, 1, 2], [1, 2, 3], [0, 0, 2, 3], [3]])
def test_places_out_of_order_are_stacked(order):
    made = packed([(8, 6)] * 4)
    expected = torch.stack([samples([(8, 6)] * 4)[k]['inputs'] for k in order])
    assert torch.equal(stack_inputs([made[k] for k in order])['inputs'], expected)


def test_another_shape_has_memory_of_its_own():
    made = packed([(8, 6), (6, 8), (8, 6)])
    assert isinstance(stack_inputs(made)['inputs'], list)
    expected = samples([(8, 6), (6, 8), (8, 6)])
    assert all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(made, expected, strict=True))
    assert torch.equal(stack_inputs(made[::2])['inputs'], torch.stack([expected[k]['inputs'] for k in (0, 2)]))


@pytest.mark.parametrize('interleaved', [False, True])
@pytest.mark.parametrize('shapes', [[(8, 6)] * 4, [(8, 6), (6, 8)]])
def test_a_worker_sends_what_it_stacked(shapes, interleaved):
    made = samples(shapes)
    made = as_interleaved(made) if interleaved else made
    (sent,) = DataLoader(made, batch_size=len(made), num_workers=1, collate_fn=stack_inputs)
    expected = stack_inputs(samples(shapes))
    assert type(sent) is dict and sent.keys() == expected.keys()
    for one, other in zip(sent['inputs'], expected['inputs'], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(sent['data_samples'], expected['data_samples'], strict=True):
        assert one.metainfo == other.metainfo and type(one.gt_instances.bboxes) is HorizontalBoxes
        assert torch.equal(one.gt_instances.bboxes.tensor, other.gt_instances.bboxes.tensor)
        assert torch.equal(one.gt_instances.labels, other.gt_instances.labels)
        assert one.ignored_instances.bboxes.tensor.shape == (0, 4)
        one.gt_instances.labels += 1  # it can be written to


def test_large_tensors_and_those_with_gradients_cross_too():
    more = {'mask': torch.rand(300, 300), 'weight': torch.ones(2, requires_grad=True), 'half': torch.ones(2).half()}
    more['brain'] = torch.ones(2).bfloat16()  # which NumPy has not
    made = [{**sample, **more} for sample in samples([(8, 6)] * 2)]
    (sent,) = DataLoader(made, batch_size=2, num_workers=1, collate_fn=stack_inputs)
    for key, value in more.items():
        assert all(torch.equal(one, value) and one.dtype == value.dtype for one in sent[key])
    assert sent['mask'][0].is_shared() and not sent['half'][0].is_shared()


@pytest.mark.parametrize('keep', [lambda t: t, lambda t: t[1, :, 2:], lambda t: t[0].numpy(), lambda t: iter(t)])
def test_memory_that_is_looked_at_is_not_used_again(keep):
    first = empty_batch((3, 3, 8, 6)).fill_(7)
    held, address = keep(first), first.data_ptr()
    del first
    others = [empty_batch((3, 3, 8, 6)).fill_(9) for _ in range(3)]
    assert address not in {other.data_ptr() for other in others}
    assert (torch.as_tensor(held if not hasattr(held, '__next__') else next(held)) == 7).all()


def test_memory_that_is_given_up_is_used_again(blocks):
    first = empty_batch((2, 3, 8, 6))
    address = first.data_ptr()
    del first
    assert empty_batch((2, 3, 8, 6)).data_ptr() == address
    assert empty_batch((3, 2, 6, 8)).data_ptr() == address, 'as many bytes, another shape'
    assert empty_batch((2, 3, 8, 5)).shape == (2, 3, 8, 5)


def test_little_is_kept(blocks):
    batches = [empty_batch((side, 3, 8, 6)) for side in range(1, 12)]
    del batches
    assert len(blocks._own) == MAX_BLOCKS and blocks._own[7].is_free
