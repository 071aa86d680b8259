"""The model card of published weights, in Markdown with the front matter that Hugging Face reads."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mmcv
import mmengine
import torch

from mmyolo_ext.apis.publishing.data_counts import Split
from mmyolo_ext.apis.publishing.known_ap import Figures
from mmyolo_ext.apis.publishing.origin import Origin
from mmyolo_ext.version import __version__

UNKNOWN = 'not stated'


@dataclass(frozen=True)
class Card:
    """All that a card tells.

    Attributes:
        name: of the published file and its config, without suffix.
        sha256: of the file.
        model: a line on the network.
        precision: of the stored weights.
        input: lines on how a picture is prepared.
        activation: of the class scores.
        classes: names.
        splits: the data.
        figures: average precisions, None where they are not known.
        training: facts of the run, such as epochs, by their names.
        licence: of these weights; None if it was not said.
        origins: of the weights that the training started from.
        origin_note: what the publisher says of that.
    """

    name: str
    sha256: str
    model: str
    precision: str
    input: Sequence[str]
    activation: str
    classes: Sequence[str]
    splits: Sequence[Split]
    figures: Figures | None
    training: Mapping[str, object]
    licence: str | None
    origins: Sequence[Origin]
    origin_note: str | None = None

    def text(self) -> str:
        """The whole card."""
        parts = (
            self._front_matter(),
            f'# {self.name}\n\n{self.model}',
            f'## Average precision\n\n{self._precision_text()}',
            f'## Data\n\n{self._data_text()}',
            f'## Input and output\n\n{_bullets([*self.input, f"class scores by {self.activation}"])}',
            f'## Licence and origin\n\n{self._licence_text()}',
            f'## Files\n\n{self._files_text()}',
            f'## Training and versions\n\n{self._versions_text()}',
        )
        return '\n\n'.join(parts) + '\n'

    def _front_matter(self) -> str:
        lines = ['---', f'license: {_yaml((self.licence or "unknown").lower())}', 'library_name: mmyolo_ext']
        lines += [
            'pipeline_tag: object-detection',
            'tags:',
            *(f'- {tag}' for tag in ('object-detection', 'mmdetection')),
        ]
        if self.figures and self.figures.overall:
            lines += ['model-index:', f'- name: {_yaml(self.name)}', '  results:', '  - task:']
            lines += ['      type: object-detection', '    dataset:', f'      name: {_yaml(self._evaluated())}']
            lines += [f'      type: {_yaml(self._evaluated())}', '    metrics:']
            for name, value in self.figures.overall.items():
                lines += ['    - type: mean_average_precision', f'      name: {name}', f'      value: {value:.4f}']
        return '\n'.join([*lines, '---'])

    def _evaluated(self) -> str:
        names = {role: split.name for split in self.splits for role in split.role.split(' and ')}
        return names.get('test', names.get('validation', UNKNOWN))

    def _precision_text(self) -> str:
        if self.figures is None:
            return 'Not measured.'
        return f'{_table(self.figures.overall, [[f"{value:.4f}" for value in self.figures.overall.values()]])}\n\n' + (
            f'On {self._evaluated()}, {self.figures.source}.'
        )

    def _data_text(self) -> str:
        known = [split for split in self.splits if split.boxes is not None]
        rows = [
            [split.role, split.name, 'not at hand' if split.pictures is None else f'{split.pictures:,}']
            for split in self.splits
        ]
        header = ['class', *(f'boxes, {split.role}' for split in known)]
        by_class = [[name, *(f'{split.boxes.get(name, 0):,}' for split in known)] for name in self.classes]
        if self.figures and any(self.figures.of_class(name) is not None for name in self.classes):
            header.append('AP50-95')
            for row in by_class:
                value = self.figures.of_class(row[0])
                row.append('' if value is None else f'{value:.4f}')
        if header == ['class']:
            return f'{_table(["split", "data", "pictures"], rows)}\n\nClasses: {", ".join(self.classes)}.'
        return f'{_table(["split", "data", "pictures"], rows)}\n\n{_table(header, by_class)}'

    def _licence_text(self) -> str:
        lines = [f'These weights: {self.licence or UNKNOWN}.', '']
        start = [f'Start: {origin}.' for origin in self.origins]
        start += [f'Start: {self.origin_note}.'] if self.origin_note else []
        lines.append(_bullets(start or ['Start: random weights, as far as the config tells.']))
        lines += ['', *(f'**{warning}**' for warning in licence_warnings(self.origins, self.licence))]
        return '\n'.join(lines).rstrip()

    def _files_text(self) -> str:
        return (
            f'- `{self.name}.pth`: {self.precision}; SHA-256 {self.sha256}\n- `{self.name}.py`: the whole config\n\n'
            f'```bash\npython tools/predict.py {self.name}.py {self.name}.pth picture.jpg\n'
            f'python tools/test.py {self.name}.py {self.name}.pth\n```\n'
            f"To train further, a config with `_base_ = '{self.name}.py'` starts from these weights."
        )

    def _versions_text(self) -> str:
        return _table(['', ''], [[name, str(value)] for name, value in {**self.training, **versions()}.items()])


def licence_warnings(origins: Iterable[Origin], licence: str | None) -> list[str]:
    """A sentence on each origin whose licence asks the same of what builds on it."""
    return [
        f'{origin.place} is under {origin.licence}, which asks that what builds on it be under it too: make sure that '
        f'you may pass these weights on under {licence or "your terms"}.'
        for origin in origins
        if origin.copyleft
    ]


def versions() -> dict[str, str]:
    """Of Python and the packages that publish."""
    import mmdet  # late, for it needs mmcv's ops, which mmyolo_ext supplies

    packages = {'torch': torch, 'mmengine': mmengine, 'mmcv': mmcv, 'mmdet': mmdet}
    told = {name: package.__version__ for name, package in packages.items()}
    return {'Python': platform.python_version(), **told, 'mmyolo_ext': __version__}


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), *rows]
    lines.insert(1, ['---'] * len(lines[0]))
    return '\n'.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines)


def _bullets(lines: Iterable[str]) -> str:
    return '\n'.join(f'- {line}' for line in lines)


def _yaml(text: str) -> str:
    """A string as YAML takes it, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)
