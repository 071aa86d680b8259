"""Count parameters and FLOPs of all configs and write them into ``configs/*/metafile.yml`` and ``model-index.yml``.

``python benchmarks/model_index.py`` takes about five minutes; MMEngine, mim and ``mmyolo-ext configs`` read the files.
"""

import argparse
import warnings
from pathlib import Path

import torch
import yaml

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.model_names import config_names
from mmyolo_ext.cli.flops import build, count, parameters, size_of

ROOT = Path(__file__).parents[1]
PARTS = ('backbone', 'neck', 'bbox_head')


def main() -> None:
    """Write the files."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_grad_enabled(False)
    warnings.simplefilter('ignore')
    models: dict[Path, list[dict]] = {}
    for name, path in config_names().items():
        models.setdefault(path.parent, []).append(entry(name, path))
        print(models[path.parent][-1])
    write(models)


def write(models: dict[Path, list[dict]]) -> None:
    """Write the entries of each folder, and the list of all metafiles."""
    for folder, entries in models.items():
        text = yaml.safe_dump({'Models': entries}, sort_keys=False, default_flow_style=None, width=200)
        (folder / 'metafile.yml').write_text(text, encoding='utf-8')
    files = sorted(f'configs/{folder.name}/metafile.yml' for folder in models)
    (ROOT / 'model-index.yml').write_text(yaml.safe_dump({'Import': files}), encoding='utf-8')


def entry(name: str, path: Path) -> dict:
    """Return the entry of a config in its metafile."""
    cfg = load_config(path, with_recipe=False)
    size_hw = size_of(cfg)
    cfg.model.pop('init_cfg', None)
    model = build(cfg)
    return {
        'Name': name,
        'Config': f'configs/{path.parent.name}/{path.name}',
        'Metadata': {
            'Architecture': [str(cfg.model[part]['type']) for part in PARTS if part in cfg.model],
            'Input Size': list(size_hw),
            'Parameters': parameters(model)['total'],
            'FLOPs': count(model, size_hw)['flops']['total'],
        },
    }


if __name__ == '__main__':
    main()
