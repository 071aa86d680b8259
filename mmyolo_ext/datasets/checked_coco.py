"""COCO annotations that say what was kept, what was dropped and why."""

import logging
import os.path as osp
from collections import Counter, defaultdict

from mmdet.datasets import CocoDataset
from mmengine.logging import print_log

from mmyolo_ext.registry import DATASETS

from .annotation_arrays import soft_rows
from .coco_json import CheckedBox, check_box, check_entries, check_soft_label, label_categories, read_coco


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, its input checked.

    Differs from it on purpose: boxes are clipped to their picture; ``area`` and ``iscrowd`` may be missing (read as
    the box and as 0); labels are the positions in ``metainfo['classes']``, whose order must be that of the file;
    pictures without a box are kept unless ``filter_cfg=dict(filter_empty_gt=True)``; ``data_list`` entries lose their
    ``instances`` at the end of the pipeline, which ``MultiImageMixDataset`` would copy at each of its steps.

    An annotation may have a ``soft_label``, a list of a share for each of ``metainfo['classes']``: it goes through the
    pipeline as ``gt_soft_labels`` (boxes, classes); beside it, boxes without one count with their category.

    After loading, ``report`` holds ``pictures``, ``background`` (pictures without a box), ``boxes``, ``crowds`` (those
    of the boxes that are to be ignored), ``clipped``, and ``dropped``: how many boxes by reason.

    Args:
        exclusive_soft_labels: Whether the shares of a box must sum to 1; False for classes that contain each other.

    Raises:
        ValueError: On a missing or broken annotation file, missing fields, repeated ids, classes that the file does
            not have, a soft label that is none, or, in training, when no box is left.
    """

    def __init__(self, *args, exclusive_soft_labels: bool = True, **kwargs) -> None:
        self.report: dict = {}
        self.exclusive_soft_labels = exclusive_soft_labels
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        self._check_config()
        content = read_coco(self.ann_file, self.backend_args)
        check_entries(content, self.ann_file)
        self.cat2label = label_categories(content['categories'], self.metainfo['classes'], self.ann_file)
        self.cat_ids = list(self.cat2label)
        boxes = self._check_boxes(content)
        self._log_report()
        if not self.test_mode and self.report['boxes'] == self.report['crowds']:
            raise ValueError(
                f'{self.ann_file} leaves no box to train on: {self._summary()}. Its categories are '
                f'{tuple(c["name"] for c in content["categories"])}, metainfo classes {self.metainfo["classes"]}'
            )
        return [self._data_info(image, boxes[image['id']]) for image in content['images']]

    def filter_data(self) -> list[dict]:
        kept = super().filter_data()
        if not kept:
            raise ValueError(f'filter_cfg={self.filter_cfg} leaves no picture of {self.ann_file}')
        return kept

    def prepare_data(self, idx: int) -> dict | None:
        info = self.get_data_info(idx)
        instances = info.get('instances') or []
        soft_labels = soft_rows(
            [instance.get('soft_label') for instance in instances], [one['bbox_label'] for one in instances]
        )
        if soft_labels is not None:
            info['gt_soft_labels'] = soft_labels
        results = self.pipeline(info)
        if isinstance(results, dict):
            results.pop('instances', None)
        return results

    def _check_config(self) -> None:
        classes = self.metainfo.get('classes')
        if isinstance(classes, str) or not classes:
            raise ValueError(
                f'metainfo classes must be a tuple of names, got {classes!r}; for a single class write '
                "dict(classes=('name',)), with the comma"
            )
        misspelt = [key for key in self.metainfo if key != 'classes' and key.lower() == 'classes']
        if misspelt:
            raise ValueError(f'metainfo has the key {misspelt[0]!r}, which mmdet ignores: write it "classes"')
        if 'img' not in self.data_prefix:
            raise ValueError(f"data_prefix must be dict(img='folder of the pictures'), got {self.data_prefix}")

    def _check_boxes(self, content: dict) -> dict[int, list[dict]]:
        """The instances of each image id; fills ``report`` and ``cat_img_map``."""
        images = {image['id']: image for image in content['images']}
        names = {category['id'] for category in content['categories']}
        instances, dropped, clipped, crowds = defaultdict(list), Counter(), 0, 0
        self.cat_img_map = defaultdict(list)
        for annotation in content['annotations']:
            box = self._check_annotation(annotation, images.get(annotation['image_id']), names)
            if box.fault:
                dropped[box.fault] += 1
                continue
            crowd = int(bool(annotation.get('iscrowd', 0)))
            instance = {
                'bbox': list(box.xyxy),
                'bbox_label': self.cat2label[annotation['category_id']],
                'ignore_flag': crowd,
            }
            if annotation.get('soft_label') is not None:
                instance['soft_label'] = check_soft_label(
                    annotation, len(self.metainfo['classes']), self.exclusive_soft_labels, self.ann_file
                )
            if annotation.get('segmentation'):
                instance['mask'] = annotation['segmentation']
            instances[annotation['image_id']].append(instance)
            self.cat_img_map[annotation['category_id']].append(annotation['image_id'])
            clipped, crowds = clipped + box.clipped, crowds + crowd
        self.report = {
            'pictures': len(images),
            'background': len(images) - len(instances),
            'boxes': sum(map(len, instances.values())),
            'crowds': crowds,
            'clipped': clipped,
            'dropped': dict(dropped),
        }
        return instances

    def _check_annotation(self, annotation: dict, image: dict | None, category_ids: set[int]) -> CheckedBox:
        if image is None:
            return CheckedBox(None, 'of an unknown image')
        if annotation['category_id'] not in category_ids:
            return CheckedBox(None, 'of an unknown category')
        if annotation['category_id'] not in self.cat2label:
            return CheckedBox(None, 'of another class')
        if annotation.get('ignore', False):
            return CheckedBox(None, 'marked ignore')
        return check_box(annotation['bbox'], image['width'], image['height'])

    def _data_info(self, image: dict, instances: list[dict]) -> dict:
        info = {
            'img_path': osp.join(self.data_prefix['img'], image['file_name']),
            'img_id': image['id'],
            'seg_map_path': None,
            'height': image['height'],
            'width': image['width'],
            'instances': instances,
        }
        if self.return_classes:
            info.update(text=self.metainfo['classes'], caption_prompt=self.caption_prompt, custom_entities=True)
        return info

    def _summary(self) -> str:
        report = self.report
        dropped = ', '.join(f'{count} {reason}' for reason, count in report['dropped'].items())
        return (
            f'kept {report["boxes"]} boxes on {report["pictures"]} pictures ({report["background"]} background), '
            f'{report["crowds"]} to be ignored, {report["clipped"]} clipped to their picture, dropped '
            f'{sum(report["dropped"].values())}' + (f': {dropped}' if dropped else '')
        )

    def _log_report(self) -> None:
        level = logging.WARNING if self.report['dropped'] else logging.INFO
        print_log(f'{self.ann_file}: {self._summary()}', logger='current', level=level)
