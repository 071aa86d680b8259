"""Views of a image are mapped back to it: a detector that cannot err must find the same box in each."""

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope
from mmengine.structures import InstanceData
from tiny_coco import COLOURS, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.datasets.transforms.functional import rectangle
from mmyolo_ext.models.detectors.tta_model import unflipped
from mmyolo_ext.models.heads.postprocess import to_original_pixels

GREY = 114 / 255
RULE = {'nms': {'type': 'nms', 'iou_threshold': 0.65}, 'max_per_img': 300}


def boxes_on_image(boxes_xyxy: torch.Tensor, metainfo: dict) -> torch.Tensor:
    """What our heads make of boxes of the network's input."""
    return to_original_pixels(boxes_xyxy, torch.zeros(len(boxes_xyxy)).long(), [metainfo])


class RedFinder(torch.nn.Module):
    """Finds the red square in what the network would see, and maps it back as our heads do."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__()
        self.data_preprocessor = MODELS.build(data_preprocessor)
        self.seen: list[torch.Tensor] = []

    def test_step(self, data: dict) -> list:
        data = self.data_preprocessor(data)
        red = torch.tensor(COLOURS[0][::-1]).view(3, 1, 1) / 255
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            self.seen.append(image)
            rows, columns = torch.nonzero((image - red).abs().amax(0) < 0.15, as_tuple=True)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            box = boxes_on_image(torch.tensor([edges], dtype=torch.float32), sample.metainfo)
            sample.pred_instances = InstanceData(bboxes=box, scores=torch.ones(1), labels=torch.zeros(1).long())
        return data['data_samples']


@pytest.fixture(scope='module')
def views(tmp_path_factory):
    """(config, dataset) with boxes at four scales: images of 64 px shown at 128, 160 and 192."""
    folder = tmp_path_factory.mktemp('tta')
    config = write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data', background=()))
    cfg = load_config(config, {'input_size': 160})
    init_default_scope('mmdet')
    (dataset,) = leaf_datasets(cfg.test_dataloader.dataset)
    dataset.pipeline = cfg.tta_pipeline
    return cfg, DATASETS.build(cfg.test_dataloader.dataset)


def test_every_view_gives_the_box_of_the_image(views):
    cfg, dataset = views
    finder = RedFinder(cfg.model.data_preprocessor)
    model = MODELS.build({**cfg.tta_model, 'tta_cfg': RULE, 'module': finder})
    samples = [dataset[index] for index in range(len(dataset))]
    # as it is and flipped, each at three scales
    assert all([view.flip for view in sample['data_samples']] == [False] * 3 + [True] * 3 for sample in samples)
    merged = model.test_step(pseudo_collate(samples))
    truth = {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
    for sample in merged:
        (box,) = (i['bbox'] for i in truth[sample.img_id]['instances'] if i['bbox_label'] == 0)
        found = sample.pred_instances
        # the six boxes agree so well that suppression leaves one, within the resizing's blur of about a pixel
        assert len(found) == 1
        np.testing.assert_allclose(found.bboxes[0].numpy(), box, atol=1.5)


def test_views_are_padded_in_grey_on_all_sides(views):
    cfg, dataset = views
    finder = RedFinder(cfg.model.data_preprocessor)
    model = MODELS.build({**cfg.tta_model, 'tta_cfg': RULE, 'module': finder})
    tall = next(i for i in range(len(dataset)) if dataset.get_data_info(i)['width'] == 40)
    model.test_step(pseudo_collate([dataset[tall]]))
    # 64 x 40 px (height, width) in 128, 160, 192: 128 x 80, 160 x 100 and 192 x 120. In strides of 32, and half a
    # stride more: 4.5 -> 5 and 3; 5.5 -> 6 and 3.6 -> 4; 6.5 -> 7 and 4.25 -> 5.
    sides = [(160, 96), (192, 128), (224, 160)] * 2
    assert [image.shape[1:] for image in finder.seen] == sides
    for image in finder.seen:
        for rim in (image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]):
            assert (rim - GREY).abs().max() < 1e-6


@pytest.mark.parametrize('shape_hw', [(48, 64), (61, 47), (33, 101), (7, 64)])
def test_a_box_comes_back_from_every_view_exactly(views, shape_hw):
    """Odd sides and paddings: a box carried forward by the letterbox comes back through padding, scale and flip."""
    cfg, _ = views
    (height, width), box = shape_hw, torch.tensor([[3.0, 2, 21, 6]])
    image = np.random.RandomState(0).randint(0, 256, (*shape_hw, 3), dtype=np.uint8)
    sample = {'img': image, 'img_shape': shape_hw, 'ori_shape': shape_hw, 'gt_bboxes': HorizontalBoxes(box.clone())}
    seen = TRANSFORMS.build(cfg.tta_pipeline[-1])(sample)
    odd = 0
    for view, network_input in zip(seen['data_samples'], seen['inputs'], strict=True):
        top, bottom, left, right = view.pad_param
        odd += left != right or top != bottom
        new_h, new_w = network_input.shape[1] - top - bottom, network_input.shape[2] - left - right
        assert view.scale_factor == (new_w / width, new_h / height) and abs(left - right) <= 1 >= abs(top - bottom)
        view.pred_instances = InstanceData(
            bboxes=boxes_on_image(view.gt_instances.bboxes.tensor, view.metainfo),
            scores=torch.ones(1), labels=torch.zeros(1).long(),
        )  # fmt: skip
        torch.testing.assert_close(unflipped(view).bboxes, box, atol=1e-4, rtol=0)
    assert odd or shape_hw == (48, 64)


def test_one_view_of_the_input_size_is_that_of_validation(views):
    """The pixels as well: a single view of a batch of one shape shows the network what validation shows it."""
    cfg, dataset = views
    (leaf,) = leaf_datasets(load_config(cfg.filename, {'input_size': 160}).val_dataloader.dataset)
    plain = Compose(leaf.pipeline)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        shape = rectangle(np.array([[info['height'], info['width']]]), (160, 160), 32, 0.5)
        expected = plain({**info, 'batch_shape_hw': shape})
        view = dataset[index]
        assert torch.equal(view['inputs'][1], expected['inputs'])
        assert view['data_samples'][1].pad_param == expected['data_samples'].pad_param
