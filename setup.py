"""Packaging of mmyolo_ext."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION: dict = {}
exec((ROOT / 'mmyolo_ext' / 'version.py').read_text(), VERSION)

setup(
    name='mmyolo_ext',
    version=VERSION['__version__'],
    description='YOLO for MMDetection: detectors, losses, light backbones and the recipe around them',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8') if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
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
        'demo': ['scikit-learn'],
        'export': ['onnx', 'onnxruntime'],
        'app': ['gradio'],
        'logs': ['tensorboard'],
        'publish': ['huggingface_hub'],
        'tune': ['optuna>=5'],
        'test': [
            *('pytest', 'pytest-xdist', 'ruff', 'hypothesis', 'scikit-learn', 'onnx', 'onnxruntime', 'optuna>=5'),
            'huggingface_hub',
        ],
    },
)
