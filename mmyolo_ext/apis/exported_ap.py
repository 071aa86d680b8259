"""The figures of an exported detector on a config's test data, by the config's own metric."""

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmyolo_ext.apis.shortcuts import fit_rect_batches
from mmyolo_ext.export.runtime import Detections, ExportedDetector, read_picture
from mmyolo_ext.registry import DATASETS


def evaluate(detector: ExportedDetector, cfg: Config) -> dict[str, float]:
    """What ``tools/test.py`` reports, with the network and the boxes left to the exported file.

    A file of open size sees the rectangles that the config's ``RectBatchDataset`` gives each batch; one of fixed size
    sees its own.

    Raises:
        ValueError: the file's classes are not those of the data.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    fit_rect_batches(cfg)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if detector.names != tuple(dataset.metainfo['classes']):
        raise ValueError(f'the file has the classes {detector.names}, the data {tuple(dataset.metainfo["classes"])}')
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    evaluator = Evaluator(list(metrics))
    evaluator.dataset_meta = dataset.metainfo
    step = cfg.test_dataloader.batch_size
    for start in range(0, len(dataset), step):
        infos = [dataset.get_data_info(index) for index in range(start, min(start + step, len(dataset)))]
        images = [read_picture(info['img_path']) for info in infos]
        canvas_hw = infos[0].get('batch_shape_hw') if detector.rules['dynamic'] else None
        found = detector(images, score_thr=0.0, canvas_hw=canvas_hw)
        samples = [
            {'img_id': info['img_id'], 'ori_shape': image.shape[:2], 'pred_instances': _instances(one)}
            for info, image, one in zip(infos, images, found, strict=True)
        ]
        evaluator.process(data_samples=samples, data_batch=None)
    return evaluator.evaluate(len(dataset))


def _instances(found: Detections) -> InstanceData:
    boxes, scores, labels = (torch.from_numpy(field.copy()) for field in found)
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)
