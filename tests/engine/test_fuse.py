"""A fused copy stands in while a test runs, and nowhere else."""

from types import SimpleNamespace

import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmyolo_ext.engine.hooks import FuseHook


def test_a_fused_copy_stands_in_during_a_test() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvModule(3, 4, 3, norm_cfg={'type': 'BN'}), nn.Conv2d(4, 2, 1))
    nn.init.normal_(model[0].bn.running_mean)
    nn.init.uniform_(model[0].bn.running_var, 0.5, 1.5)
    images = torch.randn(2, 3, 8, 8)
    wanted = model.eval()(images)
    runner = SimpleNamespace(model=model)
    hook = FuseHook()
    hook.before_test_epoch(runner)
    kinds = [type(module) for module in runner.model.modules()]
    assert nn.BatchNorm2d not in kinds and nn.BatchNorm2d in [type(module) for module in model.modules()]
    torch.testing.assert_close(runner.model(images), wanted, rtol=0, atol=1e-5)
    # weights put back into the model meanwhile stay there
    nn.init.zeros_(model[1].weight)
    hook.after_test_epoch(runner, {})
    assert runner.model is model and not model[1].weight.any()
    torch.testing.assert_close(model(images), model[1].bias[None, :, None, None].expand(2, 2, 6, 6))
