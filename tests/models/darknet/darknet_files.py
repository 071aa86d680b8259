"""Darknet .cfg files of the tests."""

from pathlib import Path

# Every kind of section, and every field that is read. Numbers after # are the layer's, and what comes out at 64 x 96.
EVERY_SECTION = """\
# a comment
[net]
; another
batch=4
learning_rate = 0.001
width=96
height=64
channels=3

[convolutional]  # 0: 8 x 64 x 96
batch_normalize=1
filters=8
size=3
stride=1
stride_x=1
stride_y=1
pad=1
activation=leaky

[maxpool]  # 1: 8 x 32 x 48
size=2
stride=2
stride_x=2
stride_y=2

[convolutional]  # 2: 16 x 16 x 24
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=swish

[convolutional]  # 3, in four groups: 16 x 16 x 24
batch_normalize=1
filters=16
size=3
groups=4
padding=1
activation=mish

[shortcut]  # 4 = 3 + 2: 16 x 16 x 24
from=-2
activation=linear

[route]  # 5, the second half of 4: 8 x 16 x 24
layers=-1
groups=2
group_id=1

[convolutional]  # 6: 24 x 16 x 24
filters=24
size=1
activation=relu

[shortcut]  # 7 = 6 + 5 + 4, of 24, 8 and 16 channels: 24 x 16 x 24
from=-2,4
activation=leaky
weights_type=per_feature

[convolutional]  # 8: 32 x 8 x 12
batch_normalize=1
filters=32
size=3
stride=2
pad=1
activation=leaky

[maxpool]  # 9: 32 x 8 x 12
size=2
stride=1
padding=1

[convolutional]  # 10: 21 x 8 x 12
filters=21
size=1
activation=linear

[yolo]  # 11, stride 8
mask=3,4,5
anchors = 4,5,  8,9,  12,20,  20,16,  30,40,  60,50
classes=2
num=6
ignore_thresh=.7

[route]  # 12: 32 x 8 x 12
layers=-3

[upsample]  # 13: 32 x 16 x 24
stride=2

[route]  # 14, absolute and negative: 32 + 24 = 56 x 16 x 24
layers=-1,7

[convolutional]  # 15: 16 x 16 x 24
batch_normalize=1
filters=16
size=1
activation=logistic

[shortcut]  # 16 = 15 + 14, of 16 and 56 channels: 16 x 16 x 24
from=-2
weights_type=per_channel
weights_normalization=softmax

[convolutional]  # 17: 21 x 16 x 24
filters=21
size=1
activation=linear

[yolo]  # 18, stride 4
mask=0,1,2
anchors = 4,5,  8,9,  12,20,  20,16,  30,40,  60,50
classes=2
num=6

[route]  # 19: 16 x 16 x 24
layers=16

[dropout]  # 20, which nothing takes: 16 x 16 x 24
probability=.5
"""

_CONV = '[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride=1\npad=1\nactivation=leaky\n'
_POOL = '[maxpool]\nsize=2\nstride={}\n'
_YOLO = """\
[convolutional]
size=1
stride=1
pad=1
filters={filters}
activation=linear

[yolo]
mask={mask}
anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319
classes={classes}
num=6
jitter=.3
"""


def tiny(classes: int = 80) -> str:
    """YOLOv3-tiny, from the table of its layers as published."""
    filters = 3 * (5 + classes)
    parts = ['[net]\nwidth=416\nheight=416\nchannels=3\nmomentum=0.9\n']
    for width in (16, 32, 64, 128, 256):  # layers 0 to 9; 8 is the last convolution, of stride 16
        parts += [_CONV.format(width, 3), _POOL.format(2)]
    parts += [_CONV.format(512, 3), _POOL.format(1), _CONV.format(1024, 3)]  # 10 to 12
    parts += [_CONV.format(256, 1), _CONV.format(512, 3)]  # 13, 14
    parts += [_YOLO.format(filters=filters, mask='3,4,5', classes=classes)]  # 15, 16
    parts += ['[route]\nlayers=-4\n', _CONV.format(128, 1), '[upsample]\nstride=2\n', '[route]\nlayers=-1,8\n']
    parts += [_CONV.format(256, 3), _YOLO.format(filters=filters, mask='0,1,2', classes=classes)]  # 21 to 23
    return '\n'.join(parts)


def yolov3() -> str:
    """YOLOv3 at 80 classes, from table 1 of arXiv 1804.02767 and the layers after it as published."""
    parts = ['[net]\nwidth=608\nheight=608\nchannels=3\nburn_in=1000\n', _CONV.format(32, 3)]
    for width, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        parts.append(_CONV.format(width, 3).replace('stride=1', 'stride=2'))
        block = _CONV.format(width // 2, 1) + _CONV.format(width, 3) + '[shortcut]\nfrom=-3\nactivation=linear\n'
        parts += [block] * blocks
    for width, mask, skip in ((512, '6,7,8', 61), (256, '3,4,5', 36), (128, '0,1,2', None)):
        parts += [_CONV.format(width, 1) + _CONV.format(2 * width, 3)] * 3
        parts.append(_YOLO.format(filters=255, mask=mask, classes=80).replace('num=6', 'num=9'))
        if skip is not None:
            parts += ['[route]\nlayers=-4\n', _CONV.format(width // 2, 1), '[upsample]\nstride=2\n']
            parts.append(f'[route]\nlayers=-1,{skip}\n')
    anchors = '10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326'
    return '\n'.join(parts).replace('10,14, 23,27, 37,58, 81,82, 135,169, 344,319', anchors)


def write(folder: Path, text: str, name: str = 'net.cfg') -> Path:
    path = folder / name
    path.write_text(text)
    return path
