"""What a config gets for several processes; the processes themselves run in tests/tools."""

import pytest
from mmengine.config import Config

from mmyolo_ext.apis import distributed
from mmyolo_ext.apis.distributed import prepare_processes

VARIABLES = {'RANK': '1', 'WORLD_SIZE': '3', 'LOCAL_RANK': '1'}


@pytest.fixture
def joined(monkeypatch):
    """Calls that join the group, recorded instead of made."""
    calls = []
    monkeypatch.setattr(distributed.distributed, 'init_process_group', lambda *args, **kwargs: calls.append(args))
    monkeypatch.setattr(distributed.torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(distributed.os, 'environ', {})
    return calls


def rect_config() -> Config:
    rect = {'type': 'mmyolo_ext.RectBatchDataset', 'batch_size': 4}
    return Config({'val_dataloader': {'batch_size': 4, 'dataset': rect}})


def test_one_process_joins_nothing(joined):
    cfg = rect_config()
    prepare_processes(cfg, 'none')
    assert joined == [] and 'model_wrapper_cfg' not in cfg and cfg.val_dataloader.dataset.batch_size == 4


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_without_a_gpu_the_processes_join_by_gloo(joined, monkeypatch, launcher):
    for name, value in zip(distributed.VARIABLES[launcher], VARIABLES.values(), strict=True):
        monkeypatch.setenv(name, value)
    cfg = rect_config()
    prepare_processes(cfg, launcher)
    assert joined == [('gloo',)]
    assert cfg.model_wrapper_cfg.device_ids is None and cfg.launcher == launcher
    assert cfg.val_dataloader.dataset.batch_size == 12  # pictures that run together on three ranks
    assert {name: distributed.os.environ[name] for name in VARIABLES} == VARIABLES


def test_with_gpus_joining_is_left_to_mmengine(joined, monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, 'is_available', lambda: True)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    cfg = rect_config()
    prepare_processes(cfg, 'pytorch')
    assert joined == [] and 'model_wrapper_cfg' not in cfg


def test_a_launcher_that_did_not_launch_is_an_error(joined):
    with pytest.raises(
        ValueError, match=r"\['RANK', 'WORLD_SIZE', 'LOCAL_RANK'\], which tools/dist_train.sh or torchrun sets"
    ):
        prepare_processes(rect_config(), 'pytorch')
