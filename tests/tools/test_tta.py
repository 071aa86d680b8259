"""Views of a picture are mapped back to it: a detector that cannot err must find the same box in each."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData
from tiny_coco import COLOURS, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.shortcuts import leaf_datasets

GREY = 114 / 255
RULE = {'nms': {'type': 'nms', 'iou_threshold': 0.65}, 'max_per_img': 300}


class RedFinder(torch.nn.Module):
    """Finds the red square in what the network would see, and maps it back by ``scale_factor`` as heads do."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__()
        self.data_preprocessor = MODELS.build(data_preprocessor)
        self.seen: list[torch.Tensor] = []

    def test_step(self, data: dict) -> list:
        data = self.data_preprocessor(data)
        red = torch.tensor(COLOURS[0][::-1]).view(3, 1, 1) / 255
        for picture, sample in zip(data['inputs'], data['data_samples'], strict=True):
            self.seen.append(picture)
            rows, columns = torch.nonzero((picture - red).abs().amax(0) < 0.15, as_tuple=True)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            box = torch.tensor([edges], dtype=torch.float32) / torch.tensor(sample.scale_factor * 2)
            sample.pred_instances = InstanceData(bboxes=box, scores=torch.ones(1), labels=torch.zeros(1).long())
        return data['data_samples']


@pytest.fixture(scope='module')
def views(tmp_path_factory):
    """(config, dataset) with four scales' worth of room: pictures of 64 px shown at 128, 160 and 192."""
    folder = tmp_path_factory.mktemp('tta')
    config = write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data', background=()))
    cfg = load_config(config, {'input_size': 160})
    init_default_scope('mmdet')
    (dataset,) = leaf_datasets(cfg.test_dataloader.dataset)
    dataset.pipeline = cfg.tta_pipeline
    return cfg, DATASETS.build(cfg.test_dataloader.dataset)


def test_every_view_gives_the_box_of_the_picture(views):
    cfg, dataset = views
    finder = RedFinder(cfg.model.data_preprocessor)
    model = MODELS.build({**cfg.tta_model, 'tta_cfg': RULE, 'module': finder})
    samples = [dataset[index] for index in range(len(dataset))]
    # three scales, each as it is and flipped
    assert all([view.flip for view in sample['data_samples']] == [False, True] * 3 for sample in samples)
    merged = model.test_step(pseudo_collate(samples))
    truth = {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
    for sample in merged:
        (box,) = (i['bbox'] for i in truth[sample.img_id]['instances'] if i['bbox_label'] == 0)
        found = sample.pred_instances
        # the six boxes agree so well that suppression leaves one, within the resizing's blur of about a pixel
        assert len(found) == 1
        np.testing.assert_allclose(found.bboxes[0].numpy(), box, atol=1.5)


def test_views_are_padded_in_grey_at_the_right_and_below(views):
    cfg, dataset = views
    finder = RedFinder(cfg.model.data_preprocessor)
    model = MODELS.build({**cfg.tta_model, 'tta_cfg': RULE, 'module': finder})
    tall = next(i for i in range(len(dataset)) if dataset.get_data_info(i)['width'] == 40)
    model.test_step(pseudo_collate([dataset[tall]]))
    for picture in finder.seen:
        assert all(side % 32 == 0 for side in picture.shape[1:])
        assert (picture[:, :, -1] - GREY).abs().max() < 1e-6  # 64 x 40 px: bare on the right, flipped or not
        assert (picture[:, :, 0] - GREY).abs().max() > 0.01
