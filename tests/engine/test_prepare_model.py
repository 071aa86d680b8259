"""What touches parameters before the model is wrapped: memory format, freezing, SyncBN, and nothing after it."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner import runner as mmengine_runner
from torch import nn
from toy_runner import RECIPE_HOOKS, toy_runner

from mmyolo_ext.engine.hooks import StepEMAHook
from mmyolo_ext.engine.prepare_model import prepare_model
from mmyolo_ext.engine.runner import Runner


class Images(BaseModel):
    """A convolution of images, whose weight has two layouts, and a stage that is frozen in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.frozen = nn.Conv2d(4, 2, 1)

    def train(self, mode: bool = True) -> 'Images':
        super().train(mode)
        self.frozen.requires_grad_(False)
        return self

    def forward(self, x, mode='loss'):
        return {'loss': self.frozen(self.conv(x.new_ones(1, 3, 4, 4))).square().sum()}


@pytest.mark.parametrize(('memory_format', 'last'), [('channels_last', True), ('contiguous', False), (None, False)])
def test_memory_format_of_parameters_and_ema(tmp_path, memory_format, last):
    runner = toy_runner(tmp_path, Images(), hooks=RECIPE_HOOKS, max_epochs=1, config={'memory_format': memory_format})
    runner.train()
    (ema,) = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, StepEMAHook)]
    for module in (runner.model, ema):
        assert module.conv.weight.is_contiguous(memory_format=torch.channels_last) == last
        assert module.conv.weight.is_contiguous() != last


def test_unknown_memory_format_is_refused():
    with pytest.raises(ValueError, match=r"one of \('channels_last', 'contiguous'\) or None, got 'channel_last'"):
        prepare_model(Images(), {'memory_format': 'channel_last'})


def test_stages_that_freeze_in_training_mode_are_frozen_before_wrapping():
    model = Images()
    assert model.frozen.weight.requires_grad
    assert not prepare_model(model, {}).frozen.weight.requires_grad


@pytest.mark.parametrize('sync_bn', ['torch', None])
def test_norms_are_converted_before_the_wrapper_is_built(monkeypatch, sync_bn):
    """As far as a CPU goes: DistributedDataParallel takes SyncBN on GPUs alone."""
    built = []
    monkeypatch.setattr(mmengine_runner, 'MMDistributedDataParallel', lambda module, **_: built.append(module))
    monkeypatch.setenv('LOCAL_RANK', '0')
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model[2].requires_grad_(False)
    parameters = dict(model.named_parameters())
    runner = Runner.__new__(Runner)
    runner._distributed = True
    runner.cfg = Config({'sync_bn': sync_bn, 'memory_format': 'channels_last'})
    runner.wrap_model(None, model)
    (wrapped,) = built
    assert wrapped[0].weight.is_contiguous(memory_format=torch.channels_last)
    for norm in wrapped[1:]:
        assert isinstance(norm, nn.SyncBatchNorm if sync_bn else nn.BatchNorm2d)
        assert norm.training
    assert [p.requires_grad for p in wrapped.parameters()] == [True, True, True, True, False, False]
    assert all(parameter is parameters[name] for name, parameter in wrapped.named_parameters())


def test_the_wrapper_comes_last(tmp_path, monkeypatch):
    seen = {}

    def wrap(self, model_wrapper_cfg, model):
        seen['channels_last'] = model.conv.weight.is_contiguous(memory_format=torch.channels_last)
        seen['frozen'] = not model.frozen.weight.requires_grad
        seen['compiled'] = model.conv._compiled_call_impl is not None
        return model

    monkeypatch.setattr(MMEngineRunner, 'wrap_model', wrap)
    config = {'memory_format': 'channels_last', 'compile_parts': {'backend': 'eager', 'parts': ['conv']}}
    toy_runner(tmp_path, Images(), config=config)
    assert seen == {'channels_last': True, 'frozen': True, 'compiled': True}
