"""The figures of ``configs/*/metafile.yml``."""

from pathlib import Path

import pytest
import yaml

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.model_names import config_names, config_path
from mmyolo_ext.cli import configs
from mmyolo_ext.cli.flops import build, count, parameters, size_of

REPO = Path(__file__).parents[2]
INDEX = yaml.safe_load((REPO / 'model-index.yml').read_text())
MODELS = {model['Name']: model for file in INDEX['Import'] for model in configs.read(REPO / file)}
# published by the authors of YOLOv5, at 640 px (n6 at 1280): parameters in millions, GFLOPs
PUBLISHED = {
    'yolov5_n_640_coco': (1.9, 4.5),
    'yolov5_s_640_coco': (7.2, 16.5),
    'yolov5_m_640_coco': (21.2, 49.0),
    'yolov5_l_640_coco': (46.5, 109.1),
    'yolov5_x_640_coco': (86.7, 205.7),
}


def test_every_config_is_listed_and_every_entry_is_a_config() -> None:
    assert set(MODELS) == set(config_names())
    for model in MODELS.values():
        assert (REPO / model['Config']).is_file()


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_are_those_that_are_published(name: str) -> None:
    facts, (millions, gflops) = MODELS[name]['Metadata'], PUBLISHED[name]
    assert facts['Parameters'] / 1e6 == pytest.approx(millions, abs=0.07)
    assert facts['FLOPs'] / 1e9 == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize(
    'name',
    ['yolov5_n_640_coco', 'yolov3_tiny_320_bccd', 'yolov5_shufflenetv2-0.5_320_bccd', 'yolov5_rtmdet-tiny_320_bccd'],
)
def test_figures_are_those_of_the_model(name: str) -> None:
    cfg = load_config(config_path(name), with_recipe=False)
    facts, model = MODELS[name]['Metadata'], build(cfg)
    assert facts['Input Size'] == list(size_of(cfg))
    assert facts['Parameters'] == parameters(model)['total']
    assert facts['FLOPs'] == count(model, size_of(cfg))['flops']['total']


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    full = REPO / 'configs' / 'yolov5' / 'yolov5_n_640_coco.py'
    for name in ('yolov5_n', 'yolov5_n_640_coco', 'mmyolo_ext::yolov5/yolov5_n_640_coco.py', str(full)):
        assert config_path(name) == full
    assert config_path('yolov5_n6').name == 'yolov5_n6_1280_coco.py'
    assert config_path('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py').is_file()
    for name, message in {
        'yolov5_nn': "there is no config yolov5_nn: did you mean 'yolov5_n'",
        'yolov5_n.py': "did you mean 'yolov5_n'",
        'mmyolo_ext::yolov5/yolov5_m_640_coc': "did you mean 'yolov5_m_640_coco'",
        'zzz': '`mmyolo-ext configs` lists',
        'nobody::a.py': "the package 'nobody' is not installed",
    }.items():
        with pytest.raises(ValueError, match=message):
            config_path(name)


def test_list(capsys: pytest.CaptureFixture) -> None:
    configs.main(['yolov5_n_640'])
    listed = capsys.readouterr().out
    assert '1,872,157' in listed and 'mmyolo-ext train yolov5_n data.yaml' in listed
    configs.main(['yolov5_n_640', '--paths'])
    assert [Path(line) for line in capsys.readouterr().out.split()] == [config_path('yolov5_n')]
    configs.main(['light/', '--paths'])
    assert len(capsys.readouterr().out.split()) == len(list((REPO / 'configs' / 'light').glob('*.py')))
    with pytest.raises(SystemExit):
        configs.main(['nothing-like-this'])
