"""Draw the curves of the losses by calling them.

    python benchmarks/loss_curves.py [--out docs/images/loss_curves.png]

Needs matplotlib. The colours are those of Okabe and Ito, which are distinguishable with any kind of colour blindness.
"""

import argparse
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import mmyolo_ext  # noqa: F401  (installs mmcv's ops before mmdet is imported)
from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.losses import BCELoss, FocalLoss, IoULoss, NWDLoss, QualityFocalLoss
from mmyolo_ext.models.losses.box_losses import LOSS_MODES, WiseIoUV3
from mmyolo_ext.models.losses.class_losses import MARGIN, slide_weight
from mmyolo_ext.models.losses.repulsion_loss import smooth_ln

OUT = Path(__file__).parents[1] / 'docs' / 'images' / 'loss_curves.png'
BLACK, ORANGE, SKY, GREEN = '#000000', '#e69f00', '#56b4e9', '#009e73'
BLUE, RED, PINK = '#0072b2', '#d55e00', '#cc79a7'
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK)
# a curve of several modes has the colour of the last one here
MODE_COLOURS = {
    'giou': SKY,
    'diou': BLUE,
    'eiou': GREEN,
    'siou': ORANGE,
    'wiou_v1': PINK,
    'iou': BLACK,
    'ciou': RED,
}
BCE = {'type': 'mmyolo_ext.BCELoss'}
POINTS = 401


def binary_losses(target: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each loss as a function of the predicted probability."""
    probabilities = torch.linspace(0.002, 0.998, POINTS, dtype=torch.float64)
    losses = {
        'BCE': BCELoss(),
        'focal, gamma 1.5, alpha 0.25': FocalLoss(BCE),
        'quality focal, the same': QualityFocalLoss(BCE),
    }
    logits, targets = probabilities.logit()[:, None], torch.full((POINTS, 1), target, dtype=torch.float64)
    return probabilities, {
        name: loss(logits, targets, reduction_override='none')[:, 0] for name, loss in losses.items()
    }


def draw_binary(axes: Axes, target: float) -> None:
    probabilities, curves = binary_losses(target)
    # equal for targets of 0 and 1: dashes show both
    plot(axes, probabilities, curves, (BLUE, ORANGE, BLACK), ('-', '-', '--'))
    axes.set(
        title=f'class and objectness, target {target:g}', xlabel='predicted probability', xlim=(0, 1), ylim=(0, 2)
    )
    if 0 < target < 1:
        axes.axvline(target, color='0.75', linewidth=0.8, zorder=0)


def draw_slide(axes: Axes) -> None:
    values = torch.linspace(0, 1, 2 * POINTS)
    for index, mean in enumerate((0.2, 0.4, 0.6)):
        weights = slide_weight(values, torch.tensor(mean))
        # do not connect the jump
        jump = int(weights.diff().abs().argmax()) + 1
        axes.plot(values[:jump], weights[:jump], color=COLOURS[index], linewidth=3 - index)
        axes.plot(values[jump:], weights[jump:], color=COLOURS[index], linewidth=1.8, label=f'mean {mean}')
        for border in (mean - MARGIN, mean):
            axes.axvline(border, color=COLOURS[index], linewidth=0.7, linestyle=':')
    axes.set(title='slide', xlabel='quality of the box, or target', ylabel='weight', ylim=(0.9, 2.4))
    axes.legend(title='dotted: mean - 0.1 and mean')


def of_modes(boxes_cxcywh: Tensor) -> dict[str, Tensor]:
    """Return every IoU loss of boxes against a unit square at 0; equal curves share a name."""
    target = cxcywh_to_xyxy(torch.tensor([[0.0, 0, 1, 1]], dtype=torch.float64)).expand(len(boxes_cxcywh), 4)
    curves: dict[str, Tensor] = {}
    for mode in LOSS_MODES:
        # the factor of v3 depends on previous calls: it has a panel of its own
        if mode == 'wiou_v3':
            continue
        loss = IoULoss(mode)(cxcywh_to_xyxy(boxes_cxcywh), target, reduction_override='none')
        same = next((name for name, other in curves.items() if torch.allclose(loss, other, atol=1e-4)), None)
        name = mode if same is None else f'{same}, {mode}'
        curves = {name if known == same else known: curve for known, curve in curves.items()}
        curves.setdefault(name, loss)
    return curves


def draw_offset(axes: Axes) -> None:
    offset = torch.linspace(0, 2, POINTS, dtype=torch.float64)
    zero, one = torch.zeros_like(offset), torch.ones_like(offset)
    plot_modes(axes, offset, of_modes(torch.stack([offset, zero, one, one], 1)))
    axes.set(title='IoU losses, a square moved aside', xlabel='offset / side')
    axes.axvline(1, color='0.75', linewidth=0.8, zorder=0)


def draw_aspect(axes: Axes) -> None:
    ratio = torch.logspace(0, math.log10(8), POINTS, dtype=torch.float64)
    zero, root = torch.zeros_like(ratio), ratio.sqrt()
    plot_modes(axes, ratio, of_modes(torch.stack([zero, zero, root, 1 / root], 1)))
    axes.set(title='IoU losses, a square stretched in place', xlabel='width / height (the area stays)')
    axes.set_xscale('log')
    axes.set_xticks([1, 2, 4, 8], labels=['1', '2', '4', '8'])
    axes.minorticks_off()


def draw_power(axes: Axes) -> None:
    offset = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    zero, one = torch.zeros_like(offset), torch.ones_like(offset)
    boxes = cxcywh_to_xyxy(torch.stack([offset, zero, one, one], 1))
    target, overlap = boxes[:1].expand(POINTS, 4), (1 - offset) / (1 + offset)
    curves = {
        f'power {power:g}': IoULoss('iou', power=power)(boxes, target, reduction_override='none')
        for power in (0.5, 1.0, 2.0, 3.0)
    }
    plot(axes, overlap, curves)
    axes.set(title='alpha-IoU: 1 - IoU^power', xlabel='IoU')


def draw_wise(axes: Axes) -> None:
    degree = torch.linspace(0, 8, POINTS)
    curves = {}
    for alpha, delta in ((1.9, 3.0), (1.6, 4.0), (1.4, 5.0)):
        # the running mean starts at 1, so a loss is its own outlier degree
        curves[f'v3, alpha {alpha}, delta {delta:g}'] = WiseIoUV3(alpha, delta).eval().focus(degree)
    plot(axes, degree, curves)
    axes.axhline(1, color='0.75', linewidth=0.8, zorder=0)
    axes.set(title='Wise-IoU v3: factor on v1', xlabel='(1 - IoU) / its running mean', ylabel='factor')


def draw_nwd(axes: Axes) -> None:
    offset = torch.linspace(0, 40, POINTS, dtype=torch.float64)
    curves = {}

    def moved(side: float) -> tuple[Tensor, Tensor]:
        square = torch.tensor([[0.0, 0, side, side]], dtype=torch.float64).expand(POINTS, 4)
        return square + offset[:, None] * torch.tensor([1.0, 0, 1, 0]), square

    for scale in (6.4, 12.8, 25.6):
        curves[f'NWD, scale {scale}'] = NWDLoss(scale)(*moved(8), reduction_override='none')
    for side in (8, 32):
        curves[f'IoU, side {side} px'] = IoULoss('iou')(*moved(side), reduction_override='none')
    plot(axes, offset, curves, dashes=('-', '-', '-', '--', '--'))
    axes.set(title='NWD beside IoU, a square moved aside', xlabel='offset, px')


def draw_repulsion(axes: Axes) -> None:
    overlap = torch.linspace(0, 1, POINTS)
    plot(axes, overlap, {f'sigma {sigma}': smooth_ln(overlap, sigma) for sigma in (0.0, 0.5, 0.9)})
    axes.set(title='repulsion: smooth ln', xlabel='share covered (RepGT), IoU (RepBox)')


def plot_modes(axes: Axes, x: Tensor, curves: dict[str, Tensor]) -> None:
    colours = [next(c for mode, c in reversed(MODE_COLOURS.items()) if mode in name.split(', ')) for name in curves]
    plot(axes, x, curves, colours, ['--' if 'wiou' in name and ',' not in name else '-' for name in curves])


def plot(
    axes: Axes,
    x: Tensor,
    curves: dict[str, Tensor],
    colours: Sequence[str] = COLOURS,
    dashes: Sequence[str] = ('-',) * 9,
) -> None:
    for (name, y), colour, dash in zip(curves.items(), colours, dashes, strict=False):
        axes.plot(x, y, label=name, color=colour, linestyle=dash, linewidth=1.8)
    axes.set_ylabel('loss')
    axes.legend()


PANELS: tuple[Callable[[Axes], None], ...] = (
    lambda axes: draw_binary(axes, 1.0),
    lambda axes: draw_binary(axes, 0.6),
    draw_slide,
    draw_offset,
    draw_aspect,
    draw_power,
    draw_wise,
    draw_nwd,
    draw_repulsion,
)


def draw(out: Path) -> None:
    figure = Figure(figsize=(13.5, 11.5), dpi=100, layout='constrained')
    FigureCanvasAgg(figure)
    for panel, axes in zip(PANELS, figure.subplots(3, 3).flat, strict=True):
        panel(axes)
        axes.margins(x=0)
        axes.grid(alpha=0.2)
        axes.spines[['top', 'right']].set_visible(False)
        legend = axes.get_legend()
        legend.set_frame_on(False)
        for text in (*legend.get_texts(), legend.get_title()):
            text.set_fontsize(8.5)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    out.parent.mkdir(parents=True, exist_ok=True)
    # lines need few colours: a third of the bytes
    Image.open(buffer).convert('RGB').quantize(128, dither=Image.Dither.NONE).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=OUT, help='PNG to write')
    out = parser.parse_args().out
    draw(out)
    print(f'{out}: {out.stat().st_size / 1024:.0f} KB')


if __name__ == '__main__':
    main()
