"""Check the installation: ``python -m mmyolo_ext.cli.doctor`` prints each fault and the command that repairs it.

The check reads an :class:`Environment` only, so tests can pass invented ones. Torch, mmcv and OpenCV are imported one
by one inside :func:`examine`, because the doctor must start on a broken installation.
"""

import argparse
import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from mmyolo_ext.ops import compile_command, ops_status
from mmyolo_ext.version import __version__

OK, NOTE, FAULT = 'ok', 'note', 'FAULT'
PACKAGES = {
    'torch': ('2.4', 'torch'),
    'torchvision': ('', 'torchvision'),
    'numpy': ('', 'numpy'),
    'cv2': ('', 'opencv-python-headless', 'opencv-python', 'opencv-contrib-python'),
    'mmengine': ('0.10.12', 'onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmcv': ('2.3.6', 'onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmdet': ('3.5.1', 'onedl-mmdetection', 'mmdet'),
    'pycocotools': ('', 'pycocotools'),
    'faster_coco_eval': ('', 'faster-coco-eval'),
}
"""Minimum version of each module, and the distributions that provide it, best first."""
OPTIONAL = ('torchvision', 'faster_coco_eval')

SYSTEM_LIBRARIES = {
    'libGL.so': 'libgl1',
    'libEGL.so': 'libegl1',
    'libgthread-2.0.so': 'libglib2.0-0',
    'libglib-2.0.so': 'libglib2.0-0',
    'libSM.so': 'libsm6',
    'libICE.so': 'libice6',
    'libXext.so': 'libxext6',
    'libXrender.so': 'libxrender1',
    'libX11.so': 'libx11-6',
    'libxcb.so': 'libxcb1',
    'libgomp.so': 'libgomp1',
    'libstdc++.so': 'libstdc++6',
}
"""Package of Debian and Ubuntu for each shared library that OpenCV or torch may lack on a minimal system."""


class Finding(NamedTuple):
    """Result of a check: :data:`OK`, :data:`NOTE` (works, worth knowing) or :data:`FAULT` with its repair command."""

    name: str
    status: str
    detail: str
    cure: str = ''


@dataclass(frozen=True)
class Environment:
    """Facts about an installation."""

    distributions: dict[str, str] = field(default_factory=dict)
    """Installed distributions, normalised names in lower case, with their versions."""
    import_errors: dict[str, str] = field(default_factory=dict)
    """Error message of each module that cannot be imported."""
    ops: str = 'compiled'
    """Result of :func:`mmyolo_ext.ops.ops_status`."""
    devices: tuple[str, ...] = ('cpu',)


def check(environment: Environment) -> list[Finding]:
    """Check packages, then mmcv's ops and mmdet's models, which are at fault only if no package is."""
    findings = [_check_package(module, environment) for module in PACKAGES]
    compiled = 'compiled'
    if environment.ops != compiled:
        compiled = f'supplied by mmyolo_ext; to have the compiled ones: {compile_command()}'
    for module, detail in (('mmcv.ops', compiled), ('mmdet.models', 'imports')):
        if any(finding.status == FAULT for finding in findings):
            break
        error = environment.import_errors.get(module)
        if error:
            findings.append(Finding(module, FAULT, f'does not import: {error}', _cure(module, error, environment)))
        else:
            findings.append(Finding(module, OK, detail))
    devices = ', '.join(environment.devices) or 'none: torch does not import'
    return [*findings, Finding('devices', OK, devices)]


def _check_package(module: str, environment: Environment) -> Finding:
    minimum, *names = PACKAGES[module]
    installed = {name: environment.distributions[name] for name in names if name in environment.distributions}
    versions = ', '.join(f'{name} {version}' for name, version in installed.items())
    error = environment.import_errors.get(module)
    if not installed and module in OPTIONAL:
        return Finding(module, NOTE, 'not installed (optional)')
    if not installed and error:
        return Finding(module, FAULT, 'not installed', f'pip install {_requirement(module)}')
    replace = f'pip uninstall -y {" ".join(installed)} && pip install --no-deps {_requirement(module)}'
    if len(set(installed.values())) > 1:
        return Finding(module, FAULT, f'different versions share one folder: {versions}', replace)
    if installed and names[0].startswith('onedl-') and names[0] not in installed:
        return Finding(module, FAULT, f'original package, unmaintained since 2024: {versions}', replace)
    if error:
        return Finding(module, FAULT, f'{versions} does not import: {error}', _cure(module, error, environment))
    if _number(installed.get(names[0], minimum)) < _number(minimum):
        detail = f'{versions}, needed is {minimum} or newer'
        return Finding(module, FAULT, detail, f'pip install {_requirement(module)}')
    return Finding(module, OK, versions or 'present, of unknown version')


def _requirement(module: str) -> str:
    minimum, name, *_ = PACKAGES[module]
    return f"'{name}>={minimum}'" if minimum else name


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', version.partition('+')[0])))


def _cure(module: str, error: str, environment: Environment) -> str:
    """Return the command that repairs a module whose import fails."""
    library = re.search(r'(lib[\w+.-]+\.so)[\d.]*: cannot open shared object', error)
    if library and library[1] in SYSTEM_LIBRARIES:
        return f'apt-get update && apt-get install -y {SYSTEM_LIBRARIES[library[1]]}'
    if 'torchvision' in module + error:
        return torchvision_command(environment.distributions.get('torch', ''))
    if module == 'mmcv.ops':
        return compile_command()
    missing = re.match(r"ModuleNotFoundError: No module named '([\w-]+)", error)
    if missing and missing[1] not in PACKAGES:
        return f'pip install {missing[1]}'
    return f'pip install --force-reinstall --no-deps {_requirement(module.partition(".")[0])}'


def torchvision_command(torch_version: str) -> str:
    """Return the command that installs the torchvision built for a version of torch such as ``2.13.0+cpu``.

    Release 0.(n + 15) belongs to torch 2.n; the suffix names the index of PyTorch. For an unknown version of torch,
    the command uninstalls torchvision.
    """
    found = re.match(r'2\.(\d+)', torch_version)
    if found is None:
        return 'pip uninstall -y torchvision'
    build = torch_version.partition('+')[2]
    index = f' --index-url https://download.pytorch.org/whl/{build}' if build else ''
    return f"pip install --force-reinstall --no-deps 'torchvision==0.{int(found[1]) + 15}.*'{index}"


def examine() -> Environment:
    """Return the environment of this interpreter."""
    distributions = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata['Name']:
            distributions.setdefault(re.sub(r'[-_.]+', '-', name).lower(), distribution.version)
    modules = (*PACKAGES, 'mmcv.ops', 'mmdet.models')
    errors = {module: error for module in modules if (error := _import_error(module))}
    if not errors.keys() & {'torch', 'torchvision'} and (error := _torchvision_error()):
        errors['torchvision'] = error
    devices = []
    if 'torch' not in errors:
        import torch

        devices = [f'cpu ({torch.get_num_threads()} threads)']
        devices += [f'cuda:{index} {torch.cuda.get_device_name(index)}' for index in range(torch.cuda.device_count())]
        devices += ['mps'] if torch.backends.mps.is_available() else []
    return Environment(distributions, errors, ops_status(), tuple(devices))


def _import_error(module: str) -> str:
    """Return the first line of the error of an import, or ''. A broken extension may raise anything."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return _first_line(error)
    return ''


def _torchvision_error() -> str:
    """Return the error of torchvision's compiled ops, or '': a wrong build fails at the first call, not at import."""
    import torch
    import torchvision

    try:
        for device in ('cpu', *(['cuda'] if torch.cuda.is_available() else [])):
            box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
            torchvision.ops.nms(box, box[:, 0], 0.5)
    except Exception as error:
        return _first_line(error)
    return ''


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no message"}'


def report(findings: list[Finding]) -> str:
    """Return one line per finding, then each fault with the command that repairs it."""
    width = max(len(finding.name) for finding in findings)
    lines = [f'{finding.name:{width}}  {finding.status:5}  {finding.detail}' for finding in findings]
    faults = [finding for finding in findings if finding.status == FAULT]
    for finding in faults:
        lines += ['', f'{finding.name}: {finding.detail}', f'    {finding.cure}']
    lines += ['', f'{len(faults)} fault{"s" * (len(faults) != 1)} found.' if faults else 'Nothing wrong.']
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Print what is wrong with this environment; exit with 1 if anything is."""
    argparse.ArgumentParser(description='Check the installation').parse_args(argv)
    print(f'mmyolo_ext {__version__}, Python {platform.python_version()} on {platform.platform()}')
    findings = check(examine())
    print(report(findings))
    sys.exit(int(any(finding.status == FAULT for finding in findings)))


if __name__ == '__main__':
    main()
