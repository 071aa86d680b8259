"""Detectors with seeded weights whose outputs differ from place to place, as those of trained ones do."""

import numpy as np
import torch
from mmengine.registry import init_default_scope
from tiny_coco import REPO
from torch import nn

from mmyolo_ext.apis import load_config
from mmyolo_ext.registry import MODELS

LETTERBOX = {'pad_val': 114, 'centred': False, 'allow_upscale': True, 'interpolation': 'bilinear'}
SOFTMAX = {'type': 'CrossEntropyLoss', 'use_sigmoid': False, 'loss_weight': 0.5}


def build(config: str, softmax: bool = False, **options: object) -> nn.Module:
    """The detector of a config in eval mode; ``options`` go into its ``model``, dots written as two underscores."""
    cfg = load_config(REPO / 'configs' / config)
    cfg.merge_from_dict({f'model.{key.replace("__", ".")}': value for key, value in options.items()})
    if softmax:
        cfg.model.bbox_head.loss_cls = SOFTMAX
    init_default_scope('mmdet')
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model).eval()
    stir(detector)
    return detector


def stir(detector: nn.Module) -> None:
    """Statistics of the batch norms away from 0 and 1; outputs of the head of a spread that sigmoid keeps."""
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        feats = detector.extract_feat(torch.from_numpy(random_images(1, 128, 128)))
        for conv, feat in zip(detector.bbox_head.convs_pred, feats, strict=True):
            conv.weight *= 1.5 / conv(feat).std()
            nn.init.normal_(conv.bias, -1.0, 0.5)


def random_images(count: int, height: int, width: int) -> np.ndarray:
    """Noise of several scales, normalised: (N, 3, H, W) float32."""
    rng = np.random.default_rng(height * width)
    coarse = rng.random((count, 3, height // 16, width // 16)).repeat(16, axis=2).repeat(16, axis=3)
    return (0.7 * coarse + 0.3 * rng.random((count, 3, height, width))).astype(np.float32)


def settle(detector: nn.Module, images: np.ndarray) -> None:
    """Fit batch norms and head to images (N, 3, H, W), so that every output differs among places and images.

    Where layers are many, :func:`stir` leaves little of the image at their end, and the same boxes everywhere.
    """
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all that is seen, here one batch
    with torch.no_grad():
        detector.train().extract_feat(torch.from_numpy(images))
        for norm in norms:
            # channels that hardly vary would be blown up, layer after layer, and rounding with them
            norm.running_var.clamp_(min=float(norm.running_var.mean()))
        feats = detector.eval().extract_feat(torch.from_numpy(images))
        for conv, feat in zip(detector.bbox_head.convs_pred, feats, strict=True):
            raw = conv(feat)
            scale, mean = 1.5 / raw.std(dim=(0, 2, 3)).mean(), raw.mean(dim=(0, 2, 3))
            conv.weight *= scale
            conv.bias.copy_((conv.bias - mean) * scale + torch.empty_like(mean).normal_(-1.0, 0.5))
