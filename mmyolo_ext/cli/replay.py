"""Rerun the iteration that stopped a training: ``python tools/replay.py work_dirs/RUN/non_finite_iter_40.pth``.

Runs forward and backward pass in one process, and prints each loss and the first layer with non-finite numbers. The
precision is that of the training if this device has it. Losses are those of the images of one rank.
"""

import argparse
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

from mmyolo_ext.apis import load_config
from mmyolo_ext.checkpoint.config_text import parse_config
from mmyolo_ext.cli.common import tool
from mmyolo_ext.engine.non_finite import diagnose, load_state, read_dump
from mmyolo_ext.registry import MODELS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Rerun the iteration that stopped a training')
    parser.add_argument('dump', help='non_finite_iter_K.pth in the work dir of the training')
    parser.add_argument('--config', help='config file; default: the config in the dump, which is not executed')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: a GPU if there is one')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Rerun the iteration that ``argv`` names, by default the command line."""
    args = parse_args(argv)
    iteration, dump = read_dump(args.dump)
    cfg = load_config(args.config, with_recipe=False) if args.config else Config(parse_config(dump['config']))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    device = torch.device(args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu'))
    hub = MessageHub.get_current_instance()
    hub.update_info('iter', dump['iteration'])
    hub.update_info('epoch', dump['epoch'])
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device)
    load_state(model, dump['model'])

    print(f'epoch {dump["epoch"] + 1}, iteration {dump["iteration"] + 1}, rank {dump["rank"]} of {dump["world_size"]}')
    print(f'seed {dump["seed"]}, precision {dump["precision"]}, AMP scale {dump["loss_scale"] or "none"}')
    print(f'images: {", ".join(dump["images"]) or "unknown"}')
    found = diagnose(model, iteration, Precision(dump['precision'], device, dump['loss_scale'] or 1.0))
    for name, value in found['losses'].items():
        print(f'{name}: {value:g}, in the training {dump["losses"].get(name, math.nan):g}')
    if found['layer']:
        print(f'the first {found["stage"]} that is not finite is that of {found["layer"]}')
    else:
        print('all numbers are finite here; the training may have had another precision or device')


class Precision:
    """Autocast and loss scale of a training, in the form in which an optimizer wrapper gives them.

    Args:
        name: ``'float32'``, ``'bfloat16'`` or ``'float16'``; a CPU runs float16 as bfloat16.
        device: To run on.
        scale: Factor of the loss before the backward pass.
    """

    def __init__(self, name: str, device: torch.device, scale: float) -> None:
        self.device = device
        self.dtype = torch.bfloat16 if device.type == 'cpu' and name == 'float16' else getattr(torch, name)
        self.loss_scaler = self
        self.factor = scale

    def optim_context(self, model: torch.nn.Module):
        """Return the context of the forward pass."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """Scale a loss as the training did."""
        return loss * self.factor


if __name__ == '__main__':
    main()
