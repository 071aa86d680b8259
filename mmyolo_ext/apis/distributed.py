"""Join the processes of a run, with or without GPUs."""

import datetime
import os
import re
import signal
import socket
from collections.abc import Sequence

import torch
from mmengine.config import Config
from torch import distributed

from mmyolo_ext.apis.config import fit_rect_batches
from mmyolo_ext.apis.rank_check import check_ranks
from mmyolo_ext.engine.stopping import end_with_parent

# Where each launcher says which process this is: (rank, number of processes, rank on this machine).
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
STARTERS = {'pytorch': 'tools/dist_train.sh or torchrun', 'slurm': 'tools/slurm_train.sh or srun', 'mpi': 'mpirun'}
LAUNCHER_PID = 'MMYOLO_EXT_LAUNCHER_PID'  # set by tools/launch.py
TIMEOUT_S = 600
DEFAULT_PORT = 29500


def prepare_processes(
    cfg: Config, launcher: str, loaders: Sequence[str] = ('train_dataloader', 'val_dataloader')
) -> None:
    """Join the process group and check that all ranks have the same config and data.

    NCCL is used with GPUs, gloo without; MMEngine's launchers assume a GPU for each process. A rank that waits longer
    than ``env_cfg.dist_cfg.timeout`` seconds (default 600) for the others ends with an error.

    Args:
        cfg: The resolved config; what depends on the number of processes is set in place.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        loaders: Names of the loaders in use; their data is compared over ranks.

    Raises:
        ValueError: If the variables that the launcher sets are missing, if there are more processes than GPUs, or if
            ranks differ.
        SystemExit: If the processes do not find each other; with exit code 1, because a restart may help.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    rank, world_size, local_rank = _read_variables(launcher)
    if launcher == 'pytorch':
        end_with_launcher()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    if launcher == 'slurm':
        _set_slurm_address()
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', str(DEFAULT_PORT))
    fit_rect_batches(cfg, world_size)
    if not distributed.is_initialized():
        _join(cfg, launcher, rank, world_size, local_rank)
    if not torch.cuda.is_available():
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **cfg.get('model_wrapper_cfg', {}),
            'device_ids': None,
        }
    if world_size > 1:
        check_ranks(cfg, loaders)


def end_with_launcher() -> None:
    """Let this process receive SIGTERM when torchrun, which started it, is killed; then it saves and ends."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with_parent(signal.SIGTERM, parent=int(os.environ.get(LAUNCHER_PID, os.getppid())))


def first_host(node_list: str) -> str:
    """Return the first host of a slurm node list: ``'gpu[007-010,15],cpu1'`` gives ``'gpu007'``.

    slurm's own ``scontrol show hostnames`` is not installed in many containers.
    """
    host = re.match(r'(?:[^,\[]|\[[^\]]*\])*', node_list)[0]
    return re.sub(r'\[([^\],-]*)[^\]]*\]', r'\1', host)


def _set_slurm_address() -> None:
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST') or ''
    if nodes:
        os.environ.setdefault('MASTER_ADDR', first_host(nodes))
    # Two jobs on one node get different ports, the ranks of a job the same one, below Linux' range for clients.
    job = int(os.environ.get('SLURM_JOB_ID', 0))
    os.environ.setdefault('MASTER_PORT', str(10000 + job % 20000))


def _join(cfg: Config, launcher: str, rank: int, world_size: int, local_rank: int) -> None:
    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    backend = 'gloo'
    if torch.cuda.is_available():
        backend = dist_cfg.get('backend', 'nccl')
        torch.cuda.set_device(_own_gpu(launcher, local_rank))
    seconds = dist_cfg.get('timeout', TIMEOUT_S)
    try:
        distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=seconds))
    except (distributed.DistStoreError, distributed.DistNetworkError) as error:
        where = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        raise SystemExit(
            f'error: rank {rank} of {world_size} (host {socket.gethostname()}) did not find the others at {where} '
            f'within {seconds} s: are all of them started, and is this address reached from here? '
            f'({str(error).splitlines()[0]})'
        ) from error


def _own_gpu(launcher: str, local_rank: int) -> int:
    """Return the index of this process's GPU; slurm can show each task only its own one.

    Raises:
        ValueError: If there are fewer GPUs than processes.
    """
    count = torch.cuda.device_count()
    if launcher == 'slurm' and count == 1:
        os.environ['LOCAL_RANK'] = '0'
        return 0
    if local_rank >= count:
        raise ValueError(
            f'process {local_rank + 1} on {socket.gethostname()} has no GPU: it has {count}, so start at most {count} '
            'processes there'
        )
    return local_rank


def _read_variables(launcher: str) -> tuple[int, int, int]:
    names = VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs the variables {missing}, which {STARTERS[launcher]} sets: start it with that'
        )
    rank, world_size, local_rank = (int(os.environ[name]) for name in names)
    return rank, world_size, local_rank
