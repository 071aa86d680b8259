"""Check that names are counted by kind and listed."""

import pytest
import torch

from mmyolo_ext.checkpoint.matching import LoadReport

WANTED = {
    'stem.conv.weight': torch.zeros(2, 3, 1, 1),
    'stem.bn.weight': torch.zeros(2),
    'stem.bn.bias': torch.zeros(2),
    'stem.bn.num_batches_tracked': torch.tensor(0),
    'scale': torch.zeros(()),
}
GIVEN = {
    'head.weight': torch.zeros(5),
    'stem.conv.weight': torch.zeros(2, 4, 1, 1),
    'stem.bn.weight': torch.zeros(2),
    'head.bn.num_batches_tracked': torch.tensor(0),
}


def test_each_name_is_of_one_kind() -> None:
    report = LoadReport.of(WANTED, GIVEN)
    assert report.matched == ('stem.bn.weight',)
    assert report.missing == ('stem.bn.bias', 'scale')
    assert report.unexpected == ('head.weight',)
    assert report.reshaped == {'stem.conv.weight': ((2, 3, 1, 1), (2, 4, 1, 1))}
    assert not report.complete


def test_sentence_counts_and_gives_examples() -> None:
    assert str(LoadReport.of(WANTED, GIVEN)) == (
        '1 of 4 tensors match, 2 are missing (stem.bn.bias, scale), 1 have another shape (stem.conv.weight; the first '
        'is (2, 3, 1, 1) in the model, (2, 4, 1, 1) in the checkpoint), 1 are not in the model (head.weight)'
    )


def test_table_lists_every_name_by_layer() -> None:
    assert LoadReport.of(WANTED, GIVEN).table().split('\n') == [
        'missing in the checkpoint:',
        '  stem.bn: bias',
        '  (top): scale',
        'of another shape:',
        '  stem.conv: weight (2, 3, 1, 1), in the checkpoint (2, 4, 1, 1)',
        'not in the model:',
        '  head: weight',
    ]


def test_a_layer_takes_one_line() -> None:
    bigger = {name: torch.zeros(7) for name in WANTED}
    assert LoadReport.of(WANTED, {}).table().split('\n')[1:3] == ['  stem.conv: weight', '  stem.bn: weight, bias']
    assert '  stem.bn: weight (2,), in the checkpoint (7,); bias (2,), in' in LoadReport.of(WANTED, bigger).table()


def test_the_same_names_and_shapes_are_complete() -> None:
    report = LoadReport.of(WANTED, WANTED)
    assert report.complete
    assert report.table() == ''
    assert str(report) == '4 of 4 tensors match'
    assert LoadReport.of({}, {}).complete


def test_what_is_left_over_is_not_complete() -> None:
    report = LoadReport.of(WANTED, {**WANTED, 'more.weight': torch.zeros(1)})
    assert len(report.matched) == 4
    assert not report.complete


@pytest.mark.parametrize('value', [None, [1.0, 2.0], 'text'])
def test_a_value_that_is_no_tensor_is_named_by_its_type(value: object) -> None:
    report = LoadReport.of({'a': torch.zeros(2)}, {'a': value})
    assert report.reshaped == {'a': ((2,), f'a {type(value).__name__}')}
