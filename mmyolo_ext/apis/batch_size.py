"""Choose the batch size by the memory of the GPU: ``batch_size = 'auto'``."""

import math
import os
from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmyolo_ext.apis.config_nodes import get_path
from mmyolo_ext.apis.recipe import Choice
from mmyolo_ext.apis.shortcuts import resized_hw
from mmyolo_ext.registry import MODELS

SHARE = 0.7  # of the free memory; the rest is for larger batches of boxes, validation and fragments
MOST = 512  # images
BOXES = 32  # for each image that is measured


def largest_batch(used_gb: Callable[[int], float], limit_gb: float, most: int = MOST) -> int:
    """Return the largest batch of 1, 2, 4 or a multiple of 8 images that fits.

    Args:
        used_gb: Memory of a training step with so many images, GB; infinite if there is not enough. It is called some
            seven times.
        limit_gb: Memory that may be used, GB.
        most: Upper limit, images.

    Raises:
        ValueError: If a single image does not fit.
    """
    sizes = [size for size in (1, 2, 4, *range(8, most + 1, 8)) if size <= most]
    fitting = bisect_left(sizes, True, key=lambda size: used_gb(size) > limit_gb)
    if not fitting:
        raise ValueError(
            f"batch_size='auto': a training step with one image needs more than {limit_gb:.1f} GB, {SHARE:.0%} of the "
            'free memory of the GPU: choose a smaller model or img_scale'
        )
    return sizes[fitting - 1]


def set_batch_size(cfg: Config) -> Choice:
    """Set the batch size of training to the largest that fits into the GPU, but no more than the images of a step.

    Without a GPU the batch size of the config stays. The choice is added to ``cfg.chosen_recipe``.

    Raises:
        ValueError: If there are several processes, or one image does not fit.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        raise ValueError(
            f"batch_size='auto' needs one process, got {os.environ['WORLD_SIZE']}: set a number of images"
        )
    loader, device = cfg.train_dataloader, torch.device(get_device())
    if device.type != 'cuda':
        choice = Choice('train_dataloader.batch_size', loader.batch_size, 'there is no GPU to measure')
    else:
        free_gb = torch.cuda.mem_get_info()[0] / 1e9
        fits = largest_batch(step_memory(cfg, device), SHARE * free_gb)
        nominal = get_path(cfg, 'default_hooks.accumulate.nominal_batch_size') or fits
        reason = f'{fits} images fit into {SHARE:.0%} of {free_gb:.1f} GB, a step has {nominal}'
        choice = Choice('train_dataloader.batch_size', min(fits, nominal), reason)
    loader.batch_size = choice.value
    others = [one for one in cfg.get('chosen_recipe') or () if one['path'] != choice.path]
    cfg.chosen_recipe = [choice._asdict(), *others]
    return choice


def step_memory(cfg: Config, device: torch.device) -> Callable[[int], float]:
    """Return a function that runs two training steps with so many images and returns their peak memory, GB.

    Images and boxes are random, of the input size of the config. The weights of an EMA are added.
    """
    height, width = resized_hw(cfg, 'val_dataloader') or (640, 640)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
        model = MODELS.build(deepcopy(cfg.model)).to(device).train()
        wrapper = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
    average_gb = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e9

    def used_gb(batch: int) -> float:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            for _ in range(2):
                model.train_step(random_batch(batch, height, width), wrapper)
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            wrapper.zero_grad()
        return torch.cuda.max_memory_reserved(device) / 1e9 + average_gb

    return used_gb


def random_batch(batch: int, height: int, width: int) -> dict:
    """Return a batch of random images with random boxes of class 0, as a dataloader does."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
    samples = []
    for _ in range(batch):
        corners = torch.rand(2, BOXES, 2, generator=generator) * torch.tensor([width, height])
        boxes_xyxy = torch.cat([corners.amin(0), corners.amax(0)], 1)
        instances = InstanceData(bboxes=boxes_xyxy, labels=torch.zeros(BOXES, dtype=torch.long))
        shape = {'img_shape': (height, width), 'ori_shape': (height, width), 'batch_input_shape': (height, width)}
        sample = DetDataSample(metainfo={**shape, 'pad_shape': (height, width), 'scale_factor': (1.0, 1.0)})
        sample.gt_instances, sample.ignored_instances = instances, instances[:0]
        samples.append(sample)
    return {'inputs': inputs, 'data_samples': samples}
