"""Check that a config builds, trains a step, predicts, and is saved and loaded, on a few real images.

::

    def test_it(path, bccd_coco):
        step_on_bccd(path, bccd_coco)
"""

import io
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_nodes import walk
from mmyolo_ext.cli import voc2coco

REPO = Path(__file__).parents[2]
CLASSES = ('RBC', 'WBC', 'Platelets')
BATCH = 2
FROM_THE_NETWORK = (
    'http://',
    'https://',
    'torchvision://',
    'modelzoo://',
    'open-mmlab://',
    'openmmlab://',
    'mmcls://',
)


def make_bccd_coco(voc: Path, root: Path, train: int = 6, val: int = 3) -> Path:
    """Convert the first images of BCCD's splits; ``root`` then has ``images/``, ``train.json`` and ``val.json``."""
    (root / 'ImageSets/Main').mkdir(parents=True)
    for split, source, count in (('train', 'trainval', train), ('val', 'test', val)):
        names = (voc / f'ImageSets/Main/{source}.txt').read_text().split()[:count]
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
    for folder, link in (('Annotations', 'Annotations'), ('JPEGImages', 'JPEGImages'), ('JPEGImages', 'images')):
        (root / link).symlink_to((voc / folder).resolve())
    voc2coco.main([str(root), str(root), '--classes', *CLASSES])
    return root


def bccd_options(root: Path) -> dict:
    """The shortcuts that point any config to the images in ``root``."""
    return {
        'class_names': CLASSES,
        'data_root': f'{root}/',
        'train_ann': 'train.json',
        'train_img': 'images/',
        'val_ann': 'val.json',
        'val_img': 'images/',
        'batch_size': BATCH,
    }


def load_for_bccd(path: Path, root: Path, side: int = 160, options: dict | None = None) -> Config:
    """The config on the images in ``root``, shrunk to ``side`` px, without weights from the network."""
    cfg = load_config(path, {**bccd_options(root), **(options or {})})
    init_default_scope(cfg.default_scope)
    shrink(cfg, side)
    for node in walk(cfg.model):
        if is_download(node.get('init_cfg')):
            node['init_cfg'] = None
    return cfg


def is_download(init_cfg: object) -> bool:
    """Whether a part would fetch its weights from the network."""
    return isinstance(init_cfg, dict) and str(init_cfg.get('checkpoint', '')).startswith(FROM_THE_NETWORK)


def shrink(cfg: Config, side: int) -> None:
    """Make every image that a pipeline, ours or mmdet's, makes or crops ``side`` px wide and high, in place."""
    loaders = [cfg[f'{split}_dataloader'] for split in ('train', 'val', 'test')]
    for node in walk(loaders):
        kind = str(node.get('type')).rsplit('.', 1)[-1]
        for key in ('size', 'size_hw', 'img_scale', 'crop_size'):
            if node.get(key) is not None:
                node[key] = side if isinstance(node[key], int) else (side, side)
        if kind == 'Resize':
            node['scale'] = (side, side)
        elif kind == 'RandomResize':
            node['scale'] = (2 * side, 2 * side)  # as mmdet's large-scale jitter: twice the crop, times ratio_range
        elif kind == 'RandomAffine' and 'border' in node:
            node['border'] = (-side // 2, -side // 2)
    head = cfg.model.get('bbox_head') or {}
    if 'input_size' in head:
        head['input_size'] = side


def batch_of(loader: dict, count: int = BATCH) -> dict:
    """The first samples of a loader's data set, as its loader would collate them."""
    dataset = DATASETS.build(loader['dataset'])
    return pseudo_collate([dataset[index] for index in range(count)])


def step_on_bccd(path: Path, root: Path, side: int = 160, options: dict | None = None) -> BaseModel:
    """Run the checks of this module on the config at ``path``.

    Args:
        root: of :func:`make_bccd_coco`.
        side: of the input, px, a multiple of the largest stride.
        options: dotted, as ``--cfg-options``.

    Returns:
        The model after its step, in eval mode.
    """
    set_random_seed(0)  # mmdet's transforms draw from Python's and NumPy's generators too
    cfg = load_for_bccd(path, root, side, options)
    model = MODELS.build(cfg.model)
    model.init_weights()
    take_step(model, build_optim_wrapper(model, cfg.optim_wrapper), batch_of(cfg.train_dataloader))

    batch = batch_of(cfg.val_dataloader, 1)
    found = predictions(model, batch)
    assert len(found['scores']) > 0
    second = saved_and_loaded(model, cfg.model)
    again = predictions(second, batch)
    assert found.keys() == again.keys() and all(torch.equal(found[key], again[key]) for key in found)
    return model


def take_step(model: BaseModel, wrapper: OptimWrapper, batch: dict) -> None:
    """One optimizer step; finite losses, a finite gradient everywhere, every part of the model moved."""
    MessageHub.get_current_instance().update_info('iter', 0)  # some parts read the progress of the training
    model.train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with wrapper.optim_context(model):
        data = model.data_preprocessor(batch, True)
        assert sum(len(sample.gt_instances) for sample in data['data_samples']) > 0, 'a batch without a box'
        loss, log = model.parse_losses(model(**data, mode='loss'))
    assert all(torch.isfinite(torch.as_tensor(value)) for value in log.values()), log
    wrapper.backward(wrapper.scale_loss(loss))
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, value in trainable.items() if value.grad is None] == [], 'no gradient'
    assert [name for name, value in trainable.items() if not value.grad.isfinite().all()] == [], 'not finite'
    wrapper.step()
    wrapper.zero_grad()
    moved = {name.split('.')[0] for name, value in trainable.items() if not torch.equal(before[name], value)}
    assert moved == {name.split('.')[0] for name in trainable}
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters() if name not in trainable)


def predictions(model: nn.Module, batch: dict) -> dict[str, Tensor]:
    """The boxes found on the one image of ``batch``, whatever their score, in its pixels."""
    model.eval()
    for part in model.modules():
        for node in walk(getattr(part, 'test_cfg', None)):
            if 'score_thr' in node:
                node['score_thr'] = 0.0
    with torch.no_grad():
        (sample,) = model.test_step(batch)
    found = sample.pred_instances
    # nothing on the borders: YOLOX and RTMDet let boxes reach outside the image
    assert found.bboxes.isfinite().all() and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert ((found.labels >= 0) & (found.labels < len(CLASSES))).all()
    return {key: found[key] for key in ('bboxes', 'scores', 'labels')}


def saved_and_loaded(model: nn.Module, model_cfg: dict) -> nn.Module:
    """A second build of the model with the weights of the first, by way of a file."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    second = MODELS.build(model_cfg)
    second.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return second
