"""A runner that pretends to train, and a script that tunes with it: ``fake_runner.py WORK_DIR TRIALS [STORAGE]``.

The score after epoch e of E is e / E * (0.8 - |log10(lr / 0.1)| / 10). Training raises an error above lr 0.5;
every score is NaN above 0.3.
"""

import math
import os
import signal
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import RUNNERS

from mmyolo_ext.tuning import Tuner, study

CONFIG = """
runner_type = 'FakeRunner'
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
train_cfg = dict(max_epochs=6, val_interval=1)
train_dataloader = dict(batch_size=4, dataset=dict(type='Inner'))
val_dataloader = dict(batch_size=4, dataset=dict(type='Inner'))
val_evaluator = dict(type='CocoMetric')
"""
SPACE = "space = {'optim_wrapper.optimizer.lr': dict(low=1e-4, high=1.0, log=True)}\n"
LR = 'optim_wrapper.optimizer.lr'


@RUNNERS.register_module(force=True)
class FakeRunner:
    """Counts epochs in ``epoch_*.pth``, so that a trial that is retried continues."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.folder, self.hooks = cfg, Path(cfg.work_dir), []

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'FakeRunner':
        return cls(cfg)

    def register_hook(self, hook, priority) -> None:
        self.hooks.append(hook)

    def train(self) -> None:
        lr, epochs = self.cfg.optim_wrapper.optimizer.lr, self.cfg.train_cfg.max_epochs
        if lr > 0.5:
            raise RuntimeError('CUDA out of memory')
        self.folder.mkdir(parents=True, exist_ok=True)
        done = len(list(self.folder.glob('epoch_*.pth'))) if self.cfg.resume else 0
        with (self.folder / 'starts.txt').open('a') as file:
            file.write(f'{done} {lr}\n')
        for self.epoch in range(done + 1, epochs + 1):
            (self.folder / f'epoch_{self.epoch}.pth').write_text('')
            score = self.epoch / epochs * (0.8 - abs(math.log10(lr / 0.1)) / 10) if lr <= 0.3 else math.nan
            for hook in self.hooks:
                hook.after_val_epoch(self, {'coco/bbox_mAP': score})
            die = os.environ.get('DIE_IN')  # 'trial_001 3 SIGKILL'
            if die and die.split()[:2] == [self.folder.name, str(self.epoch)] and not done:
                os.kill(os.getpid(), getattr(signal, die.split()[2]))


def make_tuner(folder: Path, **arguments) -> Tuner:
    """A tuner on the fake runner, with fast heartbeats."""
    study.HEARTBEAT, study.GRACE = 1, int(os.environ.get('GRACE', 2))
    folder.mkdir(exist_ok=True)
    if not (folder / 'space.py').exists():  # another process may be reading them
        (folder / 'config.py').write_text(CONFIG)
        (folder / 'space.py').write_text(SPACE)
    return Tuner(folder / 'config.py', folder / 'space.py', folder / 'study', **arguments)


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    make_tuner(Path(sys.argv[1]), storage=sys.argv[3] if len(sys.argv) > 3 else None).run(int(sys.argv[2]))
