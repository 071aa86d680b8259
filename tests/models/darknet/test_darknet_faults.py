"""Faulty .cfg files: the error names the file and the line."""

import pytest
from darknet_files import EVERY_SECTION, write

from mmyolo_ext.models.darknet.cfg import ACTIVATIONS, KINDS, read_graph

LINES = EVERY_SECTION.splitlines()


def line_of(text: str, nth: int = 1) -> int:
    return [number for number, line in enumerate(LINES, 1) if line.startswith(text)][nth - 1]


# (line to change, which one of that beginning, what stands there instead, line of the fault if another, message)
FAULTS = [
    ('[maxpool]', 1, '[maxpol]', None, r'\[maxpol\] is an unknown section, must be one of .*maxpool'),
    ('[maxpool]', 1, '[maxpool', None, r'a section starts with \[name\]'),
    ('stride=2', 1, 'strid=2', None, "strid is an unknown field, must be one of .*'stride'"),
    ('stride=2', 1, 'stride=two', None, "whole number from 1 to .*, got 'two'"),
    ('stride=2', 1, 'stride=0', None, "from 1 to .*, got '0'"),
    ('stride=2', 1, 'stride', None, "expected name=value, got 'stride'"),
    ('stride=2', 1, 'size=3', None, 'size is given twice'),
    ('filters=8', 1, 'size=3', line_of('size=3'), f'size is given twice, first in line {line_of("filters=8")}'),
    ('filters=8', 1, '', line_of('[convolutional]'), 'filters must be .* missing'),
    ('activation=leaky', 1, 'activation=selu', None, "activation must be one of .*'mish'.*got 'selu'"),
    ('pad=1', 1, 'pad=2', None, "pad must be a whole number from 0 to 1, got '2'"),
    ('stride_y=1', 1, 'stride_y=0', None, "stride_y must be a whole number from 1 to .*, got '0'"),
    ('size=3', 1, 'size=3,0', None, r'size must be a whole number from 1 to 1000, got \[3, 0\]'),
    ('size=3', 1, 'size=3,4', None, r'several sizes must be odd.* and need pad=1, got \[3, 4\]'),
    ('size=3', 3, 'size=3,5', None, 'several sizes must be odd.* and need pad=1'),
    ('probability', 1, 'probability=1', None, r'probability must be a number from 0 to below 1, got \[1.0\]'),
    ('probability', 1, 'probability=.5,.5', None, 'from 0 to below 1'),
    (
        'probability',
        1,
        'probability=.5\ndropblock=1',
        line_of('probability') + 1,
        'dropblock=1 is not supported, only 0',
    ),
    ('probability', 1, '', line_of('[dropout]'), 'probability must be .* missing'),
    ('pad=1', 1, 'dilation=2', None, 'dilation=2 is not supported, only 1'),
    ('groups=4', 1, 'groups=3', None, 'groups=3 must divide the 16 input channels'),
    ('group_id=1', 1, 'group_id=2', None, 'group_id must be below groups=2, got 2'),
    ('groups=2', 1, 'groups=5', None, 'groups=5 must divide the channels of every input, got 16'),
    (
        'from=-2',
        1,
        'from=-9',
        None,
        r'refers to -9, which is layer -5; this is layer 4, and those before it are 0 to 3',
    ),
    ('from=-2', 1, 'from=0', None, r'one size, got 16 x 24, 64 x 96'),
    ('from=-2', 1, 'from=a', None, 'numbers with commas'),
    ('from=-2,4', 1, 'from=-2,7', None, 'refers to 7, which is layer 7; this is layer 7'),
    ('layers=-1,7', 1, 'layers=-1,8', None, 'one size, got 16 x 24, 8 x 12'),
    ('weights_type=per_feature', 1, 'weights_type=per_map', None, 'weights_type must be one of'),
    ('mask=3,4,5', 1, 'mask=3,4,6', None, r'mask must be distinct numbers from 0 to 5, got \[3, 4, 6\]'),
    ('mask=3,4,5', 1, 'mask=3,3,5', None, 'distinct'),
    ('anchors', 1, 'anchors=1,2,3', None, 'pairs of a positive width and height'),
    ('ignore_thresh', 1, 'scale_x_y=1.05', None, 'scale_x_y=1.05 is not supported'),
    ('filters=21', 1, 'filters=255', None, r'filters must be masks \* \(5 \+ classes\) = 3 \* \(5 \+ 2\) = 21'),
    ('classes=2', 2, 'classes=3', line_of('filters=21', 2), r'3 \* \(5 \+ 3\) = 24'),
    ('height=64', 1, 'height=60', line_of('layers=-1,7'), 'one size, got 16 x 24, 15 x 24'),
    ('height=64', 1, 'height=0', None, 'height must be'),
    ('height=64', 1, '', line_of('[net]'), 'height must be .* missing'),
    ('[net]', 1, '[yolo]', 1, r'must start with \[net\]'),
]


@pytest.mark.parametrize(('old', 'nth', 'new', 'fault', 'message'), FAULTS, ids=[f'{f[0]}->{f[2]}' for f in FAULTS])
def test_a_fault_is_named_with_its_line(tmp_path, old: str, nth: int, new: str, fault: int | None, message: str):
    changed = line_of(old, nth)
    path = write(tmp_path, '\n'.join([*LINES[: changed - 1], new, *LINES[changed:]]))
    with pytest.raises(ValueError, match=message) as error:
        read_graph(path)
    assert str(error.value).startswith(f'{path}:{fault or changed}:'), error.value


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'yolo'])
def test_unknown_fields_of_layers_raise(tmp_path, kind: str) -> None:
    head = line_of(f'[{kind}]')
    path = write(tmp_path, '\n'.join([*LINES[:head], 'nonsense=1', *LINES[head:]]))
    with pytest.raises(ValueError, match=rf'\[{kind}\] nonsense is an unknown field') as error:
        read_graph(path)
    assert str(error.value).startswith(f'{path}:{head + 1}:'), error.value


def test_the_file_of_the_tests_has_every_field_that_is_read(tmp_path) -> None:
    sections = [layer.section for layer in read_graph(write(tmp_path, EVERY_SECTION)).layers]
    for kind in KINDS:
        same_kind = [section for section in sections if section.kind == kind]
        assert set().union(*(section.known - section.fields.keys() for section in same_kind)) <= set().union(
            *(section.fields for section in same_kind)
        )
    activations = {section.fields['activation'][0] for section in sections if 'activation' in section.fields}
    assert activations == set(ACTIVATIONS)


NET = '[net]\nwidth=64\nheight=64\n'
CONV = '[convolutional]\nfilters=18\nactivation=linear\n'
YOLO = '[yolo]\nanchors=1,2, 3,4, 5,6\nclasses=1\n'


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        ('', 1, r'must start with \[net\]'),
        ('width=3', 1, r'must start with \[net\]'),
        (CONV, 1, r'must start with \[net\]'),
        (NET, 1, r'no \[yolo\]'),
        (NET + NET, 4, 'is there twice'),
        (NET + YOLO, 4, 'before it is nothing'),
        (NET + CONV + YOLO, 7, 'not the first layer'),
        (NET + CONV + CONV.replace('linear', 'leaky') + YOLO, 10, r'must follow .* before it is layer 1 .*line 7'),
        (NET + CONV + CONV + 'size=3\npad=1\n' + YOLO, 12, 'must follow'),
        (NET + CONV + CONV + 'batch_normalize=1\n' + YOLO, 11, 'must follow'),
        (NET + CONV + CONV + YOLO + CONV, 13, r'takes the output of layer 2 \(\[yolo\], line 10\)'),
        (NET + CONV + CONV + YOLO + '[route]\nlayers=1\n', 13, r'takes the output of layer 1'),
        (NET + '[route]\nlayers=-1\n', 5, 'before it are none'),
        (NET + CONV + 'size=65\n' + CONV + YOLO, 4, 'nothing is left of the map'),
        (NET + CONV + 'stride=3\n' + CONV + YOLO, 11, 'stride must be one whole number'),
        (
            NET + CONV + CONV + YOLO + '[route]\nlayers=0\n' + CONV + YOLO.replace('=1\n', '=2\n'),
            16,
            r'= 3 \* \(5 \+ 2\) = 21',
        ),
        (
            NET + CONV + CONV + YOLO + '[route]\nlayers=0\n' + CONV.replace('18', '21') + YOLO.replace('=1\n', '=2\n'),
            18,
            r'classes and anchors \(2, 3\), but the \[yolo\] of line 10 has \(1, 3\)',
        ),
        (
            NET + CONV + CONV + YOLO + '[route]\nlayers=0\n' + CONV.replace('18', '12') + YOLO + 'mask=0,1\n',
            18,
            r'\(1, 2\).* all must have the same',
        ),
    ],
)
def test_a_file_that_does_not_fit_together(tmp_path, text: str, line: int, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        read_graph(path)
    assert str(error.value).startswith(f'{path}:{line}:'), error.value


def test_other_names_of_sections(tmp_path) -> None:
    text = (NET + CONV + '[maxpool]\nsize=2\nstride=2\n' + CONV + YOLO).replace('convolutional', 'conv')
    text = text.replace('maxpool', 'max').replace('[net]', '[network]')
    assert [layer.section.kind for layer in read_graph(write(tmp_path, text)).layers] == [
        'convolutional',
        'maxpool',
        'convolutional',
        'yolo',
    ]


def test_no_such_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='none.cfg'):
        read_graph(tmp_path / 'none.cfg')
