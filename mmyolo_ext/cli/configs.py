"""List the ready models: ``mmyolo-ext configs yolov5``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from mmyolo_ext.apis.model_names import LEFT_OUT, config_folder
from mmyolo_ext.cli.common import tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='List the ready models with parameters and FLOPs')
    parser.add_argument(
        'part', nargs='?', default='', help='part of folder/name, such as yolov5_n or light/ (default: all)'
    )
    parser.add_argument('--paths', action='store_true', help='print the paths of the config files')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """List the models whose names contain ``argv``, by default the command line."""
    args = parse_args(argv)
    folder = config_folder()
    models = [model for file in sorted(folder.glob('*/metafile.yml')) for model in read(file)]
    models = [model for model in models if args.part in f'{Path(model["Config"]).parent.name}/{model["Name"]}']
    if not models:
        raise ValueError(f'no model has {args.part!r} in its name; `mmyolo-ext configs` lists all')
    if args.paths:
        print('\n'.join(str(folder.parent / model['Config']) for model in models))
        return
    width = max(len(model['Name']) for model in models)
    print(f'{"name":{width}}  {"parameters":>12}  {"GFLOPs":>8}  input')
    for model in models:
        facts = model['Metadata']
        size = ' x '.join(str(side) for side in facts['Input Size'])
        print(f'{model["Name"]:{width}}  {facts["Parameters"]:>12,}  {facts["FLOPs"] / 1e9:>8.1f}  {size}')
    short = LEFT_OUT.sub('', models[0]['Name'])
    print(f'train one: mmyolo-ext train {short} data.yaml')


def read(file: Path) -> list[dict]:
    """Return the models of a metafile."""
    return yaml.safe_load(file.read_text(encoding='utf-8'))['Models']


if __name__ == '__main__':
    main()
