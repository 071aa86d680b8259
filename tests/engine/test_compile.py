"""torch.compile of parts: the same training, the same names, plain validation, and clear errors."""

import shutil
import sysconfig

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from toy_runner import RECIPE_HOOKS, ToyDataset, ToyModel, toy_runner

from mmyolo_ext.engine.prepare_model import check_compiler, compile_parts, prepare_model

seen: list[str] = []


def counting(graph, inputs):
    """A backend that records each graph."""
    seen.append(str(graph.code))
    return graph.forward


torch._dynamo.register_backend(counting)


class Backbone(nn.Module):
    """Of a class of its own: PyTorch does not compile the ``forward`` of its own layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 2)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class Network(BaseModel):
    """A backbone and a loss, which is a sum over the samples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone()
        self.linear = nn.Linear(9, 1)

    def forward(self, x, mode='loss'):
        out = self.linear(self.backbone(x[:, None]).flatten(1))
        return {'loss': ((out - x.sum(1, keepdim=True)) ** 2).sum()} if mode == 'loss' else [out]


def train(work_dir, backend: str | None = 'counting', **settings):
    config = {'compile_parts': {'backend': backend}} if backend else None
    runner = toy_runner(work_dir, model=Network(), hooks=RECIPE_HOOKS, config=config, **settings)
    runner.train()
    return runner


def saved(work_dir, epoch: int) -> dict[str, torch.Tensor]:
    """Weights and EMA of a checkpoint."""
    checkpoint = torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)
    parts = ('state_dict', 'ema_state_dict')
    return {f'{part} {name}': value for part in parts for name, value in checkpoint[part].items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(autouse=True)
def forget() -> None:
    torch._dynamo.reset()
    seen.clear()


def test_the_same_training_and_checkpoints(tmp_path) -> None:
    train(tmp_path / 'plain', None)
    assert not seen
    train(tmp_path / 'compiled')
    assert len(seen) == 1
    assert same(saved(tmp_path / 'plain', 4), saved(tmp_path / 'compiled', 4))


def test_resuming_with_and_without(tmp_path) -> None:
    train(tmp_path / 'whole', max_epochs=2, param_scheduler=None)
    for first, second in (('counting', None), (None, 'counting')):
        work_dir = tmp_path / str(first)
        train(work_dir, first, max_epochs=1, param_scheduler=None)
        start = {'load_from': str(work_dir / 'epoch_1.pth'), 'resume': True}
        train(work_dir, second, max_epochs=2, param_scheduler=None, **start)
        assert same(saved(work_dir, 2), saved(tmp_path / 'whole', 2))


class Nothing(BaseMetric):
    """Counts predictions."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'images': len(results)}


def test_validation_is_not_compiled(tmp_path) -> None:
    sizes = {'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'batch_size': 3}  # others than in training
    train(
        tmp_path,
        max_epochs=3,
        val_dataloader={'dataset': ToyDataset(6), 'collate_fn': {'type': 'default_collate'}, **sizes},
        val_cfg={'type': 'ValLoop'},
        val_evaluator=[Nothing()],
    )
    assert len(seen) == 1  # training uses it again after validation


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"backend of compile_parts must be one of \[.*'eager'.*, got 'fast'"):
        compile_parts(Network(), 'fast')


def test_the_key_takes_a_dict() -> None:
    with pytest.raises(ValueError, match=r'compile_parts must be a dict .*, got True'):
        prepare_model(Network(), {'compile_parts': True})


def test_missing_parts(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"ToyModel has no part \['neck'\] to compile.*'conv', 'norm'"):
        compile_parts(ToyModel(), 'eager', ['conv', 'neck'])
    with pytest.raises(ValueError, match=r"ToyModel has no part \('backbone', 'neck'\)"):
        compile_parts(ToyModel(), 'eager')


def test_a_missing_compiler_or_header_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(ValueError, match=r'needs a C\+\+ compiler \(g\+\+, clang\+\+, c\+\+\): install'):
        check_compiler('cpu')
    monkeypatch.setenv('CXX', 'icpx')
    monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r'needs a C\+\+ compiler \(icpx\) and Python\.h'):
        check_compiler('cpu')
    monkeypatch.setattr(shutil, 'which', lambda name: name)
    (tmp_path / 'Python.h').touch()
    check_compiler('cpu')
