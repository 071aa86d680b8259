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
    split_images,
    take_images,
)
from mmyolo_ext.datasets.transforms.annotations import stack_soft_labels
from mmyolo_ext.registry import DATASETS

OTHER_CLASS, MARKED_IGNORE = 'of another class', 'marked ignore'
PARTS = (None, 'train', 'val')


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
        part: 'train' or 'val', to read this part of a file without separate splits; None reads all of it.
        val_fraction: Share of the images in the part 'val', stratified by class.
        split_seed: Of the split; the same for both parts.
        exclusive_soft_labels: Whether soft labels must sum to 1; False for classes that contain each other.
        allow_outside: Permit file names that are absolute paths or outside ``data_root``.

    Raises:
        ValueError: On a missing or broken annotation file, missing fields, repeated ids, classes that are not in the
            file, an invalid soft label, or no boxes left in training.
    """

    def __init__(
        self,
        *args,
        part: str | None = None,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        exclusive_soft_labels: bool = True,
        allow_outside: bool = False,
        **kwargs,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f"part must be 'train', 'val' or None, got {part!r}")
        if not 0 < val_fraction < 1:
            raise ValueError(f'val_fraction must be between 0 and 1, got {val_fraction!r}')
        self.part, self.val_fraction, self.split_seed = part, val_fraction, split_seed
        self.report: dict = {}
        self.findings: list[tuple[bool, str]] = []
        self.exclusive_soft_labels = exclusive_soft_labels
        self.allow_outside = allow_outside
        super().__init__(*args, **kwargs)

    @property
    def source(self) -> str:
        """What messages call the annotations: the file."""
        return self.ann_file

    def read_annotations(self) -> dict:
        """Return all annotations as the content of a COCO file; a reader of another format replaces this method.

        ``dropped``, if there, counts by reason what the reader has left out.
        """
        return read_coco(self.ann_file, self.backend_args)

    def read_content(self) -> dict:
        """Return the annotations of the part, as the content of a COCO file with valid entries."""
        content = self.read_annotations()
        check_entries(content, self.source)
        if self.part is not None:
            parts = split_images(content, (1 - self.val_fraction, self.val_fraction), self.split_seed)
            content = take_images(content, parts[self.part == 'val'])
        return content

    def to_coco(self) -> dict:
        """Return the images and boxes that were loaded as the content of a COCO file, without reading them again."""
        classes = self.metainfo['classes']
        content: dict = {'images': [], 'annotations': []}
        content['categories'] = [
            {'id': category, 'name': classes[label]} for category, label in self.cat2label.items()
        ]
        for index in range(len(self)):
            info = self.get_data_info(index)
            size = {'width': info['width'], 'height': info['height']}
            content['images'].append({'id': info['img_id'], 'file_name': info['img_path'], **size})
            for instance in info['instances']:
                x1, y1, x2, y2 = instance['bbox']
                content['annotations'].append(
                    {
                        'id': len(content['annotations']) + 1,
                        'image_id': info['img_id'],
                        'category_id': self.cat_ids[instance['bbox_label']],
                        'bbox': [x1, y1, x2 - x1, y2 - y1],
                        'iscrowd': instance['ignore_flag'],
                    }
                )
        return content

    def summarise(self) -> str:
        """Read the annotations, set ``report`` and return it as one line."""
        content = self.read_content()
        self.cat2label = label_categories(content['categories'], self.metainfo['classes'], self.source)
        self._check_boxes(content)
        return self._summary()

    def load_data_list(self) -> list[dict]:
        """Read and check the annotations."""
        classes = self.metainfo['classes']
        if isinstance(classes, str):
            raise ValueError(
                f"metainfo classes must be a tuple of names, got {classes!r}: write ('name',) for one class"
            )
        content = self.read_content()
        self.cat2label = label_categories(content['categories'], classes, self.source)
        self.cat_ids = list(self.cat2label)
        boxes, faulty = self._check_boxes(content)
        print_log(f'{self.source}: {self._summary()}', logger='current')
        if faulty:
            count = sum(map(len, faulty.values()))
            text = f'{self.source}: {count} boxes are faulty and were dropped: {list_faults(faulty)}'
            print_log(text, logger='current', level=logging.WARNING)
        if not self.test_mode and self.report['boxes'] == self.report['crowds']:
            raise ValueError(
                f'{self.source} leaves no box to train on: {self._summary()}. Its categories are '
                f'{tuple(c["name"] for c in content["categories"])}, metainfo classes {classes}'
                + ''.join(f'. {text}' for _, text in self.findings)
            )
        rest = {'seg_map_path': None}
        if self.return_classes:
            rest.update(text=classes, caption_prompt=self.caption_prompt, custom_entities=True)
        folder = self.data_prefix['img'], self.data_root, self.allow_outside, self.source
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
            raise ValueError(f'filter_cfg={self.filter_cfg} leaves no image of {self.source}')
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

    def _check_boxes(self, content: dict) -> tuple[dict[int, list[dict]], dict[str, list[int]]]:
        """Return the instances of each image id and the ids of faulty boxes by fault.

        Sets ``report``, ``findings`` and ``cat_img_map``.
        """
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
                    annotation, len(self.metainfo['classes']), self.exclusive_soft_labels, self.source
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
            'dropped': {**{reason: len(ids) for reason, ids in dropped.items()}, **content.get('dropped', {})},
        }
        keys = np.array([(annotations[k]['image_id'], annotations[k]['category_id']) for k in used], np.int64)
        self.findings = suspect_boxes(file_xywh[used], sizes_wh[used], keys.reshape(-1, 2))
        faulty = {reason: ids for reason, ids in dropped.items() if reason not in (OTHER_CLASS, MARKED_IGNORE)}
        return instances, faulty

    def _summary(self) -> str:
        report = self.report
        dropped = ', '.join(f'{count} {reason}' for reason, count in report['dropped'].items())
        return (
            f'kept {report["boxes"]} boxes on {report["images"]} images ({report["background"]} background), '
            f'{report["crowds"]} to be ignored, {report["clipped"]} clipped to their image, dropped '
            f'{sum(report["dropped"].values())}' + (f': {dropped}' if dropped else '')
        )
