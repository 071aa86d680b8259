"""A wheel in an empty folder is enough: configs, tools and the command are inside."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from data_formats import VAL, make_coco_folder, make_labelme, make_voc, make_yolo_roboflow

from mmyolo_ext.export import runtime
from mmyolo_ext.version import __version__

REPO = Path(__file__).parents[2]


def test_sdist_and_wheel_hold_all_configs_and_tools(distributions) -> None:
    with zipfile.ZipFile(distributions['wheel']) as wheel, tarfile.open(distributions['sdist']) as sdist:
        in_wheel, in_sdist = set(wheel.namelist()), set(sdist.getnames())
    configs = [
        path.relative_to(REPO).as_posix() for kind in ('py', 'yml') for path in REPO.glob(f'configs/**/*.{kind}')
    ]
    tools = [path.relative_to(REPO).as_posix() for path in REPO.glob('tools/**/*.py')]
    assert len(configs) > 80
    for file in [*configs, *tools, 'model-index.yml']:
        assert f'mmyolo_ext/.mim/{file}' in in_wheel
        assert f'mmyolo_ext-{__version__}/{file}' in in_sdist
    top = {name.partition('/')[0] for name in in_wheel}
    assert top == {'mmyolo_ext', f'mmyolo_ext-{__version__}.dist-info'}
    assert not [name for name in in_wheel if '__pycache__' in name or name.endswith(('.pth', '.so'))]


def test_an_extra_has_code_and_the_message_without_it_names_it(distributions) -> None:
    with zipfile.ZipFile(distributions['wheel']) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith('METADATA'))
        required = re.findall(r'Requires-Dist: ([\w-]+)\S* *; extra == [\'"](\w+)', wheel.read(metadata).decode())
        code = ''.join(
            wheel.read(name).decode() for name in wheel.namelist() if re.fullmatch(r'mmyolo_ext/\w+/.*\.py', name)
        )
    needed = set(re.findall(r"\bneed\('(\w+)", code))
    for package, extra in required:
        if extra not in ('all', 'test', 'demo', 'logs'):
            assert package in needed and runtime.EXTRAS[package] == extra
    assert "pip install scikit-learn, or 'mmyolo_ext[demo]'" in code and "'type': 'TensorboardVisBackend'" in code
    # mmdet's own; those that no test can run everywhere
    without_extra = {'matplotlib', 'tensorrt', 'torch', 'ncnn', 'pnnx', 'executorch', 'litert_torch', 'ai_edge_litert'}
    assert needed - without_extra == set(runtime.EXTRAS)
    assert {package for package, extra in required if extra == 'all'} == {
        package for package, extra in required if extra not in ('all', 'test')
    }
    with pytest.raises(ValueError, match=re.escape("pip install nncf, or 'mmyolo_ext[openvino]' (No module named")):
        runtime.need('nncf.no_such_part')


def test_twine_check_passes(distributions) -> None:
    pytest.importorskip('twine', reason='`pip install twine`: it checks what would be uploaded')
    files = [str(path) for path in distributions.values()]
    done = subprocess.run([sys.executable, '-m', 'twine', 'check', '--strict', *files], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count('PASSED') == 2, done.stdout + done.stderr


def test_the_package_comes_from_the_wheel(installed) -> None:
    seen = installed.run('python', '-c', 'import mmyolo_ext; print(mmyolo_ext.__file__, mmyolo_ext.__version__)')
    file, version = seen.split()[-2:]
    assert Path(file).is_relative_to(installed.folder.parent) and version == __version__


def test_configs_are_found_by_scope_name_and_base(installed) -> None:
    (installed.folder / 'mine.py').write_text("_base_ = 'mmyolo_ext::yolov5/yolov5_n_640_coco.py'\n")
    code = """
import mmyolo_ext
from mmengine.config import Config
from mmengine.hub import get_config
from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.model_names import config_names, config_path

of_wheel = Config.fromfile(config_path('yolov5_n'))
for cfg in (Config.fromfile('mine.py'), get_config('mmyolo_ext::yolov5/yolov5_n_640_coco.py')):
    assert cfg.model == of_wheel.model and cfg.train_dataloader == of_wheel.train_dataloader
assert load_config('mine.py').model.bbox_head.type == 'mmyolo_ext.YOLOv5Head'
assert '.mim' in str(config_path('yolov5_n'))
assert config_path('mmyolo_ext::yolov5/yolov5_n_640_coco') == config_path('yolov5_n_640_coco')
for name, path in config_names().items():
    Config.fromfile(path)
print('all', len(config_names()))
"""
    found = int(installed.run('python', '-c', code).rsplit('all', 1)[1])
    assert found == len([path for path in REPO.glob('configs/*/*.py') if path.parent.name != '_base_'])


def test_the_command_lists_the_models(installed) -> None:
    lines = installed.run('mmyolo-ext', 'configs', 'yolov5_n_640').splitlines()
    assert any(line.split() == ['yolov5_n_640_coco', '1,872,157', '4.5', '640', 'x', '640'] for line in lines), lines


SMALL = ('--epochs', 1, '--batch-size', 2, '--img-scale', 64)
NO_WORKERS = ('--cfg-options', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False')


@pytest.mark.slow
def test_from_a_data_yaml_to_boxes_in_onnx(installed) -> None:
    make_yolo_roboflow(installed.folder / 'bees')
    installed.run('mmyolo-ext', 'train', 'yolov5_n', 'bees/data.yaml', *SMALL, *NO_WORKERS)
    (checkpoint,) = installed.folder.glob('work_dirs/yolov5_n_bees/best_*.pth')
    assert 'AP50' in installed.run('mmyolo-ext', 'test', checkpoint)
    installed.run('mmyolo-ext', 'export', checkpoint, '--image', 'bees/val/images/5.png')
    (exported,) = installed.folder.glob('work_dirs/**/*.onnx')
    installed.run('mmyolo-ext', 'predict', exported, 'bees/val/images', '--score-thr', 0.001, '--out-dir', 'seen')
    seen = json.loads((installed.folder / 'seen' / 'predictions.json').read_text())
    assert [Path(image['file']).name for image in seen] == ['5.png', '6.png'] and all(image['boxes'] for image in seen)


@pytest.mark.slow
def test_the_same_four_commands_for_other_formats(installed) -> None:
    # one process, which imports torch and mmdet once
    (installed.folder / 'four_commands.py').write_text(f"""
import glob
from mmyolo_ext.cli.main import main

for name in ('coco', 'voc', 'labelme'):
    main(['train', 'yolov5_n', name, '--work-dir', f'runs/{{name}}', *map(str, {SMALL}), *{NO_WORKERS}])
    (best,) = glob.glob(f'runs/{{name}}/best_*.pth')
    main(['test', best])
    main(['export', best, '--out', f'{{name}}.onnx'])
    main(['predict', f'{{name}}.onnx', f'{{name}}/**/[56].png', '--score-thr', '0.001', '--out-dir', f'{{name}}_seen'])
""")
    makers = {'coco': make_coco_folder, 'voc': make_voc, 'labelme': make_labelme}
    folders = {name: make(installed.folder / name) for name, make in makers.items()}
    assert list(folders.values()) == [installed.folder / name for name in makers]
    printed = installed.run('python', 'four_commands.py')
    assert printed.count('AP50') >= 6
    for name in makers:
        seen = json.loads((installed.folder / f'{name}_seen' / 'predictions.json').read_text())
        assert [Path(image['file']).stem for image in seen] == list(VAL) and all(image['boxes'] for image in seen)
