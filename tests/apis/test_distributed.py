"""What a config gets for several processes; the processes themselves run in tests/launch."""

import datetime
import os

import pytest
from mmengine.config import Config

from mmyolo_ext.apis import distributed, recipe
from mmyolo_ext.apis.distributed import first_host, prepare_processes
from mmyolo_ext.cli import common
from mmyolo_ext.cli.train import parse_args

VARIABLES = {'RANK': '1', 'WORLD_SIZE': '3', 'LOCAL_RANK': '1'}


@pytest.fixture
def joined(monkeypatch):
    """Record calls that join the group in place of joining."""
    calls = []
    monkeypatch.setattr(
        distributed.distributed, 'init_process_group', lambda backend, timeout: calls.append((backend, timeout))
    )
    monkeypatch.setattr(distributed.torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(distributed, 'check_ranks', lambda cfg, loaders: None)
    monkeypatch.setattr(distributed.os, 'environ', {})
    return calls


def rect_config(**dist_cfg: object) -> Config:
    rect = {'type': 'mmyolo_ext.RectBatchDataset', 'batch_size': 4}
    return Config({'val_dataloader': {'batch_size': 4, 'dataset': rect}, 'env_cfg': {'dist_cfg': dist_cfg}})


def with_variables(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    for name, value in zip(distributed.VARIABLES[launcher], VARIABLES.values(), strict=True):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_without_a_gpu_the_processes_join_by_gloo(joined, monkeypatch, launcher):
    with_variables(monkeypatch, launcher)
    cfg = rect_config()
    prepare_processes(cfg, launcher)
    assert joined == [('gloo', datetime.timedelta(minutes=10))]
    assert cfg.model_wrapper_cfg.device_ids is None and cfg.launcher == launcher
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES


def test_with_gpus_each_process_joins_by_the_backend_of_the_config_on_its_gpu(joined, monkeypatch):
    devices = []
    monkeypatch.setattr(distributed.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(distributed.torch.cuda, 'set_device', devices.append)
    with_variables(monkeypatch, 'pytorch')
    cfg = rect_config(backend='nccl', timeout=90)
    prepare_processes(cfg, 'pytorch')
    assert joined == [('nccl', datetime.timedelta(seconds=90))] and devices == [1]
    assert 'model_wrapper_cfg' not in cfg


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_one_visible_gpu_is_enough_under_slurm_only(joined, monkeypatch, launcher):
    devices = []
    monkeypatch.setattr(distributed.torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(distributed.torch.cuda, 'set_device', devices.append)
    with_variables(monkeypatch, launcher)
    if launcher == 'slurm':
        prepare_processes(rect_config(), launcher)
        assert devices == [0] and os.environ['LOCAL_RANK'] == '0'
    else:
        with pytest.raises(ValueError, match=r'process 2 on .* has no GPU: it has 1, so start at most 1 processes'):
            prepare_processes(rect_config(), launcher)


def test_slurm_gives_the_address_and_a_port_of_the_job(joined, monkeypatch):
    with_variables(monkeypatch, 'slurm')
    monkeypatch.setenv('SLURM_NODELIST', 'gpu[007-010,15],cpu1')
    monkeypatch.setenv('SLURM_JOB_ID', '41234')
    prepare_processes(rect_config(), 'slurm')
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('gpu007', '11234')  # 10000 + 41234 % 20000


@pytest.mark.parametrize(
    ('nodes', 'first'),
    [
        ('node1', 'node1'),
        ('a1,a2', 'a1'),
        ('n[3,5-7]', 'n3'),
        ('n[08-11]', 'n08'),
        ('r[1-2]n[03-04].lan,x', 'r1n03.lan'),
        ('10.0.0.1,10.0.0.2', '10.0.0.1'),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ('launcher', 'variables', 'here'),
    [
        ('slurm', {'SLURM_TASKS_PER_NODE': '8(x3),4', 'SLURM_NODEID': '2'}, 8),
        ('slurm', {'SLURM_TASKS_PER_NODE': '8(x3),4', 'SLURM_NODEID': '3'}, 4),
        ('slurm', {'SLURM_TASKS_PER_NODE': '1', 'SLURM_STEP_TASKS_PER_NODE': '2,6', 'SLURM_NODEID': '1'}, 6),
        ('slurm', {}, 28),
        ('mpi', {'OMPI_COMM_WORLD_LOCAL_SIZE': '4'}, 4),
    ],
)
def test_ranks_are_counted_before_the_recipe(joined, monkeypatch, launcher, variables, here):
    for name, value in zip(distributed.VARIABLES[launcher], ('9', '28', '1'), strict=True):
        monkeypatch.setenv(name, value)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = {}

    def read_run_config(*args):
        seen.update({name: os.environ.get(name) for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')})
        return Config({'work_dir': 'a'})

    monkeypatch.setattr(common, 'read_run_config', read_run_config)
    common.load_for_run(parse_args(['a.py', '--launcher', launcher]))
    assert seen == {'RANK': '9', 'WORLD_SIZE': '28', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': str(here)}


def test_slurm_says_how_many_cores_a_task_has(monkeypatch):
    cfg = Config({'train_dataloader': {'dataset': {}}, 'optim_wrapper': {'optimizer': {'type': 'SGD'}}})
    monkeypatch.setattr(recipe, 'read_data', lambda cfg: (100, (), None, (64, 64)))
    monkeypatch.setattr(recipe, 'cores', lambda: 64)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '8')
    monkeypatch.setenv('WORLD_SIZE', '16')
    assert (recipe.facts_of(cfg).cores, recipe.facts_of(cfg).ranks) == (8, 16)  # 64 / 8
    monkeypatch.setenv('SLURM_CPUS_PER_TASK', '5')
    assert recipe.facts_of(cfg).cores == 5


def test_several_machines_of_mpi_need_an_address(joined, monkeypatch):
    with_variables(monkeypatch, 'mpi')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_SIZE', '2')
    with pytest.raises(ValueError, match='mpirun -x MASTER_ADDR=HOST'):
        prepare_processes(rect_config(), 'mpi')
    monkeypatch.setenv('MASTER_ADDR', 'node1')
    prepare_processes(rect_config(), 'mpi')
    assert len(joined) == 1


def test_a_launcher_that_did_not_launch_is_an_error(joined):
    with pytest.raises(
        ValueError, match=r"\['RANK', 'WORLD_SIZE', 'LOCAL_RANK'\], which tools/dist_train.sh or torchrun sets"
    ):
        prepare_processes(rect_config(), 'pytorch')
