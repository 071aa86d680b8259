"""What does not fit is named on both sides before the first step."""

import pytest
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from torch import nn
from toy_runner import ToyDataset, ToyModel, toy_runner

from mmyolo_ext.engine.fit_checks import class_names, head_classes
from mmyolo_ext.engine.hooks.preflight import check_same_classes
from mmyolo_ext.engine.preflight_data import Split, check_split

PREFLIGHT = ({'type': 'mmyolo_ext.PreflightHook'},)
REPORT = PREFLIGHT


class Labelled(ToyDataset):
    """``labels[i]`` are the labels of image i."""

    def __init__(self, labels: list[list[int]], classes=('a', 'b')) -> None:
        super().__init__(len(labels))
        self.labels = labels
        self.metainfo = {'classes': classes}

    def get_data_info(self, index: int) -> dict:
        return {'instances': [{'bbox': [0, 0, 9, 9], 'bbox_label': label} for label in self.labels[index]]}


class Wrapper:
    def __init__(self, dataset) -> None:
        self.dataset = dataset
        self.metainfo = dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)


def headed(num_classes: int) -> ToyModel:
    model = ToyModel()
    model.bbox_head = nn.Identity()
    model.bbox_head.num_classes = num_classes
    return model


def test_a_head_with_other_classes_than_the_data_stops_the_training(tmp_path):
    with pytest.raises(
        ValueError, match=r"num_classes=80.*training data set names 2 classes \('a', 'b'\).*class_names"
    ):
        toy_runner(tmp_path, model=headed(80), hooks=PREFLIGHT).train()


def test_what_fits_passes(tmp_path):
    toy_runner(tmp_path, model=headed(2), dataset=Labelled([[0], [], [1]]), hooks=PREFLIGHT, max_epochs=1).train()


def test_training_without_a_box_stops(tmp_path):
    with pytest.raises(ValueError, match=r"Labelled: no training image has a box.*\('a', 'b'\)"):
        toy_runner(tmp_path, model=headed(2), dataset=Labelled([[], [], []]), hooks=PREFLIGHT).train()


def test_labels_beyond_the_classes_are_named():
    split = Split(Wrapper(Labelled([[0, 2], [-1], [1]])), 'training')
    assert check_split(split) == [(True, 'Labelled: the labels [-1, 2] are out of range, there are 2 classes')]


def test_validation_must_name_the_same_classes_in_the_same_order():
    check_same_classes(Labelled([[0]]), Labelled([[0]]))
    with pytest.raises(ValueError, match=r"training names the classes \('a', 'b'\), validation \('b', 'a'\)"):
        check_same_classes(Labelled([[0]]), Labelled([[0]], ('b', 'a')))


@pytest.mark.parametrize(('classes', 'expected'), [(['a'], ('a',)), ('cell', ('cell',)), (None, None)])
def test_class_names(classes, expected):
    assert class_names(Labelled([], classes)) == expected


class Averaged(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


def test_heads_are_found_in_every_place():
    assert list(head_classes(headed(3))) == [('bbox_head', 3)]
    assert list(head_classes(Averaged(headed(3)))) == [('bbox_head', 3)]
    cascade = nn.Module()
    cascade.roi_head = nn.Module()
    cascade.roi_head.bbox_head = nn.ModuleList([headed(4).bbox_head, headed(5).bbox_head])
    assert list(head_classes(cascade)) == [('roi_head.bbox_head', 4), ('roi_head.bbox_head', 5)]
    assert list(head_classes(nn.Linear(1, 1))) == []


def test_shortcuts_that_were_never_applied_stop_the_run(tmp_path):
    runner = toy_runner(tmp_path, hooks=PREFLIGHT)
    runner.cfg = Config({'class_names': ('a',), 'lr': 1})
    with pytest.raises(ValueError, match=r"\['class_names'\].*load_config"):
        runner.train()


@pytest.fixture
def checkpoint(tmp_path):
    toy_runner(tmp_path / 'first', max_epochs=1).train()
    return str(tmp_path / 'first' / 'epoch_1.pth')


def other_head() -> ToyModel:
    model = ToyModel()
    model.linear = nn.Linear(9, 2)
    return model


def test_training_may_start_from_a_checkpoint_with_another_head(tmp_path, checkpoint):
    runner = toy_runner(tmp_path / 'next', model=other_head(), hooks=REPORT, max_epochs=1, load_from=checkpoint)
    runner.train()


def test_resuming_needs_every_tensor(tmp_path, checkpoint):
    settings = {'max_epochs': 2, 'load_from': checkpoint, 'resume': True}
    with pytest.raises(ValueError, match=r'6 of 8 tensors match, 2 have another shape \(linear.weight, linear.bias;'):
        toy_runner(tmp_path / 'next', model=other_head(), hooks=REPORT, **settings).train()


def test_a_checkpoint_of_another_model_is_an_error(tmp_path, checkpoint):
    model = ToyModel()
    model.__dict__['_modules'] = {'data_preprocessor': model.data_preprocessor, 'other': nn.Linear(1, 1)}
    with pytest.raises(ValueError, match='0 of 2 tensors match'):
        toy_runner(tmp_path / 'next', model=model, hooks=REPORT, load_from=checkpoint).train()
