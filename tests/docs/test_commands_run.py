"""Commands in the documentation: each runs here, in another test, or needs what no test has."""

import re
from glob import glob
from pathlib import Path

import pytest
from forked import run_python
from test_commands import PAGES, commands_of, parts_of
from tiny_coco import REPO, make_tiny_coco, write_user_config

# commands of the pages as :func:`shortened` returns them, in the order in which they run
REAL = [
    'tools/train.py MINE',
    'tools/train.py MINE --resume',
    'tools/test.py MINE BEST',
    'tools/predict.py MINE BEST IMAGES --nms-iou 0.3',
    'tools/export.py MINE BEST --dynamic',
    'tools/export.py MINE BEST --format onnx',
    'tools/test_exported.py MINE ONNX',
    'tools/flops.py MINE --size 640 --size 320',
    'benchmarks/scaling.py --model-only',
    '-m mmyolo_ext.cli.doctor',
]
# the start of a command, and the test that runs it
ELSEWHERE = {
    'tools/train.py MINE --amp': 'tests/cli/test_tools.py::test_training_leaves_checkpoints_a_config_and_curves',
    'tools/train.py MINE --work-dir': 'tests/cli/test_tools.py::test_training_leaves_checkpoints_a_config_and_curves',
    'tools/train.py MINE --cfg-options': 'tests/configs/test_configs.py::test_variables_follow_the_shortcuts',
    'tools/train.py MINE --compile': 'tests/cli/test_speed.py::test_a_compiled_training_and_a_test_of_it',
    'tools/replay.py': 'tests/cli/test_replay.py::test_training_stops_with_one_line_and_the_dump_shows_the_same',
    'tools/anchors.py': 'tests/apis/test_anchors.py::test_the_command',
    'tools/tune.py': 'tests/tuning/test_study.py::test_the_tool_trains_two_real_trials',
    'tools/publish.py': 'tests/cli/test_publish.py::test_the_command',
    'tools/convert_weights.py': 'tests/cli/test_convert_weights.py::test_the_command',
    'tools/export.py MINE epoch_100.pth --format openvino': 'tests/cli/test_quantize.py::test_openvino_by_nncf',
    'tools/quantize.py': 'tests/cli/test_quantize.py::test_int8_is_close_and_in_the_metadata',
    '-m mmyolo_ext.cli.convert': 'tests/datasets/test_sources.py::test_the_command_converts',
    'tools/dataset_converters/voc2coco.py': 'tests/cli/test_voc2coco.py::test_bccd',
    'runtime.py': 'tests/export/test_runtime.py::test_the_copied_file_runs_alone',
    '-m mmyolo_ext.datasets.digits': 'tests/datasets/test_digits.py::test_coco_file_fits_the_images',
    '-m mmyolo_ext.cli.run': 'tests/cli/test_run.py::test_a_script_runs_as_by_python_and_so_do_its_processes',
    '-m mmyolo_ext.cli.train': 'tests/cli/test_tools.py::test_training_leaves_checkpoints_a_config_and_curves',
    '-m torch.distributed.run': 'tests/cli/test_run.py::test_a_script_runs_as_by_python_and_so_do_its_processes',
    '-c from mmyolo_ext.apis': 'tests/configs/test_configs.py::test_no_helper_variable_is_in_a_dump',
    'mmyolo-ext train': 'tests/cli/test_four_commands.py::test_from_a_data_yaml_to_boxes_in_onnx',
    'mmyolo-ext test': 'tests/cli/test_four_commands.py::test_from_a_data_yaml_to_boxes_in_onnx',
    'mmyolo-ext tune': 'tests/tuning/test_study.py::test_the_tool_trains_two_real_trials',
    'mmyolo-ext anchors': 'tests/apis/test_anchors.py::test_the_command',
    'mmyolo-ext flops': 'tests/package/test_wheel.py::test_the_command_lists_the_models',
    'mmyolo-ext quantize': 'tests/cli/test_quantize.py::test_int8_is_close_and_in_the_metadata',
    'mmyolo-ext publish': 'tests/cli/test_publish.py::test_the_command',
    'mmyolo-ext convert-weights': 'tests/cli/test_convert_weights.py::test_the_command',
    'mmyolo-ext replay': 'tests/cli/test_replay.py::test_training_stops_with_one_line_and_the_dump_shows_the_same',
    '-m mmyolo_ext.cli.test_exported': 'tests/export/test_runtime.py::test_the_copied_file_runs_alone',
    '-m mmyolo_ext.cli.voc2coco': 'tests/cli/test_voc2coco.py::test_bccd',
    'mmyolo-ext export': 'tests/cli/test_four_commands.py::test_from_a_data_yaml_to_boxes_in_onnx',
    'mmyolo-ext predict': 'tests/cli/test_predict.py::test_a_file_alone_predicts_and_imports_what_it_needs',
    'mmyolo-ext configs': 'tests/package/test_model_index.py::test_list',
    'mmyolo-ext app': 'tests/apis/test_app.py::test_in_a_browser',
    'mmyolo-ext doctor': 'tests/cli/test_doctor.py::test_a_good_stack_has_no_fault',
    'mmyolo-ext check': 'tests/datasets/test_data_check.py::test_the_command_and_the_repaired_copy',
    'mmyolo-ext compare': 'tests/evaluation/test_compare.py::test_the_page',
    'mmyolo-ext convert': 'tests/datasets/test_sources.py::test_the_command_converts',
    'mmyolo-ext report': 'tests/evaluation/test_report.py::test_the_command_writes_it_again',
    'mmyolo-ext browse': 'tests/apis/test_browse.py::test_the_command',
    'mmyolo-ext explain': 'tests/apis/test_explain.py::test_the_command_and_its_errors',
    'mmyolo-ext mmdet': 'tests/mmdet_tools/test_mmdet_tools.py::test_browse_dataset',
    'mim ': 'tests/mmdet_tools/test_mmdet_tools.py::test_mim',
    'bash tools/dist_train.sh': 'tests/launch/test_training.py::'
    'test_a_killed_rank_is_restarted_and_the_training_ends_as_if_undisturbed',
    'bash tools/dist_test.sh': 'tests/cli/test_tools.py::test_two_processes_count_each_image_once_and_agree_with_one',
    'bash tools/slurm_': 'tests/launch/test_training.py::test_slurm_trains_as_torchrun_does',
    'bash benchmarks/run.sh': 'tests/benchmarks/test_page.py::test_a_failing_benchmark_is_named_and_the_others_go_on',
}
# tests/run.sh runs the tests and Sphinx; benchmarks run by hand on an idle machine (docs/contributing.md)
BY_HAND = ('bash tests/run.sh', '-m sphinx', '-m build', 'benchmarks/')
# they install packages, or belong to others
DOWNLOADS = ('bash tools/setup_env.sh', 'bash tools/quickstart.sh', 'pip ', 'git ')
FOREIGN = ('source ', 'cd ', 'tar ', 'srun ', 'sbatch ', 'optuna-dashboard', 'tensorboard')
NEEDS = re.compile(r'# needs a (GPU|download)')
NAMES = {
    r'\S*my_pets\.py|mine\.py|configs/\S+\.py|\bCONFIG\b|weights/\S+\.py': 'MINE',
    r'work_dirs/\S+\.pth|\bCHECKPOINT\b|weights/\S+\.pth': 'BEST',
    r'\S+\*\.jpg': 'IMAGES',
    r'\S+\.onnx': 'ONNX',
}


def shortened(words: list[str]) -> str:
    """Return a command with one name for all configs, checkpoints, images and exported files, without ``python``."""
    text = ' '.join(words[1:] if words[0] == 'python' else words)
    for pattern, name in NAMES.items():
        text = re.sub(pattern, name, text)
    return text


def documented() -> list[str]:
    """Return the commands of all pages but those that are marked as needing a GPU or a download."""
    found = set()
    for page in PAGES:
        lines = (line for line in page.read_text(encoding='utf-8').splitlines(keepends=True) if not NEEDS.search(line))
        found |= {shortened(part) for command in commands_of(''.join(lines)) for part in parts_of(command)}
    return sorted(found)


@pytest.mark.parametrize('command', documented())
def test_a_command_runs_here_or_is_known_to_run_elsewhere(command):
    starts = [start for start in ELSEWHERE if command.startswith(start)]
    others = (*BY_HAND, *DOWNLOADS, *FOREIGN)
    assert command in REAL or starts or command.startswith(others) or ' ' not in command
    for start in starts:
        path, _, name = ELSEWHERE[start].partition('::')
        assert (REPO / path).exists() and (not name or f'def {name}(' in (REPO / path).read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with the tools, a data set of a few images and a config for one epoch."""
    folder = tmp_path_factory.mktemp('commands')
    for name in ('configs', 'tools', 'benchmarks'):
        (folder / name).symlink_to(REPO / name)
    data = make_tiny_coco(folder / 'data')
    write_user_config(folder / 'mine.py', data, extra='max_epochs = 1')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('command', REAL)
def test_a_command_runs(command, folder):
    best = [path for path in glob(f'{folder}/work_dirs/mine/*.pth') if 'best' in path or 'epoch' in path][-1:]
    files = {
        'MINE': ['mine.py'],
        'BEST': best,
        'IMAGES': ['data/val/*.png'],
        'ONNX': glob(f'{folder}/work_dirs/**/*.onnx'),
    }
    words = [file for word in command.split() for file in files.get(word, [word])]
    done = run_python(*words, cwd=folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
