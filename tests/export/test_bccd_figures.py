"""A detector trained by Ultralytics has on BCCD, in our network and as an exported file, the AP that it had there."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import evaluate_exported, export_detector
from mmyolo_ext.cli import voc2coco
from mmyolo_ext.export.formats import Options
from mmyolo_ext.export.runtime import ExportedDetector

pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

REPO = Path(__file__).parents[2]
CLASSES = ('RBC', 'WBC', 'Platelets')


def voc_as_coco(voc: Path, root: Path) -> None:
    """Write ``test.json`` and the images into ``root``."""
    voc2coco.main([str(voc), str(root), '--classes', *CLASSES, '--one-based'])
    (root / 'JPEGImages').symlink_to((voc / 'JPEGImages').resolve())


@pytest.fixture
def cfg(bccd_dir: Path, tmp_path: Path) -> Config:
    """The test images in the letterbox of the original's validation: centred, by area, in batches of 256 x 352."""
    voc_as_coco(bccd_dir, tmp_path)
    letterbox = 'test_dataloader.dataset.dataset.pipeline.2'
    options = {
        'data_root': f'{tmp_path}/',
        'val_ann': 'test.json',
        f'{letterbox}.interpolation': 'area',
        f'{letterbox}.allow_upscale': False,
        'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False,
        'work_dir': str(tmp_path / 'run'),
    }
    return load_config(REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py', options)


@pytest.mark.slow
def test_ap_of_a_trained_checkpoint(cfg: Config, golden_dir: Path, tmp_path: Path) -> None:
    reported = json.loads((golden_dir / 'yolov5n_bccd.json').read_text())['coco_metric']
    checkpoint = str(golden_dir / 'yolov5n_bccd.pt')
    file = tmp_path / 'model.onnx'
    export_detector(cfg, checkpoint, file, Options(dynamic=True))
    exported = evaluate_exported(ExportedDetector(file, threads=1), cfg.copy())
    cfg.load_from = checkpoint
    ours = Runner.from_cfg(cfg).test()
    for name, there in (('coco/bbox_mAP', 'AP'), ('coco/bbox_mAP_50', 'AP50')):
        # mmdet's figures have three decimals
        assert ours[name] == pytest.approx(reported[there], abs=0.002)
        assert exported[name] == pytest.approx(ours[name], abs=0.001)
