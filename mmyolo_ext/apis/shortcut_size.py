"""The shortcut ``input_size``: every size in pipelines, ours and mmdet's, in the head and in test-time views."""

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import kind, walk

# arguments that hold the input's (height, width), as ours do
HEIGHT_WIDTH = {
    **dict.fromkeys(('Mosaic', 'RandomAffine', 'MosaicAffine', 'CachedDataset', 'RectBatchDataset'), 'size'),
    'Letterbox': 'size_hw',
}
# and those of mmdet and mmcv, which write (width, height)
WIDTH_HEIGHT = {
    **dict.fromkeys(('Mosaic', 'CachedMosaic', 'MixUp', 'CachedMixUp'), 'img_scale'),
    'RandomCrop': 'crop_size',
    'Pad': 'size',
    'Resize': 'scale',
}
# what tells the size that a pipeline of training ends with, whatever it resizes to before
FINAL_SIZES = ('crop_size', 'img_scale', 'size')


def set_input_size(cfg: Config, size: int | list | tuple) -> None:
    """Bring every size to ``size`` px: one side of a square, or (height, width).

    A range of sizes (jitter of the scale, of whole batches) keeps its ratio to the input.

    Raises:
        ValueError: ``size`` is not made of multiples of the largest stride.
    """
    size_hw = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    stride = _largest_stride(cfg)
    if len(size_hw) != 2 or not all(isinstance(side, int) and side > 0 and side % stride == 0 for side in size_hw):
        raise ValueError(f'input_size must be one or two multiples of {stride}, the largest stride, got {size!r}')
    views = cfg.pop('tta_pipeline', None)
    old_test_hw = _old_size_hw(cfg, 'val_dataloader')
    old_hw = _old_train_hw(cfg) or old_test_hw
    for node in walk(cfg._cfg_dict):
        _set_node(node, size_hw, old_hw)
    head = cfg.model.get('bbox_head')
    if isinstance(head, dict) and (kind(head) in ('YOLOv5Head', 'YOLOv3Head') or 'input_size' in head):
        head['input_size'] = size_hw[0] if size_hw[0] == size_hw[1] else size_hw
    if 'img_scale' in cfg:  # a variable that the config has used already
        cfg.img_scale = size_hw[::-1]
    if views is not None:
        _scale_views(views, size_hw, old_test_hw, stride)
        cfg.tta_pipeline = views


def _set_node(node: dict, size_hw: tuple[int, int], old_hw: tuple[int, int] | None) -> None:
    name, height, width = kind(node), *size_hw
    ours, theirs = HEIGHT_WIDTH.get(name), WIDTH_HEIGHT.get(name)
    if ours in node:
        node[ours] = size_hw
    elif str(node.get('type')).startswith('mmyolo_ext.'):
        return
    elif theirs == 'img_scale' or _holds_pixels(node.get(theirs)):
        node[theirs] = (width, height)
    elif name == 'RandomAffine' and any(node.get('border') or ()):
        node['border'] = (-width // 2, -height // 2)  # takes half of a mosaic's double canvas off each side
    elif name in ('RandomResize', 'RandomChoiceResize', 'BatchSyncRandomResize') and old_hw:
        _set_range(node, name, (width / old_hw[1], height / old_hw[0]))


def _holds_pixels(value: object) -> bool:
    """Whether a size is given in px, not as shares of the picture, nor left out."""
    return isinstance(value, (list, tuple)) and all(isinstance(side, int) for side in value)


def _set_range(node: dict, name: str, ratio_wh: tuple[float, float]) -> None:
    def scaled(scale: list | tuple, divisor: int = 1) -> tuple:
        sides = zip(scale, ratio_wh, strict=True)
        return tuple(max(round(side * ratio / divisor), 1) * divisor for side, ratio in sides)

    if name == 'BatchSyncRandomResize':
        node['random_size_range'] = scaled(node['random_size_range'], node['size_divisor'])
    elif name == 'RandomChoiceResize':
        node['scales'] = [scaled(scale) for scale in node['scales']]
    elif _holds_pixels(node.get('scale')):
        node['scale'] = scaled(node['scale'])
    elif node.get('scale'):
        node['scale'] = [scaled(scale) for scale in node['scale']]


def _old_train_hw(cfg: Config) -> tuple[int, int] | None:
    """The size that training's pictures end with."""
    for node in walk(cfg.get('train_dataloader')):
        for argument in FINAL_SIZES:
            if _holds_pixels(node.get(argument)):
                theirs = WIDTH_HEIGHT.get(kind(node)) == argument
                return tuple(node[argument][::-1] if theirs else node[argument])
    return _old_size_hw(cfg, 'train_dataloader')


def _old_size_hw(cfg: Config, loader: str) -> tuple[int, int] | None:
    """The size that a letterbox or a resize leads to."""
    for node in walk(cfg.get(loader)):
        if kind(node) == 'Letterbox':
            size = node['size_hw']
            return (size, size) if isinstance(size, int) else tuple(size)
        if kind(node) == 'Resize' and _holds_pixels(node.get('scale')):
            return tuple(node['scale'][::-1])
    return None


def _scale_views(views: list, size_hw: tuple, old_hw: tuple | None, stride: int) -> None:
    for node in walk(views) if old_hw else ():
        name = kind(node)
        key = 'size_hw' if name == 'Letterbox' else WIDTH_HEIGHT.get(name)
        if name in ('Letterbox', 'Resize', 'Pad') and _holds_pixels(node.get(key)):
            order = 1 if name == 'Letterbox' else -1
            sides = zip(node[key], size_hw[::order], old_hw[::order], strict=True)
            node[key] = tuple(max(round(side * new / old / stride), 1) * stride for side, new, old in sides)


def _largest_stride(cfg: Config) -> int:
    strides = (cfg.model.get('bbox_head') or {}).get('prior_generator', {}).get('strides') or [32]
    return max(max(s) if isinstance(s, (list, tuple)) else s for s in strides)
