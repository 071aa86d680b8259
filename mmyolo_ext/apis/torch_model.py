"""A detector of PyTorch behind :class:`~mmyolo_ext.apis.Detector`: config, weights, forward pass."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.transforms import Compose
from mmengine import registry as root
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from torch import nn

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets, walk
from mmyolo_ext.apis.start import check_checkpoint
from mmyolo_ext.checkpoint.config_text import parse_config
from mmyolo_ext.checkpoint.matching import fit
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.checkpoint.safe_load import check_finite
from mmyolo_ext.registry import DATASETS, MODELS, TASK_UTILS, TRANSFORMS

SCOPES = ('mmyolo_ext', 'mmdet', 'mmengine')  # packages whose parts a config in a checkpoint may name
UNREGISTERED = ('nms', 'soft_nms', 'RoIAlign', 'RoIPool')  # of mmcv.ops


class TorchModel:
    """A model with its test pipeline; see :class:`~mmyolo_ext.apis.Detector` for the arguments."""

    def __init__(
        self,
        config: str | Path | Config | None,
        checkpoint: str,
        device: str | None,
        half: bool,
        fuse: bool,
        nms_iou: float | None,
    ) -> None:
        install_reader()
        check_checkpoint(checkpoint)
        saved = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
        cfg = config_in(saved, checkpoint) if config is None else _config(config)
        init_default_scope(cfg.get('default_scope') or 'mmdet')
        if config is None:
            check_types(cfg, checkpoint)
        lower_nms(cfg.model, nms_iou)
        dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
        self.model = _build(cfg.model, saved, checkpoint)
        self.model.to(device or ('cuda:0' if torch.cuda.is_available() else 'cpu')).eval()
        if fuse:
            self.model = fuse_conv_bn(self.model)
        kind = next(self.model.parameters()).device.type
        self._precision = partial(torch.autocast, kind, enabled=half)
        saved_meta = (saved.get('meta') or {}).get('dataset_meta') or {}
        self.classes = _class_names(saved_meta, dataset)
        steps = [step for step in dataset.pipeline if 'LoadAnnotations' not in str(step['type'])]
        self._from_file = Compose(steps)
        self._from_array = Compose([{'type': 'mmdet.LoadImageFromNDArray'}, *steps[1:]])

    def __call__(self, images: Sequence[str | Path | np.ndarray], score_thr: float) -> Iterator[tuple]:
        """Yield boxes, scores, labels and (height, width) of each image of a batch."""
        samples = [self._prepare(image) for image in images]
        batch = {key: [sample[key] for sample in samples] for key in samples[0]}
        with torch.no_grad(), self._precision():
            results = self.model.test_step(batch)
        for result in results:
            found = result.pred_instances
            found = found[found.scores >= score_thr]
            order = found.scores.argsort(descending=True, stable=True)
            fields = (field[order].cpu().numpy() for field in (found.bboxes, found.scores, found.labels))
            yield *fields, tuple(result.ori_shape[:2])

    def _prepare(self, image: str | Path | np.ndarray) -> dict:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f'an image must be (H, W, 3) uint8 in BGR, got {image.shape} {image.dtype}')
            return self._from_array({'img': image, 'img_id': 0})
        if not Path(image).is_file():
            raise ValueError(f'there is no image {image}')
        sample = self._from_file({'img_path': str(image), 'img_id': 0})
        if sample is None:
            raise ValueError(f'the image {image} cannot be read')
        return sample


def _config(config: str | Path | Config) -> Config:
    if isinstance(config, Config):
        return deepcopy(config)
    if not Path(config).is_file():
        from mmyolo_ext.apis.model_names import config_path

        config = config_path(str(config))
    return load_config(config, with_recipe=False)


def config_in(saved: dict, checkpoint: str) -> Config:
    """Return the config that a training wrote into its checkpoint; it is parsed, never executed.

    Raises:
        ValueError: If there is none, or it holds more than literals and ``dict(...)`` calls.
    """
    text = (saved.get('meta') or {}).get('cfg')
    cure = f'give the config file too, as in `mmyolo-ext predict CONFIG {checkpoint}`'
    if not text:
        raise ValueError(f'the checkpoint {checkpoint} has no config: {cure}')
    try:
        cfg = Config(parse_config(text))
    except ValueError as error:
        raise ValueError(
            f'the config in the checkpoint {checkpoint} is refused, and nothing of it has run: {error}; {cure}'
        ) from error
    if not isinstance(cfg.get('model'), dict) or not isinstance(
        (cfg.get('test_dataloader') or {}).get('dataset'), dict
    ):
        raise ValueError(f'the config in the checkpoint {checkpoint} has no model or no test_dataloader: {cure}')
    return cfg


def check_types(cfg: Config, checkpoint: str) -> None:
    """Refuse a config of a checkpoint that names a type which is not registered: building would import it by its name.

    Raises:
        ValueError: Naming the type.
    """
    known = set()
    for registry in (MODELS, TASK_UTILS, TRANSFORMS, DATASETS, root.WEIGHT_INITIALIZERS):
        for one in (registry.root, *registry.root.children.values()):
            one.import_from_location()
            known |= set(one.module_dict)
    for node in walk([cfg.model, cfg.test_dataloader.dataset]):
        scope, _, name = str(node.get('type', 'nms')).rpartition('.')
        if name not in known | set(UNREGISTERED) or scope not in ('', *SCOPES):
            raise ValueError(
                f'the config in the checkpoint {checkpoint} has the type {node["type"]!r}, which is no part of '
                f'{", ".join(SCOPES)}: if you trust it, give the config file too'
            )
        if node.get('pretrained'):  # the weights come from the checkpoint: nothing is to be downloaded
            node['pretrained'] = None if isinstance(node['pretrained'], str) else False


def lower_nms(model: dict, nms_iou: float | None) -> None:
    """Lower the IoU threshold of NMS in a model config to ``nms_iou``; one that is lower already stays."""
    if nms_iou is None:
        return
    if not 0 < nms_iou <= 1:
        raise ValueError(f'nms_iou must be above 0 and at most 1, or None for that of the config, got {nms_iou}')
    test_cfg = model.get('test_cfg') or {}
    for part in (test_cfg, test_cfg.get('rcnn') or {}, (model.get('bbox_head') or {}).get('test_cfg') or {}):
        nms = part.get('nms') or {}
        if nms.get('iou_threshold', 0) > nms_iou:
            nms['iou_threshold'] = nms_iou


def _build(model_cfg: dict, saved: dict, path: str) -> nn.Module:
    """Return the model with every weight from the checkpoint."""
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    report, _ = fit(model, saved, start_anew=False)
    if report.missing or report.reshaped:
        raise ValueError(f'the checkpoint {path} does not fit the config: {report}')
    model.load_state_dict(saved.get('state_dict', saved), strict=False)
    check_finite(model.state_dict(), path)
    return model


def _class_names(saved_meta: dict, dataset: dict) -> tuple[str, ...]:
    classes = {key.lower(): value for key, value in saved_meta.items()}.get('classes') or class_names_of(dataset)
    if not classes:
        raise ValueError("neither the checkpoint nor the config names the classes: set class_names=('cat', 'dog')")
    return tuple(classes)


def class_names_of(dataset: dict) -> tuple[str, ...] | None:
    """Return the class names in the ``metainfo`` of a dataset config, else those of its type; None without any."""
    with DATASETS.switch_scope_and_registry(None) as registry:  # as building does, which finds names of mmdet
        own = getattr(registry.get(dataset['type']), 'METAINFO', {}).get('classes')
    classes = (dataset.get('metainfo') or {}).get('classes') or own
    return (classes,) if isinstance(classes, str) else tuple(classes) if classes else None
