"""Packaging of mmyolo_ext."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# what MMEngine and mim look for in an installed package
MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithConfigs(build_py):
    """Put configs, tools and model index into ``mmyolo_ext/.mim``: copies in a wheel, links in an editable install."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        folder = Path('' if self.editable_mode else self.build_lib) / 'mmyolo_ext' / '.mim'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in MIM_FILES:
            if self.editable_mode:
                os.symlink(os.path.join('..', '..', name), folder / name)
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy(ROOT / name, folder / name)


VERSION: dict = {}
exec((ROOT / 'mmyolo_ext' / 'version.py').read_text(), VERSION)

EXTRAS = {
    'app': ['gradio>=6'],
    'demo': ['scikit-learn'],
    'export': ['onnx', 'onnxruntime'],
    'logs': ['tensorboard'],
    'openvino': ['openvino', 'nncf'],
    'publish': ['huggingface_hub'],
    'tune': ['optuna>=5'],
    'track': ['trackers>=2.6'],
    'test': [
        *('pytest', 'pytest-xdist', 'ruff', 'hypothesis', 'scikit-learn', 'onnx', 'onnxruntime', 'optuna>=5'),
        *('huggingface_hub', 'build', 'twine', 'nbclient', 'ipykernel'),
    ],
}

setup(
    name='mmyolo_ext',
    version=VERSION['__version__'],
    description='YOLO for MMDetection: detectors, losses, light backbones and the recipe around them',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8') if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'console_scripts': ['mmyolo-ext = mmyolo_ext.cli.main:main']},
    packages=find_packages(include=['mmyolo_ext', 'mmyolo_ext.*']),
    python_requires='>=3.10',
    install_requires=[
        'torch>=2.4',
        'onedl-mmengine>=0.10.12',
        'onedl-mmcv>=2.3.6',
        'onedl-mmdetection>=3.5.1',
        'faster-coco-eval>=1.6',
    ],
    extras_require={
        **EXTRAS,
        'all': sorted({package for name in EXTRAS if name != 'test' for package in EXTRAS[name]}),
    },
)
