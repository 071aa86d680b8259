"""A config of a user with a .cfg file in it: shortcuts reach the detector, which takes a step and predicts."""

from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from tiny_coco import REPO, make_tiny_coco, tiny_options

from mmyolo_ext.apis import load_config

NETWORK = """\
[net]
width=416
height=416

[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
filters=255
activation=linear

[yolo]
mask=0,1,2
anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319
classes=80
num=6
"""


def user_config(folder: Path) -> Path:
    (folder / 'net.cfg').write_text(NETWORK)
    path = folder / 'mine.py'
    path.write_text(
        f"""_base_ = '{REPO / 'configs/yolov3/yolov3_tiny_640_coco.py'}'
model = dict(
    _delete_=True,
    type='mmyolo_ext.DarknetCfg',
    cfg_file='{folder / 'net.cfg'}',
    bbox_head=dict(type='mmyolo_ext.YOLOv3Head', nominal_batch_size=64),
)
"""
    )
    return path


def test_a_cfg_file_in_a_config(tmp_path) -> None:
    torch.manual_seed(0)
    cfg = load_config(user_config(tmp_path), tiny_options(make_tiny_coco(tmp_path / 'data'), 64))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    # class_names and input_size of the config, not what the file says
    assert model.bbox_head.num_classes == 2
    assert model.bbox_head.gains['loss_obj'] == 64 * 64 / 640**2 * 3  # one level of three
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    losses = model.train_step(pseudo_collate([dataset[0], dataset[1]]), wrapper)
    wrapper.step()
    assert all(torch.isfinite(torch.as_tensor(value)) for value in losses.values()), losses
    assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())

    model.eval()
    val = DATASETS.build(cfg.val_dataloader.dataset)
    with torch.no_grad():
        results = model.test_step(pseudo_collate([val[0], val[1]]))
    for result in results:
        assert ((result.pred_instances.labels >= 0) & (result.pred_instances.labels < 2)).all()
