"""Several processes, with or without GPUs."""

import datetime
import os

import torch
from mmengine.config import Config
from torch import distributed

from mmyolo_ext.apis.shortcuts import fit_rect_batches

# where each launcher says which process this is: (rank, number of processes, rank on this machine)
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
STARTERS = {'pytorch': 'tools/dist_train.sh or torchrun', 'slurm': 'tools/slurm_train.sh or srun', 'mpi': 'mpirun'}


def prepare_processes(cfg: Config, launcher: str) -> None:
    """Make a config ready for ``launcher``; without a GPU, also join the process group.

    MMEngine's launchers assume a GPU for each process. Where there is none, the processes join by gloo here, before
    the runner is built, and the model wrapper is told that no device belongs to it.

    Raises:
        ValueError: If the variables that the launcher sets are not there.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    rank, world_size, local_rank = _read_variables(launcher)
    fit_rect_batches(cfg, world_size)
    if torch.cuda.is_available():
        return
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
    if not distributed.is_initialized():
        distributed.init_process_group('gloo', timeout=datetime.timedelta(seconds=timeout))
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **cfg.get('model_wrapper_cfg', {}),
        'device_ids': None,
    }


def leave_processes() -> None:
    """Leave the process group, if one was joined, so that the last line is not a warning about it."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _read_variables(launcher: str) -> tuple[int, int, int]:
    names = VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs the variables {missing}, which {STARTERS[launcher]} sets: start it with that'
        )
    rank, world_size, local_rank = (int(os.environ[name]) for name in names)
    return rank, world_size, local_rank
