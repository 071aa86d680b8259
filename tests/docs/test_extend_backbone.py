"""docs/extend/backbone.md: the backbones of the page train as written."""

import re
import sys
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmyolo_ext.apis import load_config
from mmyolo_ext.registry import MODELS

REPO = Path(__file__).parents[2]
BLOCKS = re.findall(r'^```python\n(.*?)^```', (REPO / 'docs/extend/backbone.md').read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files of the page; the config is ``mine.py``."""
    for block in BLOCKS:
        name = re.match(r'# (\w+\.py)\n', block)
        path = tmp_path / (name[1] if name else 'mine.py')
        path.write_text(block.replace("'configs/", f"'{REPO}/configs/"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ('my_backbone', 'my_staged_backbone'):
        sys.modules.pop(name, None)
    for name in ('PlainBackbone', 'PlainStagedBackbone'):
        MODELS.module_dict.pop(name, None)


def step(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """One loss with a backward pass, on an image with one box."""
    sample = DetDataSample(metainfo={'img_shape': (64, 96), 'batch_input_shape': (64, 96)})
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 44]]), labels=torch.tensor([3]))
    losses = model.loss(torch.rand(1, 3, 64, 96), [sample])
    sum(losses.values()).backward()
    return losses


def test_the_backbone_of_the_page_trains(folder: Path) -> None:
    model = MODELS.build(load_config(folder / 'mine.py').model)
    assert type(model.backbone).__name__ == 'PlainBackbone'
    # 16 channels, doubled from index to index
    assert (model.backbone.out_channels, model.neck.in_channels) == ((64, 128, 256), (64, 128, 256))
    assert all(loss.isfinite() for loss in step(model).values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_without_declared_outputs_one_dry_run_finds_the_same(folder: Path) -> None:
    config = load_config(folder / 'mine.py').model
    declared = MODELS.get('mmyolo_ext.PlainBackbone')

    class Undeclared(declared):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            del self.out_channels, self.out_strides

    model = MODELS.build({**config, 'backbone': {'type': Undeclared, 'width': 16}})
    assert model.neck.in_channels == (64, 128, 256)
    with pytest.raises(ValueError, match=r'strides \(4, 8, 16\).*Try out_indices=\(2, 3, 4\) of PlainBackbone'):
        MODELS.build({**config, 'backbone': {**config.backbone, 'out_indices': (1, 2, 3)}})


def test_the_staged_backbone_of_the_page_trains_and_freezes(folder: Path) -> None:
    __import__('my_staged_backbone')
    config = load_config(folder / 'mine.py').model
    config.backbone = {'type': 'mmyolo_ext.PlainStagedBackbone', 'frozen_stages': 1, 'with_cp': True}
    model = MODELS.build(config).train()
    step(model)
    trained = {int(name.split('.')[1]) for name, p in model.backbone.named_parameters() if p.grad is not None}
    assert trained == {2, 3, 4}


def test_the_configs_of_the_guide_build(tmp_path: Path) -> None:
    page = (REPO / 'docs/guides/backbones.md').read_text()
    blocks = re.findall(r'^```python\n(.*?)^```', page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    for number, (block, kind) in enumerate(zip(blocks, ('MobileNetV3', 'ShuffleNetV2'), strict=True)):
        path = tmp_path / f'mine{number}.py'
        path.write_text(block.replace("'configs/", f"'{REPO}/configs/"))
        model = MODELS.build(load_config(path).model)
        assert type(model.backbone).__name__ == kind
        assert not model.backbone.pretrained_cfgs
