"""The doctor on made-up environments, and started on broken ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_python

from mmyolo_ext.cli import doctor
from mmyolo_ext.cli.doctor import FAULT, NOTE, OK, Environment, Finding

GOOD = {
    'torch': '2.13.0+cpu',
    'numpy': '2.2.6',
    'opencv-python-headless': '4.12.0.88',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'pycocotools': '2.0.11',
    'faster-coco-eval': '1.8.0',
}
GL_ERROR = 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'


def examine(**changes: object) -> dict[str, Finding]:
    environment = Environment(**{'distributions': GOOD, 'import_errors': {}, **changes})
    findings = doctor.check(environment)
    assert len({finding.name for finding in findings}) == len(findings)
    assert all(bool(finding.cure) == (finding.status == FAULT) for finding in findings)
    return {finding.name: finding for finding in findings}


def faults(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.status == FAULT}


def test_a_good_stack_has_no_fault() -> None:
    findings = examine()
    assert not faults(findings)
    assert findings['torchvision'].status == NOTE
    assert findings['mmcv.ops'] == Finding('mmcv.ops', OK, 'compiled')
    assert findings['torch'].detail == 'torch 2.13.0+cpu'


def test_supplied_ops_are_named_with_the_way_to_compiled_ones() -> None:
    finding = examine(ops='supplied')['mmcv.ops']
    assert finding.status == OK
    assert 'supplied by mmyolo_ext' in finding.detail and '--no-build-isolation' in finding.detail


def test_missing_package() -> None:
    rest = {name: version for name, version in GOOD.items() if name != 'torch'}
    findings = examine(
        distributions=rest,
        import_errors={
            'torch': "ModuleNotFoundError: No module named 'torch'",
            'mmcv.ops': "ModuleNotFoundError: No module named 'torch'",
        },
        devices=(),
    )
    # One fault, not one for everything that stands on torch.
    assert faults(findings) == {'torch'}
    assert findings['torch'].cure == "pip install 'torch>=2.4'"
    assert 'torch does not import' in findings['devices'].detail


@pytest.mark.parametrize(
    ('error', 'package'),
    [
        (GL_ERROR, 'libgl1'),
        ('ImportError: libgthread-2.0.so.0: cannot open shared object file: No such file', 'libglib2.0-0'),
        ('ImportError: libSM.so.6: cannot open shared object file: No such file or directory', 'libsm6'),
    ],
)
def test_system_library_of_opencv(error: str, package: str) -> None:
    findings = examine(import_errors={'cv2': error, 'mmcv': error, 'mmdet': error, 'mmcv.ops': error})
    assert findings['cv2'].cure == f'apt-get update && apt-get install -y {package}'
    assert all(finding.cure.endswith(package) for finding in findings.values() if finding.status == FAULT)


def test_a_broken_opencv_is_reinstalled() -> None:
    finding = examine(import_errors={'cv2': "AttributeError: module 'cv2' has no attribute 'imread'"})['cv2']
    assert finding.status == FAULT and 'opencv-python-headless' in finding.cure


def test_opencv_twins_of_different_versions() -> None:
    twins = {**GOOD, 'opencv-python': '4.12.0.88'}
    assert not faults(examine(distributions=twins))
    findings = examine(distributions={**twins, 'opencv-python': '4.10.0.84'})
    assert faults(findings) == {'cv2'}


def test_mixed_stack() -> None:
    findings = examine(distributions={**GOOD, 'mmcv': '2.1.0', 'mmdet': '3.3.0'})
    assert faults(findings) == {'mmcv', 'mmdet'}
    assert findings['mmdet'].cure.startswith('pip uninstall -y onedl-mmdetection mmdet && pip install ')
    assert "'onedl-mmdetection>=" in findings['mmdet'].cure


def test_original_stack() -> None:
    originals = {'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmengine': '0.10.4'}
    rest = {name: version for name, version in GOOD.items() if not name.startswith('onedl')}
    findings = examine(distributions={**rest, **originals})
    assert faults(findings) == set(originals)
    assert findings['mmcv'].detail == 'original package, unmaintained since 2024: mmcv 2.1.0'


def test_too_old() -> None:
    findings = examine(distributions={**GOOD, 'torch': '2.3.1+cu121', 'onedl-mmcv': '2.3.10'})
    assert faults(findings) == {'torch'}
    assert findings['torch'].cure == "pip install 'torch>=2.4'"


def test_compiled_ops_of_another_torch() -> None:
    error = 'ImportError: mmcv/_ext.so: undefined symbol: _ZN2at4_ops5zeros4callEv'
    findings = examine(import_errors={'mmcv.ops': error})
    assert faults(findings) == {'mmcv.ops'}
    assert 'undefined symbol' in findings['mmcv.ops'].detail


NMS_ERROR = 'RuntimeError: operator torchvision::nms does not exist'


@pytest.mark.parametrize(
    ('torch', 'cure'),
    [
        ('2.13.0+cpu', "'torchvision==0.28.*' --index-url https://download.pytorch.org/whl/cpu"),
        ('2.4.1+cu121', "'torchvision==0.19.*' --index-url https://download.pytorch.org/whl/cu121"),
        ('2.6.0', "'torchvision==0.21.*'"),  # from PyPI
    ],
)
def test_a_torchvision_of_another_build(torch: str, cure: str) -> None:
    distributions = {**GOOD, 'torch': torch, 'torchvision': '0.29.1'}
    # mmdet's models, which fail for the same reason, are no second fault
    findings = examine(
        distributions=distributions, import_errors=dict.fromkeys(('torchvision', 'mmdet.models'), NMS_ERROR)
    )
    assert faults(findings) == {'torchvision'}
    assert findings['torchvision'].cure == f'pip install --force-reinstall --no-deps {cure}'
    assert findings['torchvision'].detail == f'torchvision 0.29.1 does not import: {NMS_ERROR}'


@pytest.mark.parametrize(
    ('error', 'cure'),
    [
        ("ModuleNotFoundError: No module named 'shapely.geometry'", 'pip install shapely'),
        ("ModuleNotFoundError: No module named 'mmdet.models.layers'", 'pip install --force-reinstall --no-deps '),
        (GL_ERROR, 'apt-get update && apt-get install -y libgl1'),
        ('AssertionError: MMCV==2.9.9 is used but incompatible', 'pip install --force-reinstall --no-deps '),
        (NMS_ERROR, "pip install --force-reinstall --no-deps 'torchvision==0.28.*'"),
    ],
)
def test_models_of_mmdet_that_do_not_import(error: str, cure: str) -> None:
    absent = "ModuleNotFoundError: No module named 'torchvision'"  # which is no reason
    finding = examine(import_errors={'mmdet.models': error, 'torchvision': absent})['mmdet.models']
    assert finding.status == FAULT and finding.detail == f'does not import: {error}'
    assert finding.cure.startswith(cure)


def test_report_ends_with_the_cures() -> None:
    findings = [Finding('a', OK, 'fine'), Finding('long name', FAULT, 'broken', 'mend it')]
    assert doctor.report(findings).splitlines() == [
        'a          ok     fine',
        'long name  FAULT  broken',
        '',
        'long name: broken',
        '    mend it',
        '',
        '1 fault found.',
    ]
    assert doctor.report(findings[:1]).endswith('Nothing wrong.')


START = """
import runpy, sys, warnings
warnings.simplefilter('ignore')
for name in {missing!r}:
    sys.modules[name] = None
sys.argv = ['doctor']
runpy.run_module('mmyolo_ext.cli.doctor', run_name='__main__')
"""


@pytest.mark.parametrize('missing', [['torch'], ['mmcv'], ['mmdet'], ['mmengine'], ['cv2']])
def test_starts_on_a_broken_stack(missing: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, '-c', START.format(missing=missing)], capture_output=True, text=True, timeout=100
    )
    assert run.stdout.startswith('mmyolo_ext '), run.stderr
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line}
    for name in missing:
        assert lines[name].split()[1] == FAULT
        assert run.returncode == 1


def test_starts_on_this_stack() -> None:
    run = run_python('-m', 'mmyolo_ext.cli.doctor')
    assert run.stdout.startswith('mmyolo_ext ') and 'torch ' in run.stdout, run.stderr
    assert run.returncode == (FAULT in run.stdout.split())


# what a torchvision of another build does: one fails when it is imported, one at the first call
BROKEN = {
    'imported': "raise RuntimeError('operator torchvision::nms does not exist')",
    'called': """
import types
def nms(*arguments):
    raise NotImplementedError("Could not run 'torchvision::nms' with arguments from the 'CPU' backend")
ops = types.SimpleNamespace(nms=nms)
""",
}


@pytest.mark.parametrize('fails_when', BROKEN)
def test_a_broken_torchvision_is_found(tmp_path: Path, fails_when: str) -> None:
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text(BROKEN[fails_when])
    (tmp_path / 'torchvision-0.1.dist-info').mkdir()
    (tmp_path / 'torchvision-0.1.dist-info' / 'METADATA').write_text('Name: torchvision\nVersion: 0.1\n')
    program = tmp_path / 'start.py'
    program.write_text(f'import sys; sys.path.insert(0, {str(tmp_path)!r})' + START.format(missing=[]))
    run = run_python(program)  # torchvision is imported by none of the modules that the fork has
    assert run.returncode == 1, run.stderr
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line}
    assert 'FAULT  torchvision 0.1 does not import: ' in run.stdout and 'torchvision::nms' in run.stdout
    assert lines['pip'].split()[:4] == ['pip', 'install', '--force-reinstall', '--no-deps']
    assert run.stdout.rstrip().endswith('1 fault found.')


@pytest.mark.slow
def test_models_that_do_not_import_are_found() -> None:
    run = subprocess.run(
        [sys.executable, '-c', START.format(missing=['mmdet.models.losses'])],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 1, run.stderr
    assert 'mmdet.models      FAULT  does not import: ModuleNotFoundError' in run.stdout
