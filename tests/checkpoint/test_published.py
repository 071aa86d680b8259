"""Check the content and the name of published files."""

import hashlib
import io

import torch

from mmyolo_ext.checkpoint.writing import pack, slim


def test_what_is_beyond_half_precision_stays():
    # 65504 is the largest number of float16; from 65520 on it rounds to infinity
    state = {
        'a.weight': torch.tensor([1 / 3, -65504.0, 65519.0]),
        'b.weight': torch.tensor([1.0, 65520.0]),
        'c.running_var': torch.tensor([1e-9, 1e6]),
        'c.running_mean': torch.tensor([1 / 3]),
        'c.num_batches_tracked': torch.tensor(2**40),
        'd.weight': torch.tensor([1 / 3], dtype=torch.float64),
        'e.weight': torch.tensor([1 / 3], dtype=torch.bfloat16),
        'empty': torch.zeros(0),
    }
    half, wide = slim(state, half=True)
    assert list(half) == list(state) and wide == ['b.weight']
    # 1/3 is 1.0101010101 010101... b-2; eleven bits are 0x555 / 2^12
    assert half['a.weight'].tolist() == [0x555 / 2**12, -65504.0, 65504.0] and half['a.weight'].dtype == torch.float16
    assert half['b.weight'].tolist() == [1.0, 65520.0] and half['b.weight'].dtype == torch.float32
    assert torch.equal(half['c.running_var'], state['c.running_var'])
    assert torch.equal(half['c.running_mean'], state['c.running_mean'])
    assert half['c.num_batches_tracked'].item() == 2**40
    assert half['d.weight'].dtype == half['e.weight'].dtype == torch.float16 and half['empty'].shape == (0,)
    single, wide = slim(state, half=False)
    assert wide == [] and {value.dtype for value in single.values()} == {torch.float32, torch.int64}
    assert torch.equal(single['a.weight'], state['a.weight'])


def test_tensors_are_copies_in_the_usual_order():
    large = torch.arange(96.0).reshape(2, 3, 4, 4)
    state = {'a': large.to(memory_format=torch.channels_last), 'b': large[:1], 'c': large.requires_grad_()}
    for value in (copies := slim(state, half=False)[0]).values():
        assert value.is_contiguous() and value.untyped_storage().nbytes() == 4 * value.numel()
        assert not value.requires_grad
    assert torch.equal(copies['a'], copies['c'])
    copies['b'].zero_()
    assert large[0, 0, 0, 1] == 1


def test_the_name_follows_the_content_alone():
    state, meta = {'a': torch.ones(3)}, {'dataset_meta': {'classes': ('x',)}}
    content, digits = pack(state, meta)
    assert digits == hashlib.sha256(content).hexdigest()[:8]
    assert pack({'a': torch.ones(3)}, {'dataset_meta': {'classes': ('x',)}}) == (content, digits)
    assert pack({'a': torch.zeros(3)}, meta)[1] != digits != pack(state, {})[1]
    saved = torch.load(io.BytesIO(content), weights_only=True)
    assert saved['meta'] == meta and torch.equal(saved['state_dict']['a'], state['a'])
