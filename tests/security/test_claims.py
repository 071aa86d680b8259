"""Check the claims of SECURITY.md against the sources."""

import ast
import re
from pathlib import Path

import yaml
from mmengine.fileio.handlers import yaml_handler
from mmengine.runner import CheckpointLoader

from mmyolo_ext.checkpoint import config_text, safe_load
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.export import runtime
from mmyolo_ext.models.darknet import cfg as darknet_cfg

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / 'SECURITY.md').read_text(encoding='utf-8')
# calls that execute or unpickle, and where one is needed, each with its reason
DANGEROUS = re.compile(
    r'^(eval|exec|pickle\.loads?|torch\.load|joblib\.load|dill\.loads?|yaml\.(unsafe_|full_)?load|Config\.fromstring|'
    r'.*\.fromstring|init_detector|DetInferencer|torch\.hub\.load|torch\.jit\.load|.*\.extractall|os\.system)$'
)
KNOWN = {
    ('mmyolo_ext/checkpoint/safe_load.py', 'torch.load'): 'with the unpickler that calls nothing',
    ('mmyolo_ext/checkpoint/safe_pickle.py', 'torch.load'): 'likewise',
    ('mmyolo_ext/cli/run.py', 'exec'): "mmdet's own tools, named by the user",
    ('mmyolo_ext/datasets/shared_memory.py', 'pickle.loads'): 'bytes of a worker of the same run',
    ('mmyolo_ext/datasets/tiling.py', 'pickle.loads'): 'annotations that the same process has pickled',
    ('mmyolo_ext/engine/non_finite.py', 'torch.load'): 'with weights_only=True',
    ('mmyolo_ext/export/formats.py', 'torch.jit.load'): 'a file that has just been written',
}


def dangerous_calls(path: Path) -> set[str]:
    """Dotted names of the calls in a file that may execute what they read."""
    calls = (node.func for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))) if isinstance(node, ast.Call))
    return {name for name in map(ast.unparse, calls) if DANGEROUS.match(name)}


def test_nothing_else_executes_or_unpickles() -> None:
    paths = [path for folder in ('mmyolo_ext', 'tools', 'benchmarks') for path in (ROOT / folder).rglob('*.py')]
    found = {(path.relative_to(ROOT).as_posix(), name) for path in paths for name in dangerous_calls(path)}
    assert found - KNOWN.keys() == set()
    assert KNOWN.keys() - found == set()


def test_the_limits_are_those_of_the_sources() -> None:
    stated = [
        f'{safe_load.MOST_GROWTH} times the file',
        f'{safe_load.MOST_DEPTH} levels, {safe_load.MOST_VALUES:,} values',
        f'{config_text.MAX_CHARACTERS:,} characters, {config_text.MAX_DEPTH} levels',
        f'{config_text.MAX_YAML_DEPTH} levels, {config_text.MAX_YAML_VALUES:,} values with aliases',
        f'{darknet_cfg.MAX_BYTES:,} bytes, 2^29 weights, 2^30 cells in a map, kernels of {darknet_cfg.MAX_KERNEL}',
        'the input of an exported file | 2^25 pixels',
        'an image | 2^28 pixels',
    ]
    assert [line for line in stated if line not in TEXT] == []
    assert (darknet_cfg.MAX_WEIGHTS, darknet_cfg.MAX_CELLS, runtime.MAX_PIXELS) == (2**29, 2**30, 2**25)
    sources = [(ROOT / name).read_text() for name in ('mmyolo_ext/__init__.py', 'mmyolo_ext/export/runtime.py')]
    assert all("'OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28)" in source for source in sources)


def test_mmengine_reads_yaml_and_checkpoints_by_our_readers() -> None:
    assert issubclass(yaml_handler.Loader, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    install_reader()
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {
        'mmyolo_ext.checkpoint.mmengine_loader'
    }
