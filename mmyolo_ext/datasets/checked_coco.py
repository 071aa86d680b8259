"""A COCO dataset that checks its annotations and reports what it dropped and why."""

import logging
from collections import defaultdict

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.logging import print_log

from mmyolo_ext.boxes import suspect_boxes
from mmyolo_ext.coco_json import (
    UNKNOWN,
    check_boxes,
    check_entries,
    check_file_name,
    check_soft_label,
    label_categories,
    list_faults,
    read_coco,
)
from mmyolo_ext.registry import DATASETS

from .transforms.annotations import stack_soft_labels

OTHER_CLASS, MARKED_IGNORE = 'of another class', 'marked ignore'


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset`` with checks of the annotation file.

    Differences: boxes are clipped to their image; ``area`` and ``iscrowd`` may be missing (the area of the box, and
    0); labels are indices into ``metainfo['classes']``, whose order must be that of the file; images without a box are
    kept unless ``filter_cfg=dict(filter_empty_gt=True)``; ``file_name`` must be inside ``data_root`` (symbolic links
    are followed); ``instances`` are removed from the results of the pipeline, since ``MultiImageMixDataset`` would
    copy them at each of its steps.

    An annotation may have a ``soft_label``, a list of a probability for each of ``metainfo['classes']``, which passes
    the pipeline as ``gt_soft_labels`` (boxes, classes); boxes without one get the one-hot row of their category.

    After loading, ``report`` has ``images``, ``background`` (images without a box), ``boxes``, ``crowds`` (boxes to
    be ignored), ``clipped``, and ``dropped``: number of boxes by reason. ``findings`` lists suspicions about all boxes
    together, as (is an error, text), for the checks before the first step.

    Args:
        exclusive_soft_labels: Whether soft labels must sum to 1; False for classes that contain each other.
        allow_outside: Permit file names that are absolute paths or outside ``data_root``.

    Raises:
        ValueError: On a missing or broken annotation file, missing fields, repeated ids, classes that are not in the
            file, an invalid soft label, or no boxes left in training.
    """

    def __init__(self, *args, exclusive_soft_labels: bool = True, allow_outside: bool = False, **kwargs) -> None:
        self.report: dict = {}
        self.findings: list[tuple[bool, str]] = []
        self.exclusive_soft_labels = exclusive_soft_labels
        self.allow_outside = allow_outside
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file."""
        classes = self.metainfo['classes']
        if isinstance(classes, str):
            raise ValueError(
                f"metainfo classes must be a tuple of names, got {classes!r}: write ('name',) for one class"
            )
        content = read_coco(self.ann_file, self.backend_args)
        check_entries(content, self.ann_file)
        self.cat2label = label_categories(content['categories'], classes, self.ann_file)
        self.cat_ids = list(self.cat2label)
        boxes = self._check_boxes(content)
        if not self.test_mode and self.report['boxes'] == self.report['crowds']:
            raise ValueError(
                f'{self.ann_file} leaves no box to train on: {self._summary()}. Its categories are '
                f'{tuple(c["name"] for c in content["categories"])}, metainfo classes {classes}'
                + ''.join(f'. {text}' for _, text in self.findings)
            )
        rest = {'seg_map_path': None}
        if self.return_classes:
            rest.update(text=classes, caption_prompt=self.caption_prompt, custom_entities=True)
        folder = self.data_prefix['img'], self.data_root, self.allow_outside, self.ann_file
        return [
            {
                'img_path': check_file_name(image['file_name'], *folder),
                'img_id': image['id'],
                'height': image['height'],
                'width': image['width'],
                'instances': boxes[image['id']],
                **rest,
            }
            for image in content['images']
        ]

    def filter_data(self) -> list[dict]:
        """Filter images by ``filter_cfg``; raise ValueError if none is left."""
        kept = super().filter_data()
        if not kept:
            raise ValueError(f'filter_cfg={self.filter_cfg} leaves no image of {self.ann_file}')
        return kept

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on a sample."""
        info = self.get_data_info(idx)
        instances = info.get('instances') or []
        soft_labels = stack_soft_labels(
            [instance.get('soft_label') for instance in instances], [one['bbox_label'] for one in instances]
        )
        if soft_labels is not None:
            info['gt_soft_labels'] = soft_labels
        results = self.pipeline(info)
        if isinstance(results, dict):
            results.pop('instances', None)
        return results

    def _check_boxes(self, content: dict) -> dict[int, list[dict]]:
        """Return the instances of each image id; set ``report``, ``findings`` and ``cat_img_map``."""
        boxes_xyxy, faults, clipped, file_xywh, sizes_wh = check_boxes(content)
        annotations = content['annotations']
        dropped, kept, used = defaultdict(list), [], []  # ids by reason; indices; indices of the classes' own boxes
        instances, self.cat_img_map = defaultdict(list), defaultdict(list)
        for number, (annotation, fault, box) in enumerate(zip(annotations, faults, boxes_xyxy.tolist(), strict=True)):
            if fault not in UNKNOWN:
                if annotation['category_id'] not in self.cat2label:
                    fault = OTHER_CLASS
                elif annotation.get('ignore'):
                    fault = MARKED_IGNORE
                else:
                    used.append(number)
            if fault is not None:
                dropped[fault].append(annotation['id'])
                continue
            kept.append(number)
            label, crowd = self.cat2label[annotation['category_id']], int(bool(annotation.get('iscrowd')))
            instance = {'bbox': box, 'bbox_label': label, 'ignore_flag': crowd}
            if annotation.get('soft_label') is not None:
                instance['soft_label'] = check_soft_label(
                    annotation, len(self.metainfo['classes']), self.exclusive_soft_labels, self.ann_file
                )
            if annotation.get('segmentation'):
                instance['mask'] = annotation['segmentation']
            instances[annotation['image_id']].append(instance)
            self.cat_img_map[annotation['category_id']].append(annotation['image_id'])
        self.report = {
            'images': len(content['images']),
            'background': len(content['images']) - len(instances),
            'boxes': len(kept),
            'crowds': sum(instance['ignore_flag'] for own in instances.values() for instance in own),
            'clipped': int(clipped[kept].sum()),
            'dropped': {reason: len(ids) for reason, ids in dropped.items()},
        }
        print_log(f'{self.ann_file}: {self._summary()}', logger='current')
        faulty = {reason: ids for reason, ids in dropped.items() if reason not in (OTHER_CLASS, MARKED_IGNORE)}
        if faulty:
            count = sum(map(len, faulty.values()))
            text = f'{self.ann_file}: {count} boxes are faulty and were dropped: {list_faults(faulty)}'
            print_log(text, logger='current', level=logging.WARNING)
        keys = np.array([(annotations[k]['image_id'], annotations[k]['category_id']) for k in used], np.int64)
        self.findings = suspect_boxes(file_xywh[used], sizes_wh[used], keys.reshape(-1, 2))
        return instances

    def _summary(self) -> str:
        report = self.report
        dropped = ', '.join(f'{count} {reason}' for reason, count in report['dropped'].items())
        return (
            f'kept {report["boxes"]} boxes on {report["images"]} images ({report["background"]} background), '
            f'{report["crowds"]} to be ignored, {report["clipped"]} clipped to their image, dropped '
            f'{sum(report["dropped"].values())}' + (f': {dropped}' if dropped else '')
        )
