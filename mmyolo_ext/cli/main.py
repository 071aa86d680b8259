"""The command ``mmyolo-ext``: one subcommand per tool.

Nothing heavy is imported before a subcommand is chosen, so that ``mmyolo-ext --help`` answers at once.
"""

import importlib
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from mmyolo_ext.version import __version__

# name: (module of mmyolo_ext.cli, what it does, example)
COMMANDS = {
    'train': ('train', 'train a detector', 'mmyolo-ext train yolov5_n data.yaml --epochs 50'),
    'test': ('test', 'evaluate a checkpoint', 'mmyolo-ext test work_dirs/yolov5_n_pets/best_*.pth'),
    'report': ('report', 'write the report of a run again', 'mmyolo-ext report work_dirs/yolov5_n_pets'),
    'predict': ('predict', 'detect objects on images and videos', 'mmyolo-ext predict best.pth photo.jpg'),
    'compare': ('compare', 'compare runs on one page', 'mmyolo-ext compare work_dirs/a work_dirs/b'),
    'export': ('export', 'write an ONNX file and check it', 'mmyolo-ext export best.pth --dynamic'),
    'quantize': ('quantize', 'quantise an ONNX file to int8', 'mmyolo-ext quantize model.onnx my_config.py'),
    'check': ('check', 'check a data set before training', 'mmyolo-ext check data.yaml'),
    'browse': ('browse', 'show what the network receives', 'mmyolo-ext browse my_config.py --html'),
    'explain': ('explain', 'show what detections depend on', 'mmyolo-ext explain best.pth image.jpg'),
    'convert': ('convert', 'convert data between COCO, YOLO, VOC', 'mmyolo-ext convert voc/ --to coco --out coco/'),
    'convert-weights': ('convert_weights', 'convert weights of other tools', 'mmyolo-ext convert-weights a.pt b.pth'),
    'anchors': ('anchors', 'measure and optimise anchors', 'mmyolo-ext anchors yolov5_n data.yaml'),
    'tune': ('tune', 'search hyperparameters', 'mmyolo-ext tune yolov5_n data.yaml --trials 20'),
    'configs': ('configs', 'list the ready models', 'mmyolo-ext configs yolov5'),
    'flops': ('flops', 'count parameters and FLOPs', 'mmyolo-ext flops yolov5_n --size 640'),
    'publish': ('publish', 'write weights and model card to publish', 'mmyolo-ext publish my_config.py best.pth'),
    'replay': ('replay', 'repeat a step that was not finite', 'mmyolo-ext replay non_finite_iter_3.pth'),
    'mmdet': ('mmdet_tool', 'run a tool of mmdet', 'mmyolo-ext mmdet browse_dataset my_config.py --output-dir seen'),
    'app': ('app', 'open a web page that shows detections', 'mmyolo-ext app work_dirs/my_run'),
    'doctor': ('doctor', 'check the installation', 'mmyolo-ext doctor'),
}
USAGE = 'usage: mmyolo-ext COMMAND [options]'


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand that ``argv``, by default the command line, names."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else '--help'
    if name in ('-h', '--help', 'help'):
        _run(lambda: print(help_text()))
    elif name in ('-V', '--version'):
        print(f'mmyolo_ext {__version__}')
    elif name in COMMANDS:
        module, _, example = COMMANDS[name]
        if words[1:] in (['-h'], ['--help']):
            print(f'example: {example}\n')
        sys.argv = [f'mmyolo-ext {name}', *words[1:]]  # argparse and the messages of runs name the program by it
        _run(lambda: importlib.import_module(f'mmyolo_ext.cli.{module}').main(words[1:]))
    else:
        match = get_close_matches(name, COMMANDS, 1)
        hint = f'did you mean {match[0]!r}?' if match else f'commands are {", ".join(COMMANDS)}'
        print(f'error: there is no command {name!r}: {hint}', file=sys.stderr)
        sys.exit(2)


def _run(command: Callable[[], None]) -> None:
    try:
        command()
        sys.stdout.flush()
    except KeyboardInterrupt:  # while modules are imported; tools say what they leave
        print('Interrupted', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        stdout = select.poll()
        stdout.register(sys.stdout, 0)
        if not any(event & select.POLLERR for _, event in stdout.poll(0)):
            raise
        # a reader such as head has seen enough; the flush when Python ends needs somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def help_text() -> str:
    """Return the table of all subcommands with an example of each."""
    rows = [f'  {name:16}{text:40}{example}' for name, (_, text, example) in COMMANDS.items()]
    return '\n'.join([USAGE, '', *rows, '', 'mmyolo-ext COMMAND --help lists the options of a command.'])


if __name__ == '__main__':
    main()
